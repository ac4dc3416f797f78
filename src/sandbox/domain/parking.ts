import { existsSync } from 'node:fs';
import { ProcessCgroups } from '../../host/cgroup/cgroup-files.ts';
import type { Connection } from '../../host/libvirt/connection.ts';
import { isListedNow } from '../../host/libvirt/controllers.ts';
import type { ParkedWish, SandboxHost } from '../../host/libvirt/sandbox-host.ts';
import { hasEnded } from '../../host/process/recorded-process.ts';
import type { StatePaths } from '../../host/state/paths.ts';
import { span } from '../../host/trace/trace.ts';
import { allEnds, deferred } from '../../promise.ts';
import { labelOperation } from '../labels/labels.ts';
import { procOperations } from '../policy/filesystem.ts';
import { encodeRequest } from '../wire/codec.ts';
import { destroySandbox, endDomain } from './destroy.ts';
import { ownMemory } from './machine/memory.ts';
import type { MachineWish } from './machine/start.ts';
import { createSandbox, ensureSaved } from './sandbox-domain.ts';
import {
  driverOf,
  isExpired,
  PARKED_LIFETIME,
  type SandboxRecord,
  sandboxFiles,
} from './sandbox-record.ts';
import type { KnownSandbox } from './start-domain.ts';

/** A sandbox with less time left is not claimed, milliseconds. */
const LAST_MOMENT = 5000;

/**
 * A parked sandbox must be able to end without kiln: libvirt has to watch its controller (Domain.isWatched()), which
 * it sometimes fails to do. Such a sandbox is destroyed; after five in a row, one is parked all the same.
 */
const LOST_MAX = 5;

/** libvirt gets three calls at most at a time (src/host/libvirt/pool.ts), and one is left for a run that needs a sandbox now. */
const AT_ONCE = 2;

interface Taker extends PromiseWithResolvers<KnownSandbox | undefined> {
  readonly wish: ParkedWish;
}

export class ParkingLot {
  readonly #starter: SandboxHost;
  readonly #machine: () => MachineWish | undefined;
  #parked: KnownSandbox[] = [];
  #starting = 0;
  readonly #takers: Taker[] = [];

  /** @param machine asked before each start: what is parked are such machines, or containers */
  constructor(starter: SandboxHost, machine: () => MachineWish | undefined = () => undefined) {
    this.#starter = starter;
    this.#machine = machine;
  }

  get parked(): readonly KnownSandbox[] {
    return this.#parked;
  }

  get count(): number {
    return this.#parked.filter((parked) => isUsable(parked, Date.now())).length;
  }

  take(wish: ParkedWish): KnownSandbox | undefined {
    const soon = Date.now() + LAST_MOMENT;
    const at = this.#parked.findIndex((parked) => isUsable(parked, soon) && fits(parked, wish));
    return at === -1 ? undefined : this.#parked.splice(at, 1)[0];
  }

  /** If none is parked but one is starting, waits for that one, which is quicker than starting another. */
  async takeNext(wish: ParkedWish): Promise<KnownSandbox | undefined> {
    const parked = this.take(wish);
    if (parked !== undefined || this.#takers.length >= this.#starting) return parked;
    const taker = deferred<KnownSandbox | undefined>();
    this.#takers.push({ ...taker, wish });
    return await taker.promise;
  }

  /**
   * Starts missing sandboxes, a few at a time, and ends expired ones, those of another size, and those that are too many.
   * @param wanted how many are to be parked; asked again before each, and none is started where it is fewer
   * @param lifetime how long each of them stays parked, milliseconds
   * @throws what starting a sandbox throws
   */
  async fill(wanted: () => number, lifetime = PARKED_LIFETIME): Promise<void> {
    const memory = sandboxMemory(this.#machine());
    const usable = this.#parked.filter(
      (parked) => isUsable(parked, Date.now()) && parked.record.machine?.sandboxMemory === memory,
    );
    const stay = usable.slice(0, wanted());
    await this.#end(this.#parked.filter((parked) => !stay.includes(parked)));
    let lost = 0;
    for (let missing = wanted() - this.count; missing > 0; missing = wanted() - this.count) {
      const start = async () => {
        const isThere = await this.#start(lifetime, lost < LOST_MAX);
        lost = isThere ? 0 : lost + 1;
      };
      await allEnds(Array.from({ length: Math.min(missing, AT_ONCE) }, start));
    }
  }

  async #start(lifetime: number, mustBeWatched: boolean): Promise<boolean> {
    const { paths, connect } = this.#starter;
    const machine = this.#machine();
    let parked: KnownSandbox | undefined;
    this.#starting++;
    try {
      const connection = await connect(machine === undefined ? 'lxc' : 'qemu');
      parked = await park(paths, connection, { machine, lifetime, mustBeWatched });
    } finally {
      this.#starting--;
      const taker = this.#takers.shift();
      const given = parked && taker && fits(parked, taker.wish) ? parked : undefined;
      taker?.resolve(given);
      if (parked !== undefined && given === undefined) this.#parked.push(parked);
    }
    return parked !== undefined;
  }

