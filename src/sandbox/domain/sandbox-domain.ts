import { existsSync } from 'node:fs';
import { freemem } from 'node:os';
import { setTimeout as sleep } from 'node:timers/promises';
import { defined } from '../../defined.ts';
import { isKilnCode, KilnError } from '../../errors.ts';
import { hasErrno } from '../../host/calls/libc.ts';
import type { HeldLock } from '../../host/files/flock.ts';
import type { Connection } from '../../host/libvirt/connection.ts';
import type { Connect } from '../../host/libvirt/sandbox-host.ts';
import { recordProcess } from '../../host/process/recorded-process.ts';
import { sayLater } from '../../host/process/wait-for.ts';
import type { StatePaths } from '../../host/state/paths.ts';
import type { IdRange } from '../../host/state/reservation.ts';
import { span } from '../../host/trace/trace.ts';
import { awaitedLater } from '../../promise.ts';
import { type Channel, INIT_DEADLINE, openChannel } from '../command/channel.ts';
import { setupError } from '../command/failures.ts';
import { lowerOwnRange } from '../labels/relabel.ts';
import { destroySandbox, endDomain, removeSandbox } from './destroy.ts';
import { Container, type Ground } from './ground.ts';
import { ensureBootFiles } from './machine/boot-files.ts';
import { MACHINE_DEADLINE, Machine } from './machine/machine.ts';
import { qemuOf } from './machine/relay.ts';
import { forgetSaved, keepSaved, savedPath } from './machine/saved.ts';
import { hardwareOf, type MachineWish } from './machine/start.ts';
import {
  driverOf,
  type SandboxRecord,
  sandboxFiles,
  writeSandboxRecord,
} from './sandbox-record.ts';
import {
  type KnownSandbox,
  type StartedDomain,
  type StartOptions,
  startDomain,
} from './start-domain.ts';

function groundOf(directory: string, record: SandboxRecord, channel: Channel): Ground {
  const { machine, domain } = record;
  if (machine === undefined) return new Container(channel, domain);
  return new Machine(directory, domain, machine, channel);
}

/** Said while somebody waits for a machine. */
const BOOTS = 'which boots: up to half a minute where it is emulated';

export class SandboxDomain {
  readonly id: string;
  readonly prepared: boolean;
  readonly directory: string;
  readonly range: IdRange;
  readonly channel: Channel;
  readonly ground: Ground;
  record: SandboxRecord;
  readonly paths: StatePaths;
  readonly #lock: HeldLock;
  readonly #connect: Connect;
  #destroyed: Promise<void> | undefined;

  constructor(
    paths: StatePaths,
    { directory, record, lock }: KnownSandbox,
    channel: Channel,
    connect: Connect,
    prepared: boolean,
    ground = groundOf(directory, record, channel),
  ) {
    this.ground = ground;
    this.prepared = prepared;
    this.paths = paths;
    this.id = record.id;
    this.directory = directory;
    this.record = { ...record, ...defined({ init: recordProcess(channel.initPid) }) };
    this.range = record.range;
    this.channel = channel;
    this.#lock = lock;
    this.#connect = connect;
  }

  /**
   * Makes a sandbox of a domain that is being started. While libvirt does the rest, this moves the init into the
   * cgroup for its limits, which takes the kernel long. On failure the lock is released, and the sandbox is left to
   * the sweep, but for a restored machine, which is ended. Throws E_INIT_SILENT, and what `started.domain` rejects
   * with.
   */
  static async create(
    paths: StatePaths,
    started: StartedDomain,
    connect: Connect,
  ): Promise<SandboxDomain> {
    const { directory, record, lock, domain } = started;
    let channel: Channel | undefined;
    try {
      // What is restored has booted before: one that is silent is damaged.
      const boots = record.machine !== undefined && !started.isRestored;
      const within = boots ? MACHINE_DEADLINE : INIT_DEADLINE;
      using _said = boots ? sayLater({ name: 'a machine' }, BOOTS) : undefined;
      channel = await openChannel(sandboxFiles.socket(directory), { domain, within });
      const ground = groundOf(directory, record, channel);
      await ground.settle();
      await domain;
      return new SandboxDomain(paths, started, channel, connect, false, ground);
    } catch (error) {
      await channel?.close();
      // One that boots comes next: both at once would take the memory twice.
      if (started.isRestored)
        await destroySandbox(paths, directory, record, () => connect(driverOf(record))).catch(
          () => undefined,
        );
      await lock.release();
      // If the domain failed to start, this throws the reason. The start of a guest that hangs never ends.
      if (!isKilnCode(error, 'E_INIT_SILENT')) await domain;
      throw error;
    }
  }

  /** Connects to a sandbox that runs already, parked or kept. On failure the lock is released. */
  static async attach(
    paths: StatePaths,
    found: KnownSandbox,
    connect: Connect,
  ): Promise<SandboxDomain> {
    using _ = span('connect to the init');
    lowerOwnRange();
    try {
      const channel = await openChannel(sandboxFiles.socket(found.directory));
      return new SandboxDomain(paths, found, channel, connect, true);
    } catch (error) {
      await found.lock.release();
      throw error;
    }
  }

