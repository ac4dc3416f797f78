/** Parks sandboxes: started and prepared ahead, each with its owner's lock held. */
import { existsSync } from 'node:fs';
import type { HeldLock } from '../../host/files/flock.ts';
import type { Connection } from '../../host/libvirt/connection.ts';
import { isListedNow } from '../../host/libvirt/controllers.ts';
import type { StatePaths } from '../../host/state/paths.ts';
import { span } from '../../host/trace/trace.ts';
import { deferred } from '../../promise.ts';
import { setupFailed } from '../command/failures.ts';
import { labelOperation } from '../labels/request.ts';
import { procOperations } from '../policy/filesystem.ts';
import { encodeRequest } from '../wire/encode.ts';
import { destroyDomain } from './remove-sandbox.ts';
import { SandboxDomain } from './sandbox-domain.ts';
import {
  isExpired,
  PARKED_LIFETIME,
  type SandboxRecord,
  sandboxFiles,
  writeSandboxRecord,
} from './sandbox-record.ts';
import { startDomain } from './start-domain.ts';
import { destroySandbox } from './sweep.ts';

/** A sandbox with less time left is not claimed, milliseconds. */
const LAST_MOMENT = 5000;

/**
 * How many sandboxes in a row are ended because libvirt lost sight of them; a parked sandbox must be able to
 * end without kiln. After that many, one is parked in spite of it. See Domain.isWatched().
 */
const LOST_MAX = 5;

/**
 * How many are started at once. libvirt gets three calls at most (pool.ts), and one is left for a run that
 * needs a sandbox now.
 */
const AT_ONCE = 2;

/** A parked sandbox. The holder of its lock owns it. */
export interface ParkedSandbox {
  readonly directory: string;
  readonly record: SandboxRecord;
  readonly lock: HeldLock;
}

/** Starts and ends sandboxes. */
interface Starter {
  readonly paths: StatePaths;
  readonly connect: () => Promise<Connection>;
}

/**
 * The parked sandboxes of this process. They lose their owner when it ends, and the next sweep removes them.
 */
export class ParkingLot {
  readonly #starter: Starter;
  #waiting: ParkedSandbox[] = [];
  /** How many are starting, and the takers who wait for one of those. */
  #starting = 0;
  readonly #takers: PromiseWithResolvers<ParkedSandbox | undefined>[] = [];

  constructor(starter: Starter) {
    this.#starter = starter;
  }

  /** All parked sandboxes. */
  get waiting(): readonly ParkedSandbox[] {
    return this.#waiting;
  }

  /** How many are parked, without those that expired or were destroyed. */
  get count(): number {
    return this.#waiting.filter((parked) => stillWaits(parked, Date.now())).length;
  }

  /** Takes a parked sandbox, if there is one. */
  take(): ParkedSandbox | undefined {
    const soon = Date.now() + LAST_MOMENT;
    const at = this.#waiting.findIndex((parked) => stillWaits(parked, soon));
    return at === -1 ? undefined : this.#waiting.splice(at, 1)[0];
  }

  /**
   * Like {@link take}. If none is parked but one is starting, waits for that one, which is quicker than
   * starting another.
   */
  async takeNext(): Promise<ParkedSandbox | undefined> {
    const waiting = this.take();
    if (waiting !== undefined || this.#takers.length >= this.#starting) return waiting;
    const taker = deferred<ParkedSandbox | undefined>();
    this.#takers.push(taker);
    return await taker.promise;
  }

  /**
   * Starts missing sandboxes, a few at a time, and ends expired ones.
   * @param wanted how many are to wait; asked again before each, and none is started where it is fewer
   * @param lifetime how long each of them is to wait, milliseconds
   * @throws what starting a sandbox throws
   */
  async fill(wanted: () => number, lifetime = PARKED_LIFETIME): Promise<void> {
    await this.#end(this.#waiting.filter((parked) => !stillWaits(parked, Date.now())));
    let lost = 0;
    for (let missing = wanted() - this.count; missing > 0; missing = wanted() - this.count) {
      const starts = Array.from({ length: Math.min(missing, AT_ONCE) }, async () => {
        const isThere = await this.#start(lifetime, lost < LOST_MAX);
        lost = isThere ? 0 : lost + 1;
      });
      const ends = await Promise.allSettled(starts);
      for (const end of ends) if (end.status === 'rejected') throw end.reason;
    }
  }

  /**
   * Starts one and parks it or gives it to a taker. False if libvirt lost sight of it.
   * @throws what starting a sandbox throws
   */
  async #start(lifetime: number, mustBeWatched: boolean): Promise<boolean> {
    const { paths, connect } = this.#starter;
    let parked: ParkedSandbox | undefined;
    this.#starting++;
    try {
      parked = await park(paths, await connect(), lifetime, mustBeWatched);
    } finally {
      this.#starting--;
      const taker = this.#takers.shift();
      if (taker !== undefined) taker.resolve(parked);
      else if (parked !== undefined) this.#waiting.push(parked);
    }
    return parked !== undefined;
  }

  /** Ends the parked sandboxes. Throws E_DESTROY. */
  async clear(): Promise<void> {
    await this.#end(this.#waiting);
  }

  async #end(these: readonly ParkedSandbox[]): Promise<void> {
    this.#waiting = this.#waiting.filter((parked) => !these.includes(parked));
    const { paths, connect } = this.#starter;
    for (const { directory, record, lock } of these) {
      try {
        if (existsSync(directory)) await destroySandbox(paths, directory, record, connect);
      } finally {
        await lock.release();
      }
    }
  }
}

function stillWaits({ directory, record }: ParkedSandbox, now: number): boolean {
  return !isExpired(record, now) && existsSync(sandboxFiles.record(directory));
}

/**
 * Starts one sandbox and parks it. If it `mustBeWatched` and libvirt lost sight of it, ends it and returns
 * undefined.
 */
async function park(
  paths: StatePaths,
  connection: Connection,
  lifetime: number,
  mustBeWatched: boolean,
): Promise<ParkedSandbox | undefined> {
  using _ = span('park a sandbox');
  const started = await startDomain(paths, connection, {
    network: 'private',
    label: { kind: 'auto' },
    autodestroy: false,
  });
  const sandbox = await SandboxDomain.own(paths, started, async () => connection);
  try {
    await prepare(sandbox, lifetime);
  } catch (error) {
    await sandbox.destroy();
    throw error;
  }
  const domain = await started.domain;
  if (mustBeWatched && !(await domain.isWatched()) && isListedNow(domain.name)) {
    try {
      // Through libvirt, because the init is waiting already.
      await destroyDomain(connection, domain.name);
    } finally {
      await sandbox.destroy();
    }
    return undefined;
  }
  const { directory, lock } = started;
  const record = { ...started.record, parked: true } as const;
  writeSandboxRecord(directory, record);
  return { directory, record, lock };
}

/** Has a sandbox's init prepare what every sandbox needs, and leaves it parked. */
async function prepare({ record, channel }: SandboxDomain, lifetime: number): Promise<void> {
  const made = [...labelOperation(record.labels), ...procOperations()];
  const wait = { op: 'wait', seconds: Math.ceil(lifetime / 1000) } as const;
  channel.send(encodeRequest('prepare', [...made, wait]));
  await channel.ask((answer) => {
    if (answer.type === 'failed') {
      throw setupFailed(answer, { sources: [], binds: [], labels: record.labels });
    }
    return answer.type === 'done' ? true : undefined;
  });
  await channel.close();
}
