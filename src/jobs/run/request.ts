import type { HeldPath } from '../../host/files/held.ts';
import type { Capability } from '../../host/process/process.ts';
import type { TimeLimits } from '../../sandbox/door/supervise.ts';
import type { LabelRequest } from '../../sandbox/policy/label-request.ts';
import type { OptionalLayer } from '../../sandbox/policy/layers.ts';
import type { SandboxLimits } from '../../sandbox/policy/limits.ts';
import type { Bind, SandboxSpecification } from '../../sandbox/policy/specification.ts';

export interface RunRequest {
  readonly image: string;
  readonly argv: readonly string[];
  readonly env: Readonly<Record<string, string>>;
  /** Absolute in the sandbox; the image's when missing. */
  readonly workdir?: string;
  /** NAME|UID[:GROUP|GID]; the image's when missing. */
  readonly user?: string;
  readonly capAdd: readonly Capability[];
  readonly seccomp: string;
  readonly nested?: boolean;
  readonly label?: LabelRequest;
  readonly network: SandboxSpecification['network'];
  /** Hosts that the command reaches by kiln's proxy, as `HOST[:PORT]` or `*.HOST`: for a private network. */
  readonly egress?: readonly string[];
  readonly binds: readonly Bind[];
  readonly allowHostWrite?: boolean;
  readonly tmpfs: SandboxSpecification['tmpfs'];
  readonly hostname?: string;
  readonly limits: SandboxLimits;
  readonly disk?: number;
  readonly time: TimeLimits;
  readonly copyIn: readonly { readonly source: HeldPath; readonly target: string }[];
  readonly artifacts: readonly string[];
  /** Files of the host that only the command's user finds, in /run/secrets. */
  readonly secrets?: readonly { readonly name: string; readonly file: HeldPath }[];
  readonly allowMissing?: readonly OptionalLayer[];
  readonly resultDirectory?: HeldPath;
  readonly keepSeconds?: number;
  readonly caller: { readonly uid: number; readonly gid: number };
}

/** The ids of the person who started kiln: under sudo, of its caller. */
export function callerIds(
  env: NodeJS.ProcessEnv,
  { uid, gid } = { uid: process.getuid?.() ?? 0, gid: process.getgid?.() ?? 0 },
): RunRequest['caller'] {
  const [sudoUid, sudoGid] = [Number(env.SUDO_UID), Number(env.SUDO_GID)];
  return uid === 0 && sudoUid > 0 && sudoGid > 0 ? { uid: sudoUid, gid: sudoGid } : { uid, gid };
}
