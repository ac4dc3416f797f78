import { join } from 'node:path';
import { defined } from '../defined.ts';
import { KilnError } from '../errors.ts';
import { delegateCgroup } from '../host/cgroup/own-cgroups.ts';
import { tryLock } from '../host/files/flock.ts';
import type { Connection } from '../host/libvirt/connection.ts';
import type { UserIds } from '../host/process/acting-as.ts';
import type { StatePaths } from '../host/state/paths.ts';
import { span } from '../host/trace/trace.ts';
import type { ImageViewer } from '../image/store/owners.ts';
import type { RecipeFiles } from '../recipe/folder.ts';
import type { ParkedSandbox } from './domain/parking.ts';
import { SandboxDomain } from './domain/sandbox-domain.ts';
import { readSandboxRecord, type SandboxSession, sandboxFiles } from './domain/sandbox-record.ts';
import { knownSkeleton } from './domain/skeleton.ts';
import { startDomain } from './domain/start-domain.ts';
import { sweepSandboxes } from './domain/sweep.ts';
import { claimedLabels, requirePolicy } from './labels/labels.ts';
import { randomMac } from './network/mac.ts';
import type { BindOwners } from './policy/binds.ts';
import type { OptionalLayer } from './policy/layers.ts';
import { limitSandbox } from './policy/limits.ts';
import type { SandboxLimits, SandboxSpecification } from './policy/specification.ts';
import { Sandbox } from './sandbox.ts';

/** A user of this host who opens sandboxes, and the most that each of them may use. */
export interface SandboxOwner extends UserIds, ImageViewer {
  /** Opens files of the user's own, in a worker. */
  readonly files: RecipeFiles | undefined;
  /** Replaces paths of a job's copied files by the user's own names for them. */
  readonly renamed: <Value>(value: Value) => Value;
  readonly share: Required<Pick<SandboxLimits, 'memory' | 'pids'>> &
    Pick<SandboxLimits, 'cpus'> & { readonly disk: number };
}

/** Where sandboxes live, and how to reach the libvirt that runs them. */
export interface Engine {
  readonly paths: StatePaths;
  /** The owner of the sandboxes; undefined for root, who has no bounds. */
  readonly owner: SandboxOwner | undefined;
  /**
   * Connects to libvirt, always with the same connection. Called only when libvirt is needed: a parked sandbox
   * is claimed without it.
   */
  readonly connect: () => Promise<Connection>;
  /** The base of relative paths and of recipe names. Throws Node's own ENOENT if the directory was deleted. */
  cwd(): string;
  /** Layers that may be missing on this host, unless a job says otherwise. Throws E_ARGUMENT. */
  allowMissing(): readonly OptionalLayer[];
  /** The passphrase of the key for packages: the caller's KILN_SIGN_PASSPHRASE. */
  signingPassphrase(): string | undefined;
  /** Takes a parked sandbox, if there is one. Only the daemon has any. */
  readonly takeParked?: (() => Promise<ParkedSandbox | undefined>) | undefined;
}

/** Whom a sandbox is for. */
export interface SandboxUse extends Omit<BindOwners, 'groups'> {
  /** The command that `kiln ps` shows. */
  readonly command?: readonly string[];
  /** Aborts the wait for a network address. */
  readonly signal?: AbortSignal | undefined;
  /** True if the sandbox must not die with this process. */
  readonly outlives?: boolean;
}

/**
 * Claims a parked sandbox that fits, or starts one, and puts the image and everything else into it. Dispose of
 * the result, or `close()` it; nothing is left then.
 */
export async function openSandbox(
  engine: Engine,
  wanted: SandboxSpecification,
  use: SandboxUse,
): Promise<Sandbox> {
  const specification = {
    ...withinShare(wanted, engine.owner),
    network: knownInterface(wanted.network),
  };
  const sandbox = await takeSandbox(engine, specification, use.outlives ?? false);
  const { labels } = sandbox.record;
  const mounts = specification.nested || specification.boot;
  sandbox.describe({
    ...defined({ image: specification.image, command: use.command, owner: engine.owner?.uid }),
    ...(labels === undefined ? {} : { labels: claimedLabels(labels, mounts) }),
  });
  try {
    await limitSandbox(sandbox, specification);
    if (specification.boot) delegateCgroup(sandbox.channel.initPid, sandbox.id, sandbox.range.base);
  } catch (error) {
    await sandbox.destroy();
    throw error;
  }
  const owners = { ...use, groups: engine.owner?.groups ?? [] };
  return await Sandbox.open(sandbox, specification, owners, use.signal);
}

