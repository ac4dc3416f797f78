import { basename, join } from 'node:path';
import { defined } from '../../defined.ts';
import { attempt } from '../../host/calls/libc.ts';
import { ProcessCgroups } from '../../host/cgroup/cgroup-files.ts';
import type { Driver } from '../../host/libvirt/pick-engine.ts';
import type { Capability } from '../../host/process/process.ts';
import { hasEnded, type RecordedProcess } from '../../host/process/recorded-process.ts';
import { type Listed, longLived, onlyOne } from '../../host/state/long-lived.ts';
import type { StatePaths } from '../../host/state/paths.ts';
import type { IdRange, Owner } from '../../host/state/reservation.ts';
import type { SandboxFacts } from '../command/facts.ts';
import type { SandboxLabels } from '../labels/module.ts';
import type { QemuLabel } from '../labels/qemu.ts';
import type { PublishedPort } from '../policy/network.ts';
import type { SnapshotLayer, Surroundings } from '../policy/specification.ts';
import type { DomainOptions } from './domain-xml.ts';
import { controllerOf, isEnding, memberOf } from './ending.ts';
import type { MachineRecord } from './machine/record.ts';
import { qemuOf } from './machine/relay.ts';

/** sandbox.json: what is known of a sandbox without asking libvirt. Times are milliseconds since the epoch. */
export interface SandboxRecord {
  readonly id: string;
  readonly domain: string;
  readonly range: IdRange;
  readonly created: number;
  /** The skeleton that it started in. A sandbox with another version of kiln-init is not claimed. */
  readonly skeleton: string;
  readonly network: DomainOptions['network'];
  readonly labels?: SandboxLabels | undefined;
  /** Of a machine on a host with SELinux. */
  readonly qemuLabel?: QemuLabel | undefined;
  /** Where the sandbox is a machine. */
  readonly machine?: MachineRecord;
  /** Once somebody has it. */
  readonly init?: RecordedProcess;
  readonly parked?: true | undefined;
  readonly image?: string | undefined;
  /** Snapshots that its root stands on, above the image, the lowest first. */
  readonly layers?: readonly string[] | undefined;
  /** The snapshot that it is going back to: its files are of no use until that is done. */
  readonly rollback?: string | undefined;
  /** What it is to stand on once that snapshot has what it has written. */
  readonly frozen?: Frozen | undefined;
  /** Bytes that it may write to its root. */
  readonly disk?: number | undefined;
  /** Where on the disk its root's writable layer lies, and how many bytes it may take. */
  readonly scratch?: { readonly path: string; readonly bytes: number } | undefined;
  /** The caller's own name for it. */
  readonly name?: string | undefined;
  readonly command?: readonly string[] | undefined;
  readonly owner?: number | undefined;
  readonly keepUntil?: number;
  /** What others of the caller's find it by on its networks: the name of it, or of its job. */
  readonly knownAs?: string | undefined;
  /** Its own, once they are known. */
  readonly addresses?: readonly { readonly network: string; readonly address: string }[];
  /** Ports of this host that lead into it now, as --publish has them. */
  readonly publish?: readonly string[] | undefined;
  readonly session?: SandboxSession;
}

/** A layer that becomes a snapshot: once `moved` is there, it is one. */
interface Frozen {
  readonly moved: string;
  readonly tree: string;
  readonly layers: readonly SnapshotLayer[];
}

interface SandboxSession {
  readonly user: string;
  readonly capabilities: readonly Capability[];
  readonly seccomp: string;
  readonly surroundings: Surroundings;
  readonly env: Readonly<Record<string, string>>;
  /** Hosts that its commands reach by a proxy. */
  readonly egress?: readonly string[];
  /** Ports of this host that lead to it while somebody is in it. */
  readonly publish?: readonly PublishedPort[];
  readonly workdir: string;
  readonly facts: SandboxFacts;
  readonly folders?: readonly LayeredFolder[];
  /** What the caller's own tools run, below each of these folders. */
  readonly protectedPaths?: readonly string[];
}

/** A folder of the caller's that is bound with `cow`. The numbers tell whether another has taken its place. */
export interface LayeredFolder {
  readonly source: string;
  readonly target: string;
  readonly device: string;
  readonly inode: string;
}

const RECORD = { record: 'sandbox.json', lock: 'owner.lock' };

export const sandboxFiles = {
  record: (directory: string) => join(directory, RECORD.record),
  lock: (directory: string) => join(directory, RECORD.lock),
  /**
   * Belongs to the sandbox's root. Before the claim it is the only folder of the host that the sandbox sees.
   */
  socketDirectory: (directory: string) => join(directory, 'init'),
  socket: (directory: string) => join(directory, 'init', 'init.sock'),
  /** Where whoever holds the sandbox takes further commands. Only root enters the folder. */
  visit: (directory: string) => join(directory, 'visit', 'sock'),
};

export function driverOf(record: SandboxRecord | undefined): Driver {
  return record?.machine === undefined ? 'lxc' : 'qemu';
}

export function domainPrefix(paths: StatePaths): string {
  return `kiln-${basename(paths.run)}-`;
}

export const sandboxFolders = longLived<SandboxRecord, SandboxState>({
  ...RECORD,
  fields: {
    ...({ id: 'string', domain: 'string', range: 'object' } as const),
    ...({ created: 'number', skeleton: 'string' } as const),
  },
  damaged: (id) => `nobody can use the sandbox ${id} any more, and it goes when its command ends`,
  stateOf,
});

