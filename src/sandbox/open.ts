import { join } from 'node:path';
import type { Owner } from '../artifacts/destination.ts';
import { isKilnCode, KilnError } from '../errors.ts';
import { ProcessCgroups } from '../host/cgroup/cgroup-files.ts';
import { lockUnlessHeld } from '../host/files/flock.ts';
import type {
  HeldSandbox,
  ParkedWish,
  SandboxHost,
  SandboxOwner,
  Turn,
} from '../host/libvirt/sandbox-host.ts';
import { sayLater } from '../host/process/wait-for.ts';
import { span, traceSandbox } from '../host/trace/trace.ts';
import { awaitedLater } from '../promise.ts';
import { SandboxControl } from './command/control.ts';
import { readSandboxFacts, type SandboxFacts } from './command/facts.ts';
import { setupError } from './command/failures.ts';
import { limitSandbox, requireOwnLabel } from './domain/ground.ts';
import { ensureBootFiles } from './domain/machine/boot-files.ts';
import { memoryWithin, mostWithin, ownMemory } from './domain/machine/memory.ts';
import { createSandbox, SandboxDomain } from './domain/sandbox-domain.ts';
import { readSandboxRecord, sandboxFiles } from './domain/sandbox-record.ts';
import { knownSkeleton } from './domain/skeleton.ts';
import { sweepSandboxes } from './domain/sweep.ts';
import { newScratch } from './domain/written.ts';
import { labelOperation, labelsInside } from './labels/labels.ts';
import { relabelSources } from './labels/relabel.ts';
import { requirePolicy } from './labels/selinux.ts';
import { giveAddresses, interfacesOf, neighboursOn } from './network/addresses.ts';
import type { LeasedAddress, LeaseWatch } from './network/dhcp-client.ts';
import { type BindOwners, planFilesystem, procOperations } from './policy/filesystem.ts';
import { refuseHostWrites } from './policy/host-write.ts';
import type { NetworkAnswers } from './policy/hosts.ts';
import { requireLayer } from './policy/layers.ts';
import { randomMac, type SandboxNetwork } from './policy/network.ts';
import type { SandboxSpecification } from './policy/specification.ts';
import { encodeRequest } from './wire/codec.ts';

export interface SandboxUse extends LeaseWatch {
  readonly user: Owner;
  readonly caller: Owner;
  readonly command?: readonly string[];
  readonly name?: string | undefined;
  /** What others of the caller's find it by on its networks. */
  readonly knownAs?: string | undefined;
}

export async function openSandbox(
  host: SandboxHost,
  wanted: SandboxSpecification,
  use: SandboxUse,
): Promise<FilledSandbox> {
  const asked = {
    ...withinShare(wanted, host.owner),
    network: knownInterfaces(wanted.network),
  };
  const sandbox = await takeSandbox(host, asked, use.signal);
  try {
    const specification = { ...asked, ...describe(host, sandbox, asked, use) };
    await limitSandbox(sandbox.ground, specification);
    requireOwnLabel(sandbox.ground, specification);
    if (specification.boot) sandbox.ground.delegate(sandbox.range.base);
    const owners = { ...use, groups: host.owner?.groups ?? [] };
    const neighbours = await neighboursOn(host.paths, specification.network, host.owner);
    return await fillSandbox(sandbox, specification, owners, { ...use, neighbours });
  } catch (error) {
    await sandbox.destroy();
    throw error;
  }
}

/** @returns where its root's writable layer lies, if that is on the disk */
function describe(
  { paths, owner }: SandboxHost,
  sandbox: SandboxDomain,
  specification: SandboxSpecification,
  use: SandboxUse,
): { readonly scratch?: string } {
  const { labels } = sandbox.record;
  const { upperOnDisk, disk: bytes, nested, boot, image, layers } = specification;
  const scratch = upperOnDisk === true ? { path: newScratch(paths, sandbox.id), bytes } : undefined;
  sandbox.describe({
    // One that was parked waited for this: its age, by which `kiln gc` removes kept ones, is its command's.
    created: Date.now(),
    ...{ image, command: use.command, owner: owner?.uid, disk: bytes, scratch },
    layers: layers?.map(({ id }) => id),
    ...{ name: use.name, knownAs: use.knownAs },
    labels: labels && labelsInside(labels, nested || boot),
  });
  return scratch === undefined ? {} : { scratch: scratch.path };
}

