import type { Owner } from '../../artifacts/destination.ts';
import { defined, some } from '../../defined.ts';
import { KilnError } from '../../errors.ts';
import type { Entered } from '../../events/event.ts';
import { ownPath } from '../../host/files/held.ts';
import { requireArchitecture } from '../../host/process/architecture.ts';
import type { Capability } from '../../host/process/process.ts';
import { requireAbility } from '../policy/ground-kinds.ts';
import type { GuestKernel } from '../policy/guest-kernel.ts';
import { formatPublish, type PublishedPort } from '../policy/network.ts';
import { type PolicyRequest, userCapabilities } from '../policy/policy.ts';
import {
  type Bind,
  type Interior,
  type Isolation,
  type SandboxImage,
  type SnapshotLayer,
  surroundingsOf,
} from '../policy/specification.ts';
import { chosenProfile, profileFor } from '../seccomp/profile.ts';
import type { ResourceLimit } from '../wire/codec.ts';
import type { TimeLimits } from './supervise.ts';

/** A part of the sandbox's own tree that outlives it. Owners on disk are the ids in the sandbox. */
export interface PlannedVolume {
  readonly source: string | { readonly image: string } | { readonly device: string };
  readonly target: string;
  readonly readonly?: true;
}

type Optional<Value> = { readonly [Key in keyof Value]?: Value[Key] | undefined };

/** What every job says of its sandbox. */
interface AnyJob extends Isolation, Optional<Interior> {
  readonly volumes: readonly PlannedVolume[];
  readonly egress: readonly string[] | undefined;
  readonly publish?: readonly PublishedPort[] | undefined;
  readonly caller: Owner;
}

export interface SandboxJob extends AnyJob {
  /** The ids in the sandbox that stand for the caller in binds, and that own copied files. */
  readonly owner: Owner;
  readonly shownAs: readonly string[];
}

export interface PlannedImage {
  readonly tree: string;
  readonly id: string | undefined;
  /** Of its programs; undefined for this machine's. */
  readonly arch: string | undefined;
  /** As CommandImage has it. */
  readonly kernel?: GuestKernel | undefined;
  readonly layers?: readonly SnapshotLayer[] | undefined;
  readonly environment: Readonly<Record<string, string>>;
}

/** What a plan needs to know of an image and its accounts. */
export interface CommandImage {
  readonly id: string;
  readonly name: string;
  readonly arch: string;
  readonly environment: Readonly<Record<string, string>>;
  readonly workdir: string;
  readonly user: Owner;
  readonly host?: readonly string[];
  /** What its machines boot, by paths in its tree. */
  readonly kernel?: GuestKernel;
  readonly accounts: readonly (Owner & { readonly name: string })[];
}

/** An image, and the layers of a snapshot on it. */
export interface TakenImage {
  readonly tree: string;
  readonly manifest: CommandImage;
  readonly layers?: readonly SnapshotLayer[] | undefined;
}

/** A planned sandbox: frozen and serialisable. Secrets are not in the plan; they come with the opening. */
export interface SandboxPlan {
  readonly sandbox: PlannedSpecification;
  readonly egress: readonly string[] | undefined;
  /** Ports of this host that lead into it. */
  readonly publish: readonly PublishedPort[];
  readonly owner: Owner;
  readonly caller: Owner;
  readonly shownAs: readonly string[];
  readonly environment: Readonly<Record<string, string>>;
}

interface PlannedSpecification extends SandboxImage, Isolation, Interior {
  readonly volumes: readonly PlannedVolume[];
}

/** A command beside or after the one that a sandbox was made for, as somebody asks for it. */
export interface ExecuteRequest {
  readonly argv: readonly string[];
  /** NAME or UID, `:GROUP` or `:GID` after it. */
  readonly user?: string;
  readonly env?: Readonly<Record<string, string>>;
  readonly workdir?: string;
  readonly terminal?: { readonly rows: number; readonly columns: number };
}

/** What a command in a kept sandbox is like, unless it says otherwise. */
export interface KeptCommand {
  readonly env: Readonly<Record<string, string>>;
  readonly workdir: string;
  readonly policy: PolicyRequest;
}

export interface CommandPlan extends KeptCommand {
  readonly argv: readonly string[];
  readonly time: TimeLimits;
  /** What happens to processes that it leaves running: `left` where other commands run beside it. */
  readonly leftovers: 'ended' | 'left';
  /** Whether the command gets the proxy's variables, if there is a proxy; true by default. */
  readonly online?: boolean;
  /** Mount points that have a size of their own. */
  readonly disks?: readonly string[];
  readonly limits?: readonly ResourceLimit[];
  readonly umask?: number;
  readonly boot?: true;
}

export interface Plan extends SandboxPlan {
  readonly command: CommandPlan;
}

export interface CommandJob extends AnyJob {
  readonly argv: readonly string[];
  readonly env: Readonly<Record<string, string>>;
  readonly workdir: string | undefined;
  /** NAME|UID[:GROUP|GID]; the image's user by default. */
  readonly user: string | undefined;
  readonly capabilities: readonly Capability[];
  readonly seccomp: string;
  readonly time: TimeLimits;
}

export const DEFAULT_HOSTNAME = 'kiln';