export const {
  find: findSandboxRecord,
  read: readSandboxRecord,
  write: writeSandboxRecord,
} = sandboxFolders;

export function domainOf(paths: StatePaths, directory: string): string {
  return `${domainPrefix(paths)}${basename(directory)}`;
}

/** How long a parked sandbox waits for a claim, milliseconds. */
export const PARKED_LIFETIME = 30 * 60_000;

/** If the clock was set back by more, milliseconds, times say nothing about a sandbox's age. */
const SET_BACK = 60_000;

export function isExpired(record: SandboxRecord, now: number): boolean {
  const age = now - record.created;
  return age >= PARKED_LIFETIME || age < -SET_BACK;
}

/** Nothing enters one again whose init or relay was killed. */
export function isKept({ keepUntil, init, machine }: SandboxRecord, now: number): boolean {
  const needed = [init, machine?.relay].filter((process) => process !== undefined);
  return keepUntil !== undefined && keepUntil > now && !needed.some(hasEnded);
}

export function sandboxOwner(paths: StatePaths, id: string): Owner {
  return join(paths.sandboxes, id);
}

/**
 * `running`: its owner lives. `kept`: it can be entered again. `parked`: it waits for a claim. `expired`: the time
 * that it was kept for is over. `dead`: it was kept, and its init or relay was killed. `abandoned`: its owner died, or it
 * was parked for too long. The next sweep destroys all three. `ending`: it was killed, and a process in it does not end.
 */
export const SANDBOX_STATES = [
  ...(['running', 'kept', 'parked', 'expired', 'dead', 'abandoned', 'ending'] as const),
];
export type SandboxState = (typeof SANDBOX_STATES)[number];

/** What nobody uses or can use. */
export function isOver(state: SandboxState): boolean {
  return state === 'expired' || state === 'dead' || state === 'abandoned';
}

export type ListedSandbox = Listed<SandboxRecord, SandboxState>;

interface Viewer {
  readonly uid: number;
}

/** Those of the owner, oldest first; root sees all. Reads files only. */
export async function listSandboxes(
  paths: StatePaths,
  { owner }: { readonly owner: Viewer | undefined },
): Promise<ListedSandbox[]> {
  return await sandboxFolders.list(paths.sandboxes, owner);
}

export interface SandboxUsage {
  /** What the kernel counts for the sandbox now, with its files and their cache. */
  readonly memoryBytes?: number;
  /** What it has written to its own file systems, which are in memory, and shared memory. */
  readonly sizeBytes?: number;
}

/** Of the kernel's counters: nothing of the sandbox's files is looked at. Nothing where it does not run. */
export function sandboxUsage(paths: StatePaths, record: SandboxRecord): SandboxUsage {
  const pid = accountedProcess(paths, record);
  if (pid === undefined) return {};
  // It may have ended meanwhile.
  const cgroups = attempt(() => ProcessCgroups.of(pid));
  const memoryBytes = cgroups?.memoryBytes();
  // A machine's memory is shared with virtiofsd, whatever lies in it.
  if (record.machine !== undefined) return defined({ memoryBytes });
  return defined({ memoryBytes, sizeBytes: cgroups?.sharedBytes() });
}

/** A process in the group whose counters are the sandbox's. */
export function accountedProcess(paths: StatePaths, record: SandboxRecord): number | undefined {
  const { id, domain, init, machine } = record;
  if (machine !== undefined) return qemuOf(join(paths.sandboxes, id), machine.relay);
  return init === undefined ? controllerOf(paths, domain) : memberOf(init);
}

function stateOf(record: SandboxRecord, isHeld: boolean): SandboxState {
  if (isEnding(record.init)) return 'ending';
  if (isHeld) {
    if (record.parked === undefined) return 'running';
    return isExpired(record, Date.now()) ? 'abandoned' : 'parked';
  }
  const now = Date.now();
  if (isKept(record, now)) return 'kept';
  if (record.keepUntil === undefined) return 'abandoned';
  return record.keepUntil > now ? 'dead' : 'expired';
}

export async function findSandbox(
  place: { readonly paths: StatePaths; readonly owner: Viewer | undefined },
  id: string,
): Promise<ListedSandbox> {
  const { paths, owner } = place;
  return (
    (await sandboxWithId(place, id)) ??
    sandboxCalled(await listSandboxes(paths, { owner }), id, owner)
  );
}

/** Undefined for what is no whole id: no name is one. The others, which may be many, are not looked at. */
export async function sandboxWithId(
  { paths, owner }: { readonly paths: StatePaths; readonly owner: Viewer | undefined },
  id: string,
): Promise<ListedSandbox | undefined> {
  if (!/^[0-9a-f]+$/.test(id)) return undefined;
  return await sandboxFolders.look(join(paths.sandboxes, id), owner);
}

/** Root sees everybody's sandboxes, but a name means the caller's own: a user could take any. */
export function isNamed({ state, record }: ListedSandbox, word: string, owner: Viewer | undefined) {
  return record.name === word && record.owner === owner?.uid && !isOver(state);
}

/** By a name, an id, or the beginning of one. @throws KilnError E_NO_SANDBOX */
export function sandboxCalled(
  listed: readonly ListedSandbox[],
  word: string,
  owner: Viewer | undefined,
): ListedSandbox {
  return (
    listed.findLast((sandbox) => isNamed(sandbox, word, owner)) ?? onlyOne('sandbox', word, listed)
  );
}
