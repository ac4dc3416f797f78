import { randomBytes, randomUUID } from 'node:crypto';
import {
  chmodSync,
  chownSync,
  existsSync,
  mkdirSync,
  renameSync,
  rmdirSync,
  rmSync,
} from 'node:fs';
import { basename, join, relative } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { KilnError } from '../../errors.ts';
import { hasErrno } from '../../host/calls/libc.ts';
import { ProcessCgroups } from '../../host/cgroup/cgroup-files.ts';
import { removeOwnCgroups } from '../../host/cgroup/own-cgroups.ts';
import { acquireLock, type HeldLock } from '../../host/files/flock.ts';
import { removeTree, removeTreeNow } from '../../host/files/remove-tree.ts';
import type { Connection, Domain } from '../../host/libvirt/connection.ts';
import { isWatchedNow } from '../../host/libvirt/controllers.ts';
import { embeddedFiles } from '../../host/libvirt/embedded/files.ts';
import { LibvirtError } from '../../host/libvirt/errors.ts';
import { waitForDeath } from '../../host/process/process.ts';
import { linkState, type StatePaths } from '../../host/state/paths.ts';
import { span } from '../../host/trace/trace.ts';
import { awaitedLater } from '../../promise.ts';
import { type Channel, openChannel } from '../command/channel.ts';
import { planLabels, releaseLabels, type SandboxLabels } from '../labels/labels.ts';
import { labelFile } from '../labels/relabel.ts';
import type { LabelRequest } from '../labels/request.ts';
import { ensureStoreContext, lowerOwnRange } from '../labels/runner.ts';
import { releasePairsOf } from '../labels/selinux.ts';
import type { Owner } from './claim.ts';
import { type DomainOptions, domainXml } from './domain-xml.ts';
import { allocateRange, type IdRange, releaseRange, releaseRangesOf } from './id-range.ts';
import {
  domainOf,
  domainPrefix,
  type SandboxRecord,
  sandboxFiles,
  writeSandboxRecord,
} from './sandbox-record.ts';
import { ensureSkeleton } from './skeleton.ts';

/** How long an init has to die once its socket is closed before libvirt is asked to kill it, ms. */
const DEATH_DEADLINE = 3000;

/** Where a system libvirtd writes a log for each domain, which it never deletes. */
const SYSTEM_DOMAIN_LOGS = '/var/log/libvirt/lxc';

/** Where its controllers have a socket each, and folders to mount on, which are never removed. */
const SYSTEM_DOMAIN_RUN = '/run/libvirt/lxc';

/** Of a domain, in libvirt's folder on /run: empty, mounted on only in its controller's namespace. */
const DOMAIN_FOLDERS = ['dev', 'devpts', 'fuse'];

/** Where a sandbox lives, for what it has claimed. */
function sandboxOwner(paths: StatePaths, id: string): Owner {
  return join(paths.sandboxes, id);
}

/** Makes the folders that sandboxes live in: passable for mapped ids, readable for root only. */
function ensureSandboxDirectories(paths: StatePaths): void {
  for (const directory of [paths.hostRun, paths.run, paths.sandboxes]) {
    mkdirSync(directory, { recursive: true });
    chmodSync(directory, 0o711);
  }
  linkState(paths);
}

/** Folders of sandboxes that no sweep sees yet; each is there for some system calls only. */
export function newDirectory(paths: StatePaths): string {
  return join(paths.run, 'new');
}

/**
 * Makes the folder of a new sandbox, which appears among the others with its owner's lock held: one that
 * can be locked is nobody's, however short it has been there.
 */
async function makeFolder(paths: StatePaths, id: string): Promise<HeldLock> {
  const made = join(newDirectory(paths), id);
  mkdirSync(made, { recursive: true, mode: 0o700 });
  chmodSync(made, 0o711);
  const lock = await acquireLock(sandboxFiles.lock(made));
  renameSync(made, join(paths.sandboxes, id));
  return lock;
}

/** A sandbox that libvirt has been asked for. */
export interface StartedDomain {
  readonly directory: string;
  readonly record: SandboxRecord;
  readonly lock: HeldLock;
  /**
   * When libvirt has started it; its init runs before. Rejects with LibvirtError; nothing is left then,
   * other than what {@link sweepSandboxes} finds.
   */
  readonly domain: Promise<Domain>;
}

/**
 * Asks for a generic sandbox: a domain whose init waits in the skeleton. Nothing is left when it fails, other
 * than what {@link sweepSandboxes} finds.
 */