  describe(use: Partial<SandboxRecord>): void {
    this.record = { ...this.record, ...use };
  }

  writeRecord(): void {
    try {
      writeSandboxRecord(this.directory, this.record);
    } catch (error) {
      if (hasErrno(error, 'ENOENT')) {
        throw new KilnError('E_SANDBOX_GONE', `the sandbox ${this.id} is gone`, {
          cause: error,
          hint: 'somebody has destroyed it; `kiln ps` lists those that are there',
        });
      }
      throw new KilnError('E_STATE', `cannot write to ${this.directory}`, {
        cause: error,
        hint: 'make room there, or name another folder in KILN_STATE',
      });
    }
  }

  async prepare(message: Buffer): Promise<void> {
    const { labels } = this.record;
    const prepared = awaitedLater(
      this.channel.ask((answer) => {
        if (answer.type === 'failed')
          throw setupError(answer, { sources: [], ...{ binds: [], guestBinds: [] }, labels });
        return answer.type === 'done' ? true : undefined;
      }),
    );
    this.channel.send(message);
    await prepared;
  }

  async abandon(): Promise<void> {
    await this.channel.close();
    await this.#lock.release();
  }

  destroy(): Promise<void> {
    this.#destroyed ??= awaitedLater(this.#destroy());
    return this.#destroyed;
  }

  async #destroy(): Promise<void> {
    try {
      const { domain, init, machine } = this.record;
      const qemu = machine && qemuOf(this.directory, machine.relay);
      const connect = () => this.#connect(driverOf(this.record));
      const tell = async () => {
        await this.channel.close();
        this.ground.end();
      };
      await endDomain(this.paths, domain, init, connect, tell, qemu);
      using _ = span('remove the sandbox');
      await removeSandbox(this.paths, this.directory, this.record);
    } finally {
      // If that fails, the sweep removes what is left.
      await this.#lock.release();
    }
  }
}

/**
 * Starts a sandbox up to its init: a container, or a machine that is restored where one like it was saved. On failure
 * it is left to the sweep. Throws what startDomain() and SandboxDomain.create() throw.
 */
export async function createSandbox(
  paths: StatePaths,
  connection: Connection,
  options: StartOptions,
  connect: Connect = async () => connection,
): Promise<{ readonly started: StartedDomain; readonly sandbox: SandboxDomain }> {
  const started = await startDomain(paths, connection, options);
  try {
    return { started, sandbox: await SandboxDomain.create(paths, started, connect) };
  } catch (error) {
    if (!started.isRestored) throw error;
    // A saved machine that is damaged must keep nobody from one that boots.
    if (started.savedPath !== undefined) forgetSaved(started.savedPath);
    return await createSandbox(paths, connection, { ...options, start: 'boots' }, connect);
  }
}

/** How often over the host must have the memory of one that is to be saved. */
const SPARE = 2;

/** After a failure it is tried again, ms: the disk may have been full, or the host busy. */
const SAVE_AGAIN = 600_000;

/** Machines that could not be saved, and when that was. */
const unsavable = new Map<string, number>();

const saving = new Map<string, Promise<void>>();

/** Sees to it that machines like this one are restored from now on: boots one, which takes long, and saves it. */
export async function ensureSaved(
  paths: StatePaths,
  connection: Connection,
  machine: MachineWish,
): Promise<void> {
  const { virtiofsd, ...hardware } = await hardwareOf(paths, await ensureBootFiles(paths), machine);
  const path = savedPath(paths, hardware, virtiofsd);
  if (path === undefined || existsSync(path)) return;
  if (Date.now() - (unsavable.get(path) ?? 0) < SAVE_AGAIN) return;
  // Until it is saved it takes all the memory that it is given.
  if (freemem() < SPARE * hardware.memory) return;
  const saved = saving.get(path) ?? awaitedLater(saveMachine(paths, connection, machine, path));
  saving.set(path, saved);
  try {
    await saved;
  } catch {
    // A libvirt that cannot do it, or a full disk: machines boot then.
    unsavable.set(path, Date.now());
  } finally {
    saving.delete(path);
  }
}

/** Until it is saved it is a sandbox as others, and is swept as they are. */
async function saveMachine(
  paths: StatePaths,
  connection: Connection,
  machine: MachineWish,
  path: string,
): Promise<void> {
  const { directory, record, lock, domain } = await startDomain(paths, connection, {
    network: 'private',
    label: { kind: 'auto' },
    machine,
    start: 'saved',
    parked: true,
  });
  try {
    const booted = await Promise.race([domain, sleep(MACHINE_DEADLINE, undefined, { ref: false })]);
    if (booted === undefined) {
      throw new KilnError('E_MACHINE', 'the machine that is to be saved does not come up', {
        hint: '`kiln doctor machines` tells whether a guest starts',
      });
    }
    await keepSaved(paths, path, (to) => booted.suspendTo(to));
  } finally {
    await destroySandbox(paths, directory, record, async () => connection).finally(() =>
      lock.release(),
    );
  }
}