/** The default size of a tmpfs, bytes. */
export const DEFAULT_DISK = 8 * 2 ** 30;

/** @throws KilnError E_IMAGE_ARCH */
export function planSandbox(job: SandboxJob, image: PlannedImage): SandboxPlan {
  requireArchitecture(
    image.id === undefined ? 'the image' : `image ${image.id.slice(0, 12)}`,
    image.arch,
  );
  const { egress, publish = [], owner, caller, shownAs, ...wanted } = job;
  if (job.upperOnDisk === true) requireAbility(job.isolation, 'upperOnDisk');
  return frozen({
    sandbox: {
      root: image.tree,
      ...defined({ image: image.id, layers: image.layers, kernelInside: image.kernel }),
      hostname: DEFAULT_HOSTNAME,
      names: true,
      readonlyPaths: [],
      readonlyRoot: false,
      tmpfs: [],
      guestBinds: [],
      files: [],
      disk: DEFAULT_DISK,
      limits: {},
      ...(defined(wanted) as Isolation & Partial<Interior> & { volumes: readonly PlannedVolume[] }),
    },
    ...{ egress, publish },
    environment: image.environment,
    ...{ owner: ids(owner), caller: ids(caller), shownAs },
  });
}

export function planCommand(job: CommandJob, { tree, manifest, layers }: TakenImage): Plan {
  const { argv, env, workdir, user: wanted, capabilities, seccomp, time, ...sandbox } = job;
  const { id, arch, environment, kernel } = manifest;
  const user = commandUser(manifest, wanted);
  const filter = chosenProfile(seccomp, job.nested);
  const binds = [...hostBinds(manifest), ...sandbox.binds];
  const plan = planSandbox(
    { ...sandbox, binds, owner: user, shownAs: argv },
    { tree, layers, id, arch, environment, kernel },
  );
  return frozen({
    ...plan,
    command: {
      ...{ argv, env, time, workdir: workdir ?? manifest.workdir, leftovers: 'ended' },
      policy: {
        user: user.spec,
        capabilities: userCapabilities(user.uid, capabilities, surroundingsOf(plan.sandbox)),
        seccomp: profileFor(filter, sandbox),
      },
    },
  });
}

/** What the image `host` is without: this host's own folders. */
function hostBinds({ host = [] }: CommandImage): Bind[] {
  return host.map((path) => ({
    ...{ source: path, place: ownPath(path), target: path, readonly: true, hosts: true },
  }));
}

function ids({ uid, gid }: Owner): Owner {
  return { uid, gid };
}

function frozen<Value extends object>(value: Value): Value {
  return freeze(structuredClone(value));
}

function freeze<Value extends object>(value: Value): Value {
  for (const part of Object.values(value)) {
    if (typeof part === 'object' && part !== null) freeze(part);
  }
  return Object.freeze(value);
}

const LAST_ID = 65535;

export interface CommandUser extends Owner {
  readonly spec: string;
}

/** By the accounts that the image had when it was built; by default its own user. Throws E_NO_USER. */
export function commandUser(manifest: CommandImage, wanted: string | undefined): CommandUser {
  if (wanted === undefined) return user(manifest.user.uid, manifest.user.gid);
  const [name = '', group, ...more] = wanted.split(':');
  const account = manifest.accounts.find(
    (candidate) => candidate.name === name || String(candidate.uid) === name,
  );
  const uid = account?.uid ?? number(name);
  const gid = group === undefined ? (account?.gid ?? uid) : number(group);
  if (uid !== undefined && gid !== undefined && more.length === 0) return user(uid, gid);
  if (uid !== undefined && more.length === 0 && number(group ?? '') === undefined) {
    throw new KilnError(
      'E_NO_USER',
      `the group of user ${wanted} is not a number up to ${LAST_ID}`,
      {
        hint: `give it as GID, such as ${name}:${account?.gid ?? uid}; /etc/group of the image has the numbers`,
      },
    );
  }
  const names = manifest.accounts.map((candidate) => candidate.name);
  throw new KilnError('E_NO_USER', `image ${manifest.name} has no user ${wanted}`, {
    hint: `it has: ${names.slice(0, 20).join(', ')}; or give numbers up to ${LAST_ID} as UID:GID`,
  });
}

function number(text: string): number | undefined {
  return /^\d{1,5}$/.test(text) && Number(text) <= LAST_ID ? Number(text) : undefined;
}

function user(uid: number, gid: number): CommandUser {
  return { spec: `${uid}:${gid}`, uid, gid };
}

/** What events tell of a sandbox that was planned so. */
export function enteredBy(
  sandbox: string,
  { sandbox: planned, egress, publish, shownAs }: SandboxPlan,
): Entered {
  const { image, isolation, network, binds } = planned;
  const callers = binds.filter(({ own, hosts }) => own !== true && hosts !== true);
  return {
    ...{ sandbox, image, isolation, egress, argv: shownAs },
    network:
      typeof network === 'string'
        ? network
        : network.map(({ name }) => `libvirt:${name}`).join(' '),
    publish: some(publish.map(formatPublish)),
    binds: some(
      callers.map(({ source, target, readonly, cow }) =>
        [source, target, cow === true ? 'cow' : readonly ? 'ro' : 'rw'].join(':'),
      ),
    ),
  };
}
