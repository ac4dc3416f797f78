import { defined } from '../../defined.ts';
import { checkEgress } from '../../egress/rule.ts';
import type { ImageManifest } from '../../image/store/manifest.ts';
import type { Capability } from '../policy/capabilities.ts';
import { type PolicyRequest, userCapabilities } from '../policy/policy.ts';
import type { SandboxSpecification } from '../policy/specification.ts';
import { surroundingsOf } from '../policy/surroundings.ts';
import { chosenProfile } from '../seccomp/profile.ts';
import type { ResourceLimit } from '../wire/exec.ts';
import type { TimeLimits } from './supervise.ts';
import { commandUser } from './user.ts';

/** Ids, of the host or of the sandbox. */
export interface Ids {
  readonly uid: number;
  readonly gid: number;
}

/** What decides isolation. A job names every field: a default would be what somebody has forgotten. */
type Isolation = Pick<
  SandboxSpecification,
  | 'network'
  | 'binds'
  | 'allowHostWrite'
  | 'privateTmp'
  | 'namespaces'
  | 'nested'
  | 'boot'
  | 'label'
  | 'allowMissing'
> & { readonly volumes: readonly PlannedVolume[] };

/** A part of the sandbox's own tree that outlives it: owners on disk are those in the sandbox. */
export interface PlannedVolume {
  /** A directory of the host, or an ext4 image of a fixed size. */
  readonly source: string | { readonly image: string };
  /** Absolute path in the sandbox. */
  readonly target: string;
}

/** What a sandbox is like inside. Where a job says nothing, a sandbox is as for `kiln run`. */
type Interior = Pick<
  SandboxSpecification,
  'scratch' | 'hostname' | 'names' | 'readonlyPaths' | 'tmpfs' | 'files' | 'disk' | 'limits'
>;

type Optional<Value> = { readonly [Key in keyof Value]?: Value[Key] | undefined };

/** The sandbox that a job asks for. */
export interface SandboxJob extends Isolation, Optional<Interior> {
  /** Hosts that its commands reach by a proxy; undefined: there is no proxy. */
  readonly egress: readonly string[] | undefined;
  /** Who in the sandbox has what is the caller's on the host, and what is copied in. */
  readonly owner: Ids;
  /** Whose binds are, on the host. */
  readonly caller: Ids;
  /** What `kiln ps` shows. */
  readonly shownAs: readonly string[];
  /** The sandbox does not end with this process: it may be kept, or it is a service's. */
  readonly outlives: boolean;
}

/** The image of a sandbox. */
export interface PlannedImage {
  /** The image's tree: a host path. */
  readonly tree: string;
  /** Its id; undefined for a tree that is no image of the store yet. */
  readonly id: string | undefined;
  /** Variables of every command, unless the command or the proxy says otherwise. */
  readonly environment: Readonly<Record<string, string>>;
}

/** A sandbox, planned: frozen and serialisable. Secrets are no part of it: they come with the opening. */
export interface SandboxPlan {
  readonly sandbox: Omit<SandboxSpecification, 'secrets' | 'volumes'> & Pick<Isolation, 'volumes'>;
  readonly egress: readonly string[] | undefined;
  readonly environment: Readonly<Record<string, string>>;
  readonly owner: Ids;
  readonly caller: Ids;
  readonly shownAs: readonly string[];
  readonly outlives: boolean;
}

/** One command, planned. */
export interface CommandPlan {
  readonly argv: readonly string[];
  /** On top of the image's environment and of what tells of the proxy. */
  readonly env: Readonly<Record<string, string>>;
  /** Absolute, in the sandbox. */
  readonly workdir: string;
  readonly policy: PolicyRequest;
  readonly time: TimeLimits;
  /**
   * What the command has left running when it ends: `ended` with it, or `left`, where other commands run
   * beside it.
   */
  readonly leftovers: 'ended' | 'left';
  /** Whether it is told of the proxy, if there is one; true unless given. */
  readonly online?: boolean;
  /** File systems of the sandbox that count as its disk, beside those that each has. */
  readonly disks?: readonly string[];
  readonly limits?: readonly ResourceLimit[];
  readonly umask?: number;
  /** It is a systemd, pid 1 of a system of its own: see src/guest/boot.h. */
  readonly boot?: true;
}

/** One command in a sandbox of its own, planned: all that decides what happens. */
export interface Plan extends SandboxPlan {
  readonly command: CommandPlan;
}

/** A command that a person asks for, with names that the image knows. */
export interface CommandJob extends Omit<SandboxJob, 'owner' | 'shownAs'> {
  readonly argv: readonly string[];
  readonly env: Readonly<Record<string, string>>;
  /** The image's when undefined. */
  readonly workdir: string | undefined;
  /** NAME|UID[:GROUP|GID]; the image's when undefined. */
  readonly user: string | undefined;
  /** Beyond what the user has by default. */
  readonly capAdd: readonly Capability[];
  /** Name of a shipped profile, or path of a JSON file. */
  readonly seccomp: string;
  readonly time: TimeLimits;
}

/** Bytes of a tmpfs when nobody says otherwise. */
const DEFAULT_DISK = 8 * 2 ** 30;

/** Plans a sandbox for any number of commands. */
export function planSandbox(job: SandboxJob, image: PlannedImage): SandboxPlan {
  const { egress, owner, caller, shownAs, outlives, ...wanted } = job;
  return frozen({
    sandbox: {
      root: image.tree,
      ...defined({ image: image.id }),
      hostname: 'kiln',
      names: true,
      readonlyPaths: [],
      tmpfs: [],
      files: [],
      disk: DEFAULT_DISK,
      limits: {},
      ...(defined(wanted) as Isolation & Partial<Interior>),
    },
    egress,
    environment: image.environment,
    ...{ owner: ids(owner), caller: ids(caller), shownAs, outlives },
  });
}

/**
 * Plans one command in a sandbox of its own.
 * Throws E_NO_USER, E_EGRESS, E_SECCOMP_PROFILE, E_ARGUMENT.
 */
export function planCommand(
  job: CommandJob,
  { tree, manifest }: { readonly tree: string; readonly manifest: ImageManifest },
): Plan {
  const { argv, env, workdir, user: wanted, capAdd, seccomp, time, ...sandbox } = job;
  checkEgress({ egress: job.egress, network: job.network, seccomp });
  const user = commandUser(manifest, wanted);
  const plan = planSandbox(
    { ...sandbox, owner: user, shownAs: argv },
    { tree, id: manifest.id, environment: manifest.environment },
  );
  return frozen({
    ...plan,
    command: {
      ...{ argv, env, time, workdir: workdir ?? manifest.workdir, leftovers: 'ended' },
      policy: {
        user: user.spec,
        capabilities: userCapabilities(user.uid, capAdd, surroundingsOf(plan.sandbox)),
        seccomp: chosenProfile(seccomp, job.nested),
      },
    },
  });
}

function ids({ uid, gid }: Ids): Ids {
  return { uid, gid };
}

/** A copy that nobody can change. */
function frozen<Value extends object>(value: Value): Value {
  return freeze(structuredClone(value));
}

function freeze<Value extends object>(value: Value): Value {
  for (const part of Object.values(value)) {
    if (typeof part === 'object' && part !== null) freeze(part);
  }
  return Object.freeze(value);
}
