import type { TimeLimits } from '../../sandbox/door/supervise.ts';
import type { LabelRequest } from '../../sandbox/labels/request.ts';
import type { Capability } from '../../sandbox/policy/capabilities.ts';
import type { OptionalLayer } from '../../sandbox/policy/layers.ts';
import type {
  Bind,
  SandboxLimits,
  SandboxSpecification,
} from '../../sandbox/policy/specification.ts';

/** Everything that decides a one-shot run: plain and serialisable. */
export interface RunRequest {
  /** Id of an image in the store. */
  readonly image: string;
  readonly argv: readonly string[];
  /** On top of the image's environment. */
  readonly env: Readonly<Record<string, string>>;
  /** Absolute in the sandbox; the image's when missing. */
  readonly workdir?: string;
  /** NAME|UID[:GROUP|GID]; the image's when missing. */
  readonly user?: string;
  /** Beyond what the user has by default. */
  readonly capAdd: readonly Capability[];
  /** Name of a shipped profile, or path of a JSON file. */
  readonly seccomp: string;
  /** The sandbox is for other sandboxes; see SandboxSpecification. */
  readonly nested?: boolean;
  /** SELinux' or AppArmor's; `auto` when missing. */
  readonly label?: LabelRequest;
  readonly network: SandboxSpecification['network'];
  /**
   * Hosts that the command reaches by an HTTP proxy of kiln's, as `HOST[:PORT]` or `*.HOST`: for a
   * sandbox whose network is private.
   */
  readonly egress?: readonly string[];
  readonly binds: readonly Bind[];
  /** See {@link SandboxSpecification}. */
  readonly allowHostWrite?: boolean;
  readonly tmpfs: SandboxSpecification['tmpfs'];
  readonly hostname?: string;
  readonly limits: SandboxLimits;
  /** Bytes the command may write; see SandboxSpecification. */
  readonly disk?: number;
  readonly time: TimeLimits;
  readonly copyIn: readonly { readonly source: string; readonly target: string }[];
  readonly artifacts: readonly string[];
  /** Files of the host that only the command's user finds, in /run/secrets. */
  readonly secrets?: readonly { readonly name: string; readonly file: string }[];
  /** Layers that need not be there where this host cannot give them. */
  readonly allowMissing?: readonly OptionalLayer[];
  /** Where artifacts and result.json go, absolute on the host. */
  readonly resultDirectory?: string;
  /** Keep the sandbox so many seconds after the command. */
  readonly keepSeconds?: number;
  /** Whose binds and artifacts are, on the host. */
  readonly caller: { readonly uid: number; readonly gid: number };
}

/** The ids of the person who started kiln: of sudo's caller where there is one. */
export function callerIds(env: NodeJS.ProcessEnv): { uid: number; gid: number } {
  const [uid, gid] = [Number(env.SUDO_UID), Number(env.SUDO_GID)];
  if (process.getuid?.() === 0 && uid > 0 && gid > 0) return { uid, gid };
  return { uid: process.getuid?.() ?? 0, gid: process.getgid?.() ?? 0 };
}