export async function startDomain(
  paths: StatePaths,
  connection: Connection,
  options: {
    readonly network: DomainOptions['network'];
    readonly label: LabelRequest;
    readonly autodestroy: boolean;
  },
): Promise<StartedDomain> {
  ensureSandboxDirectories(paths);
  await ensureStoreContext(paths);
  const skeleton = await ensureSkeleton(paths);
  const id = randomBytes(5).toString('hex');
  const directory = join(paths.sandboxes, id);
  const lock = await makeFolder(paths, id);
  const owner = sandboxOwner(paths, id);
  const range = await allocateRange(paths, owner);
  let labels: SandboxLabels | undefined;
  const giveBack = async () => {
    await removeOwnCgroups(id);
    await releaseRange(paths, range, owner);
    await releaseLabels(paths, labels, owner);
    await lock.release();
    await removeTree(directory);
  };
  try {
    labels = await planLabels(paths, options.label, owner);
    const record: SandboxRecord = {
      id,
      domain: `${domainPrefix(paths)}${id}`,
      range,
      created: Date.now(),
      skeleton,
      network: options.network,
      ...(labels === undefined ? {} : { labels }),
    };
    writeSandboxRecord(directory, record);
    const socketDirectory = sandboxFiles.socketDirectory(directory);
    mkdirSync(socketDirectory, { mode: 0o700 });
    chownSync(socketDirectory, range.base, range.base);
    if (labels?.files !== undefined) labelFile(socketDirectory, labels.files);
    const xml = domainXml({
      name: record.domain,
      uuid: randomUUID(),
      skeleton: join(paths.link, relative(paths.root, skeleton)),
      socketDirectory,
      range,
      network: options.network,
      ...(labels?.module === 'selinux' ? { context: labels.init } : {}),
    });
    const create = async () => {
      using _ = span('start a domain');
      try {
        return await connection.createDomain(xml, { autodestroy: options.autodestroy });
      } catch (error) {
        if (isRefusal(error)) await giveBack();
        // The domain may be there, or come yet: its folder tells the sweeper of it.
        else await lock.release();
        throw error;
      }
    };
    return { directory, record, lock, domain: awaitedLater(create()) };
  } catch (error) {
    await giveBack();
    throw error;
  }
}

/** Does beforehand what limits have to do first. Whoever limits the sandbox gets to know what is wrong. */
async function moveToItsGroup(initPid: number, id: string): Promise<void> {
  try {
    // Not the sandbox's own cgroups, which are looked up once: the process is somewhere else after this.
    await ProcessCgroups.of(initPid).prepare(initPid, id);
  } catch {
    // It is tried again then.
  }
}

/** Whether libvirt has said that there is no domain. */
function isRefusal(error: unknown): boolean {
  if (!(error instanceof LibvirtError)) return false;
  return error.libvirt !== undefined || error.code === 'E_LIBVIRT_CLOSED';
}

/** A sandbox that is ours: its init waits for, or has got, the one setup message. */
export class SandboxDomain {
  readonly id: string;
  /** Its init has made what every sandbox has; it is never moved to other cgroups again. */
  readonly prepared: boolean;
  readonly directory: string;
  readonly range: IdRange;
  readonly channel: Channel;
  record: SandboxRecord;
  readonly paths: StatePaths;
  readonly #lock: HeldLock;
  readonly #connect: () => Promise<Connection>;
  #cgroups: ProcessCgroups | undefined;
  #destroyed: Promise<void> | undefined;

  constructor(
    paths: StatePaths,
    directory: string,
    record: SandboxRecord,
    channel: Channel,
    lock: HeldLock,
    connect: () => Promise<Connection>,
    prepared: boolean,
  ) {
    this.prepared = prepared;
    this.paths = paths;
    this.id = record.id;
    this.directory = directory;
    this.record = record;
    this.range = record.range;
    this.channel = channel;
    this.#lock = lock;
    this.#connect = connect;
  }

  /**
   * Connects to the init of a sandbox that has been asked for and, while libvirt does the rest, moves it into the
   * group that its limits need, for which the kernel takes long. If that fails, the lock is given up: the
   * sandbox is left to {@link sweepSandboxes}. Throws E_INIT_SILENT, and what `started.domain` rejects with.
   */
  static async own(
    paths: StatePaths,
    started: StartedDomain,
    connect: () => Promise<Connection>,
  ): Promise<SandboxDomain> {
    const { directory, record, lock, domain } = started;
    lowerOwnRange();
    let channel: Channel | undefined;
    try {
      channel = await openChannel(sandboxFiles.socket(directory), domain);
      await moveToItsGroup(channel.initPid, record.id);
      await domain;
      return new SandboxDomain(paths, directory, record, channel, lock, connect, false);
    } catch (error) {
      await channel?.close();
      // Why it has ended.
      await domain;
      await lock.release();
      throw error;
    }
  }

  /** The same for one that was claimed, whose init has made what every sandbox has. Throws E_SANDBOX_GONE. */
  static async claim(
    paths: StatePaths,
    { directory, record, lock }: Omit<StartedDomain, 'domain'>,
    connect: () => Promise<Connection>,
  ): Promise<SandboxDomain> {
    using _ = span('connect to the init');
    lowerOwnRange();
    try {
      const channel = await openChannel(sandboxFiles.socket(directory));
      return new SandboxDomain(paths, directory, record, channel, lock, connect, true);
    } catch (error) {
      await lock.release();
      throw error;
    }
  }

