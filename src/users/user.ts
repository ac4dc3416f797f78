/** A caller who is not root, and what root lets them do. */
import { KilnError } from '../errors.ts';
import type { UserIds } from '../host/process/acting-as.ts';
import type { CallerFiles } from './caller-files.ts';
import type { UserPolicy } from './configuration.ts';

/** The ids are those that the kernel gives for the connection. */
export interface CallerUser extends UserIds {
  /** The process that called. */
  readonly pid: number;
  readonly policy: UserPolicy;
  /** Their files; undefined in a process that has other callers, and opens nobody's. */
  readonly files: CallerFiles | undefined;
}

/** E_FORBIDDEN: what a user asks for is not theirs to ask. */
export function forbidden(what: string, why: string, { hint }: { hint?: string } = {}): KilnError {
  return new KilnError('E_FORBIDDEN', `${what} is not for users: ${why}`, {
    hint: hint ?? 'root can; docs/users.md says what users can do',
  });
}

/**
 * Variables of a user's that kiln takes for itself. Others begin with its name, too, and say what its process is
 * to do: which state, which libvirt, where it traces to. Those are not a user's to say.
 */
const OPEN_VARIABLES: ReadonlySet<string> = new Set(['KILN_IMAGE', 'KILN_BUILDER_ID']);

/** What kiln obeys of a user's environment. Commands in sandboxes get what the caller names, of all. */
export function userEnvironment(env: Readonly<Record<string, string>>): Record<string, string> {
  const open = ['TERM', 'LANG', 'TZ', 'SOURCE_DATE_EPOCH', ...OPEN_VARIABLES];
  return Object.fromEntries(
    open.flatMap((name) => (env[name] === undefined ? [] : [[name, env[name]]])),
  );
}