  async clear(): Promise<void> {
    await this.#end(this.#parked);
  }

  async #end(these: readonly KnownSandbox[]): Promise<void> {
    this.#parked = this.#parked.filter((parked) => !these.includes(parked));
    const { paths, connect } = this.#starter;
    const endOne = async ({ directory, record, lock }: KnownSandbox) => {
      await using _lock = lock;
      if (existsSync(directory)) await destroySandbox(paths, directory, record, connect);
    };
    await allEnds(these.map(endOne));
  }
}

function isUsable({ directory, record }: KnownSandbox, now: number): boolean {
  if (record.machine !== undefined && hasEnded(record.machine.relay)) return false;
  return !isExpired(record, now) && existsSync(sandboxFiles.record(directory));
}

function sandboxMemory(machine: MachineWish | undefined): number | undefined {
  return machine && (machine.limits.memory ?? ownMemory());
}

/** Whether it has what a command asks for, and no more than its caller may have. */
function fits({ record: { machine } }: { readonly record: SandboxRecord }, wish: ParkedWish) {
  if (wish.isolation === 'container' || machine === undefined) {
    return wish.isolation === 'container' && machine === undefined;
  }
  const { sandboxMemory, accelerator } = machine;
  const { memory, most = Number.POSITIVE_INFINITY, mayBeEmulated } = wish;
  return (
    sandboxMemory >= memory && sandboxMemory <= most && (accelerator === 'kvm' || mayBeEmulated)
  );
}

async function park(
  paths: StatePaths,
  connection: Connection,
  options: {
    readonly machine: MachineWish | undefined;
    readonly lifetime: number;
    readonly mustBeWatched: boolean;
  },
): Promise<KnownSandbox | undefined> {
  using _ = span('park a sandbox');
  const { machine, lifetime } = options;
  // As in takeSandbox(): a run may wait for this one.
  ProcessCgroups.primeMove().catch(() => undefined);
  if (machine !== undefined) await ensureSaved(paths, connection, machine);
  const { started, sandbox } = await createSandbox(paths, connection, {
    network: 'private',
    label: { kind: 'auto' },
    parked: true,
    machine,
  });
  try {
    const made = [...labelOperation(sandbox.record.labels), ...procOperations()];
    const wait = { op: 'wait', seconds: Math.ceil(lifetime / 1000) } as const;
    await sandbox.prepare(encodeRequest('prepare', [...made, wait]));
    await sandbox.channel.close();
  } catch (error) {
    await sandbox.destroy();
    throw error;
  }
  const domain = await started.domain;
  // A machine has no controller.
  const mustBeWatched = options.mustBeWatched && driverOf(sandbox.record) === 'lxc';
  if (mustBeWatched && !(await domain.isWatched()) && isListedNow(domain.name)) {
    try {
      // The channel to the init is closed already, which would have ended it.
      await endDomain(paths, domain.name, sandbox.record.init, async () => connection);
    } finally {
      await sandbox.destroy();
    }
    return undefined;
  }
  const { directory, record, lock } = started;
  return { directory, record, lock };
}