function withinShare(
  wanted: SandboxSpecification,
  owner: SandboxOwner | undefined,
): SandboxSpecification {
  if (owner === undefined) return wanted;
  const { memory, cpus, pids, disk } = owner.share;
  const { limits, isolation } = wanted;
  return {
    ...wanted,
    disk: Math.min(wanted.disk, disk),
    tmpfs: wanted.tmpfs.map(({ target, size = wanted.disk }) => {
      return { target, size: Math.min(size, disk) };
    }),
    limits: {
      ...limits,
      memory:
        isolation === 'vm'
          ? memoryWithin(memory, limits.memory)
          : Math.min(limits.memory ?? memory, memory),
      pids: Math.min(limits.pids ?? pids, pids),
      ...(cpus === undefined ? {} : { cpus: Math.min(limits.cpus ?? cpus, cpus) }),
    },
  };
}

/** Gives each interface an Ethernet address, because libvirt would not tell which one it chose. */
function knownInterfaces(network: SandboxNetwork): SandboxNetwork {
  if (typeof network === 'string') return network;
  return network.map((each) => ({ ...each, mac: each.mac ?? randomMac() }));
}

async function takeSandbox(
  host: SandboxHost,
  specification: SandboxSpecification,
  signal: AbortSignal | undefined,
): Promise<SandboxDomain> {
  if (specification.isolation === 'container') requirePolicy(specification.label);
  const parked = parkedWish(host, specification);
  for (;;) {
    using turn = await awaitTurn(host, parked, signal);
    if (turn?.parked === undefined) return await startSandbox(host, specification);
    const claimed = await claim(host, turn.parked);
    if (claimed !== undefined) return claimed;
  }
}

/** A parked sandbox has the host's default label and knows its cgroups, which differ for a booted system. */
function parkedWish(
  { owner }: SandboxHost,
  {
    network,
    label,
    boot,
    isolation,
    kernel,
    kernelInside,
    limits,
    allowMissing,
  }: SandboxSpecification,
): ParkedWish | undefined {
  if (network !== 'private' || label.kind !== 'auto' || boot) return undefined;
  if (isolation === 'container') return { isolation };
  if ((kernel ?? kernelInside) !== undefined) return undefined;
  return {
    isolation,
    memory: limits.memory ?? ownMemory(),
    most: owner && mostWithin(owner.share.memory),
    mayBeEmulated: allowMissing.includes('kvm'),
  };
}

async function awaitTurn(
  { takeTurn, owner }: SandboxHost,
  parked: ParkedWish | undefined,
  signal: AbortSignal | undefined,
): Promise<Turn | undefined> {
  using _said = sayLater({ name: 'its turn' }, 'since other sandboxes start');
  return await takeTurn?.({ uid: owner?.uid ?? 0, parked, signal });
}

async function startSandbox(
  host: SandboxHost,
  specification: SandboxSpecification,
): Promise<SandboxDomain> {
  const { network, label, isolation, kernelInside, root, limits, allowMissing } = specification;
  const isMachine = isolation === 'vm';
  const kernel = specification.kernel ?? (kernelInside && { tree: root, ...kernelInside });
  const connection = await host.connect(isMachine ? 'qemu' : 'lxc');
  // libvirt moves the new init into a cgroup 20 ms from now, and need not wait for the kernel then.
  ProcessCgroups.primeMove().catch(() => undefined);
  const machine = isMachine
    ? { limits, kernel, mayBeEmulated: allowMissing.includes('kvm') }
    : undefined;
  const options = { network, label, machine };
  const { sandbox } = await createSandbox(host.paths, connection, options, host.connect);
  // The daemon, which has the parked ones, sweeps when nothing starts. Others do it here, in the background.
  if (host.takeTurn === undefined) {
    sweepSandboxes(host.paths, host.connect).catch(() => undefined);
  }
  return sandbox;
}

/** A sandbox that does not work is left to the sweep: undefined then. */
async function claim(
  { paths, connect }: SandboxHost,
  { directory, lock }: HeldSandbox,
): Promise<SandboxDomain | undefined> {
  using _ = span('claim a parked sandbox');
  const found = readSandboxRecord(directory);
  const isMachine = found?.machine !== undefined;
  const current = isMachine ? (await ensureBootFiles(paths)).folder : knownSkeleton(paths);
  if (found === undefined || found.skeleton !== current) {
    await lock.release();
    return undefined;
  }
  const { parked: _waits, ...record } = found;
  try {
    const claimed = await SandboxDomain.attach(paths, { directory, record, lock }, connect);
    if (!isMachine) return claimed;
    try {
      await claimed.ground.settle();
      return claimed;
    } catch (error) {
      await claimed.abandon();
      throw error;
    }
  } catch {
    // It is dead.
    return undefined;
  }
}