/** The specification within the owner's share of the machine. */
function withinShare(
  wanted: SandboxSpecification,
  owner: SandboxOwner | undefined,
): SandboxSpecification {
  if (owner === undefined) return wanted;
  const { memory, cpus, pids, disk } = owner.share;
  const { limits } = wanted;
  return {
    ...wanted,
    disk: Math.min(wanted.disk, disk),
    limits: {
      ...limits,
      memory: Math.min(limits.memory ?? memory, memory),
      pids: Math.min(limits.pids ?? pids, pids),
      ...(cpus === undefined ? {} : { cpus: Math.min(limits.cpus ?? cpus, cpus) }),
    },
  };
}

/** Gives the interface an Ethernet address, because libvirt would not tell which one it chose. */
function knownInterface(network: SandboxSpecification['network']): SandboxSpecification['network'] {
  if (typeof network === 'string' || network.mac !== undefined) return network;
  return { ...network, mac: randomMac() };
}

async function takeSandbox(
  engine: Engine,
  { network, label, boot }: Pick<SandboxSpecification, 'network' | 'label' | 'boot'>,
  outlives: boolean,
): Promise<SandboxDomain> {
  requirePolicy(label);
  // A parked sandbox has the host's default label and knows its cgroups, which differ for a booted system.
  if (network === 'private' && label.kind === 'auto' && !boot) {
    const parked = await claimParked(engine);
    if (parked !== undefined) return parked;
  }
  const connection = await engine.connect();
  // A claim never sweeps, so sweep here, in the background.
  sweepSandboxes(engine.paths, engine.connect).catch(() => undefined);
  const started = await startDomain(engine.paths, connection, {
    network,
    label,
    autodestroy: !outlives,
  });
  return await SandboxDomain.own(engine.paths, started, engine.connect);
}

/**
 * Claims a parked sandbox that fits. If one does not work, it is left to the sweep and the next one is tried.
 */
async function claimParked({
  paths,
  connect,
  takeParked,
}: Engine): Promise<SandboxDomain | undefined> {
  if (takeParked === undefined) return undefined;
  using _ = span('claim a parked sandbox');
  for (let next = await takeParked(); next !== undefined; next = await takeParked()) {
    const { directory, lock } = next;
    const { parked: _waits, ...record } = next.record;
    if (record.skeleton !== knownSkeleton(paths)) {
      await lock.release();
      continue;
    }
    try {
      return await SandboxDomain.claim(paths, { directory, record, lock }, connect);
    } catch {
      // That sandbox is dead.
    }
  }
  return undefined;
}

/**
 * Reopens a kept sandbox. It is destroyed on close unless it is kept again. Throws E_NO_SANDBOX,
 * E_SANDBOX_BUSY, E_SANDBOX_GONE.
 */
export async function reopenSandbox(
  engine: Engine,
  id: string,
): Promise<{ sandbox: Sandbox; session: SandboxSession; keepUntil: number }> {
  const directory = join(engine.paths.sandboxes, id);
  const record = readSandboxRecord(directory);
  const { session, keepUntil } = record ?? {};
  if (record === undefined || session === undefined || keepUntil === undefined) {
    throw new KilnError('E_NO_SANDBOX', `there is no kept sandbox ${id}`, {
      hint: '`kiln ps` lists them; `kiln run --keep` keeps one',
    });
  }
  if (session.surroundings === undefined) {
    throw new KilnError('E_NO_SANDBOX', `sandbox ${id} was kept by an older version of kiln`, {
      hint: '`kiln kill` ends it; its files cannot be entered any more',
    });
  }
  const lock = await tryLock(sandboxFiles.lock(directory));
  if (lock === undefined) {
    throw new KilnError('E_SANDBOX_BUSY', `sandbox ${id} is in use by another command`, {
      hint: 'wait until that command has ended',
    });
  }
  const sandbox = await SandboxDomain.claim(
    engine.paths,
    { directory, record, lock },
    engine.connect,
  );
  return { sandbox: Sandbox.reopen(sandbox, session), session, keepUntil };
}
