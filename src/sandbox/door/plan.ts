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

/** The fields that decide isolation. A job must name each: a default would hide one that was forgotten. */
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

/** A part of the sandbox's own tree that outlives it. Owners on disk are the ids in the sandbox. */
export interface PlannedVolume {
  /** A directory of the host, or an ext4 image of a fixed size. */
  readonly source: string | { readonly image: string };
  /** Absolute path in the sandbox. */
  readonly target: string;
}

/** The sandbox's inside. The defaults are those of `kiln run`. */
type Interior = Pick<
  SandboxSpecification,
  'scratch' | 'hostname' | 'names' | 'readonlyPaths' | 'tmpfs' | 'files' | 'disk' | 'limits'
>;

type Optional<Value> = { readonly [Key in keyof Value]?: Value[Key] | undefined };

/** The sandbox that a job asks for. */
export interface SandboxJob extends Isolation, Optional<Interior> {
  /** Hosts that its commands reach through the proxy; undefined for no proxy. */
  readonly egress: readonly string[] | undefined;
  /** The ids in the sandbox that stand for the caller in binds, and that own copied files. */
  readonly owner: Ids;
  /** The owner of binds on the host. */
  readonly caller: Ids;
  /** The command that `kiln ps` shows. */
  readonly shownAs: readonly string[];
  /** True if the sandbox may outlive this process: a kept one, or a service's. */
  readonly outlives: boolean;
}

/** The image of a sandbox. */
export interface PlannedImage {
  /** The image's tree: a host path. */
  readonly tree: string;
  /** The image's id; undefined for a tree that is not in the store yet. */
  readonly id: string | undefined;
  /** Variables of every command, unless the command or the proxy sets others. */
  readonly environment: Readonly<Record<string, string>>;
}

/** A planned sandbox: frozen and serialisable. Secrets are not in the plan; they come with the opening. */
export interface SandboxPlan {
  readonly sandbox: Omit<SandboxSpecification, 'secrets' | 'volumes'> & Pick<Isolation, 'volumes'>;
  readonly egress: readonly string[] | undefined;
  readonly environment: Readonly<Record<string, string>>;
  readonly owner: Ids;
  readonly caller: Ids;
  readonly shownAs: readonly string[];
  readonly outlives: boolean;
}

/** A planned command. */
export interface CommandPlan {
  readonly argv: readonly string[];
  /** Added to the image's environment and to the proxy's variables. */
  readonly env: Readonly<Record<string, string>>;
  /** Absolute, in the sandbox. */
  readonly workdir: string;
  readonly policy: PolicyRequest;
  readonly time: TimeLimits;
  /**
   * What happens to processes that the command leaves running: `ended` with it, or `left` if other commands run
   * beside it.
   */
  readonly leftovers: 'ended' | 'left';
  /** Whether the command gets the proxy's variables, if there is a proxy; true by default. */
  readonly online?: boolean;
  /** File systems of the sandbox that count as its disk, beside the usual ones. */
  readonly disks?: readonly string[];
  readonly limits?: readonly ResourceLimit[];
  readonly umask?: number;
  /** The command is a systemd, pid 1 of a system of its own: see src/guest/boot.h. */
  readonly boot?: true;
}

/** A planned command in a sandbox of its own: everything that decides what happens. */
export interface Plan extends SandboxPlan {
  readonly command: CommandPlan;
}

/** A command that a person asks for, with names that the image resolves. */
export interface CommandJob extends Omit<SandboxJob, 'owner' | 'shownAs'> {
  readonly argv: readonly string[];
  readonly env: Readonly<Record<string, string>>;
  /** The image's by default. */
  readonly workdir: string | undefined;
  /** NAME|UID[:GROUP|GID]; the image's user by default. */
  readonly user: string | undefined;
  /** Capabilities beside the user's default ones. */
  readonly capAdd: readonly Capability[];
  /** Name of a shipped profile, or path of a JSON file. */
  readonly seccomp: string;
  readonly time: TimeLimits;
}

/** The default size of a tmpfs, bytes. */
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

/** A deeply frozen copy. */
function frozen<Value extends object>(value: Value): Value {
  return freeze(structuredClone(value));
}

function freeze<Value extends object>(value: Value): Value {
  for (const part of Object.values(value)) {
    if (typeof part === 'object' && part !== null) freeze(part);
  }
  return Object.freeze(value);
}
