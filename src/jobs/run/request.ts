import type { HeldPath } from '../../host/files/held.ts';
import type { SandboxOptions } from '../../options/sandbox.ts';

/** A command in a sandbox of its own: what the rows of SANDBOX say, in the units of the API. */
export interface RunRequest extends SandboxOptions {
  readonly image: string;
  readonly argv: readonly string[];
  /** The image has an ENTRYPOINT, and `argv` is the whole command nevertheless. */
  readonly entrypoint?: '';
  readonly resultDirectory?: HeldPath;
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