  /** The cgroups of its init, looked up once. */
  get cgroups(): ProcessCgroups {
    this.#cgroups ??= ProcessCgroups.of(this.channel.initPid);
    return this.#cgroups;
  }

  /** Says what the sandbox is used for, which {@link writeRecord} writes. */
  describe(
    use: Pick<SandboxRecord, 'image' | 'command' | 'owner' | 'keepUntil' | 'labels' | 'session'>,
  ): void {
    this.record = { ...this.record, ...use };
  }

  /** Writes sandbox.json. Throws E_STATE. */
  writeRecord(): void {
    try {
      writeSandboxRecord(this.directory, this.record);
    } catch (error) {
      throw new KilnError('E_STATE', `cannot write to ${this.directory}`, {
        cause: error,
        hint: 'make room there, or name another directory in KILN_STATE',
      });
    }
  }

  /** Leaves the sandbox to itself: its owner lets go, it lives until its time is over. */
  async abandon(): Promise<void> {
    await this.channel.close();
    await this.#lock.release();
  }

  /** Ends every process of the sandbox, and gives back what it had. Safe to call again. */
  destroy(): Promise<void> {
    this.#destroyed ??= awaitedLater(this.#destroy());
    return this.#destroyed;
  }

  async #destroy(): Promise<void> {
    try {
      // While its controller lives.
      const watched = isWatchedNow(this.record.domain);
      await this.channel.close();
      const dead = await this.#awaitDeath();
      if (!dead || !watched) {
        await destroyDomain(await this.#connect(), this.record.domain);
      }
      using _ = span('remove the sandbox');
      await removeSandbox(this.paths, this.directory, this.record);
    } finally {
      // What is left when that fails is the sweeper's.
      await this.#lock.release();
    }
  }

  async #awaitDeath(): Promise<boolean> {
    using _ = span('wait for the init’s death');
    return await waitForDeath(this.channel.initPid, DEATH_DEADLINE);
  }
}

/** Folders of sandboxes on their way out; what is found here belongs to nobody. */
export function removedDirectory(paths: StatePaths): string {
  return join(paths.run, 'removed');
}

/** Removes what libvirt leaves of a domain that is gone. */
export function removeDomainFiles(paths: StatePaths, domain: string): void {
  const { domainLogs, domainRun } = embeddedFiles(paths);
  for (const logs of [domainLogs, SYSTEM_DOMAIN_LOGS]) {
    rmSync(join(logs, `${domain}.log`), { force: true });
  }
  for (const run of [domainRun, SYSTEM_DOMAIN_RUN]) {
    for (const kind of DOMAIN_FOLDERS) removeFolder(join(run, `${domain}.${kind}`));
    // Of a controller that was killed.
    rmSync(join(run, `${domain}.sock`), { force: true });
  }
}

/** An empty one, or none. */
function removeFolder(path: string): void {
  // To look is far cheaper than an error.
  if (!existsSync(path)) return;
  try {
    rmdirSync(path);
  } catch (error) {
    if (!hasErrno(error, 'ENOENT', 'ENOTEMPTY', 'ENOTDIR')) throw error;
  }
}

/** Gives back what a sandbox had whose processes are all dead. */
export async function removeSandbox(
  paths: StatePaths,
  directory: string,
  record: SandboxRecord | undefined,
): Promise<void> {
  // They are named by the sandbox's id, as its folder is.
  await removeOwnCgroups(basename(directory));
  removeDomainFiles(paths, domainOf(paths, directory));
  const owner = sandboxOwner(paths, basename(directory));
  if (record === undefined) {
    await releaseRangesOf(paths, owner);
    await releasePairsOf(paths, owner);
  } else {
    await releaseRange(paths, record.range, owner);
    await releaseLabels(paths, record.labels, owner);
  }
  // Out of sight first: a sweep that looks for its lock must not make one in a half-removed folder.
  const removed = join(removedDirectory(paths), basename(directory));
  mkdirSync(removedDirectory(paths), { recursive: true, mode: 0o700 });
  try {
    renameSync(directory, removed);
  } catch (error) {
    if (!hasErrno(error, 'ENOENT')) throw error;
  }
  removeTreeNow(removed);
}

/**
 * Asks libvirt to kill a domain; one that is gone already is fine. systemd-machined, where it runs,
 * may take a domain's cgroup away in the middle of libvirt's own work, which then fails, although
 * the domain is gone soon: that is waited for.
 */
export async function destroyDomain(connection: Connection, name: string): Promise<void> {
  for (const end = Date.now() + DEATH_DEADLINE * 2; ; await sleep(100)) {
    try {
      await (await connection.lookupByName(name)).destroy();
      return;
    } catch (error) {
      if (error instanceof LibvirtError) {
        if (error.code === 'E_LIBVIRT_NO_DOMAIN') return;
        if (error.libvirt !== undefined && Date.now() < end) continue;
      }
      throw new KilnError('E_DESTROY', `cannot destroy domain ${name}`, {
        cause: error,
        hint: '`kiln gc` tries again; `kiln doctor` tells whether libvirt works',
      });
    }
  }
}