/** @param rollsBack the caller goes on with what a rollback that was cut off has left */
export async function reopenSandbox(host: SandboxHost, id: string, rollsBack = false) {
  const directory = join(host.paths.sandboxes, id);
  const record = readSandboxRecord(directory);
  const { session, keepUntil } = record ?? {};
  if (record === undefined || session === undefined || keepUntil === undefined) {
    throw new KilnError('E_NO_SANDBOX', `there is no kept sandbox ${id}`, {
      hint: '`kiln ps` lists them; `kiln run --keep` keeps one',
    });
  }
  if (record.rollback !== undefined && record.frozen === undefined && !rollsBack) {
    throw new KilnError('E_ROLLBACK', `the rollback of sandbox ${id} was cut off`, {
      hint: `\`kiln rollback ${id} ${record.rollback}\` does it again; until then its files are mixed`,
    });
  }
  const lock = await lockUnlessHeld(sandboxFiles.lock(directory));
  if (lock === undefined) {
    throw new KilnError('E_SANDBOX_BUSY', `sandbox ${id} is in use by another command`, {
      hint: 'wait until that command has ended',
    });
  }
  const domain = await SandboxDomain.attach(host.paths, { directory, record, lock }, host.connect);
  return { domain, session, keepUntil };
}

/** A sandbox that is ready for commands. */
export interface FilledSandbox {
  readonly domain: SandboxDomain;
  readonly facts: SandboxFacts;
  readonly leases?: readonly LeasedAddress[];
}

/**
 * Puts an image and everything else of a specification into a sandbox. Throws E_SETUP with what the init
 * could not do, E_LAYER_MISSING when it measured a hole, E_NO_LEASE when the network gave no address,
 * E_STATE, and the signal's reason; the sandbox is destroyed then.
 */
export async function fillSandbox(
  domain: SandboxDomain,
  specification: SandboxSpecification,
  owners: BindOwners,
  { knownAs, neighbours = [], onLease, signal }: LeaseWatch & NetworkAnswers = {},
): Promise<FilledSandbox> {
  const leases: LeasedAddress[] = [];
  try {
    using _ = span('fill the sandbox');
    const { labels } = domain.record;
    const label = labelOperation(labels);
    const interfaces = interfacesOf(specification.network);
    // Check before any label on the host changes.
    if (labels !== undefined) refuseHostWrites(domain.paths, specification, owners.caller);
    await relabelSources(specification, labels);
    const rules = specification.nested ? [] : procOperations();
    const prepare = domain.prepared ? undefined : encodeRequest('prepare', [...label, ...rules]);
    const isSent = interfaces.some(({ network }) => network.dhcp);
    if (isSent && prepare !== undefined) await domain.prepare(prepare);
    const control = new SandboxControl(domain.channel);
    const setFixed = domain.ground.setAddresses.bind(domain.ground);
    const how = { hostname: knownAs ?? specification.hostname, onLease, signal };
    const addresses = await giveAddresses(control, interfaces, setFixed, leases, how);
    if (addresses.length > 0) domain.describe({ addresses });
    using plan = planFilesystem(
      specification,
      { range: domain.range, initPid: domain.channel.initPid },
      owners,
      domain.paths,
      {
        ...{ address: addresses[0]?.address, knownAs, neighbours },
        nameServers: leases.flatMap(({ nameServers }) => nameServers),
      },
    );
    for (const image of plan.images) await domain.ground.mountImage(image);
    const { sources } = plan;
    const { binds, guestBinds } = specification;
    // Listen before sending: an init that could not prepare sends the reason and hangs up.
    const filled = awaitedLater(
      domain.channel.ask((answer) => {
        if (answer.type === 'failed') {
          throw setupError(answer, { sources, binds, guestBinds, labels });
        }
        return answer.type === 'ready' ? answer.facts : undefined;
      }),
    );
    const send = (message: Buffer, fds: readonly number[] = []) => {
      try {
        domain.channel.send(message, fds);
      } catch (error) {
        if (!isKilnCode(error, 'E_SANDBOX_GONE')) throw error;
      }
    };
    if (prepare !== undefined && !isSent) send(prepare);
    send(encodeRequest('setup', [...label, ...plan.operations]), plan.fds);
    domain.writeRecord();
    const text = await filled;
    traceSandbox(domain.channel.initPid, text);
    const { network, allowMissing } = specification;
    const facts = readSandboxFacts(text, {
      network: network === 'host' ? 'host' : 'own',
      range: domain.ground.ids(domain.range),
      operations: plan.operations,
      time: requireLayer('time-namespace', allowMissing),
      labels,
      around: await domain.ground.around(),
    });
    return { domain, facts, leases };
  } catch (error) {
    for (const lease of leases) lease.close();
    await domain.destroy();
    throw error;
  }
}
