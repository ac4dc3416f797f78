/** A caller who is not root, and what root allows. */
import { KilnError } from '../errors.ts';
import type { UserIds } from '../host/process/acting-as.ts';
import type { CallerFiles } from './caller-files.ts';
import type { UserPolicy } from './configuration.ts';

/** The ids are those that the kernel reports for the connection. */
export interface CallerUser extends UserIds {
  /** The process that called. */
  readonly pid: number;
  readonly policy: UserPolicy;
  /** The user's files; undefined in a process with other callers, which opens nobody's files. */
  readonly files: CallerFiles | undefined;
}

/** E_FORBIDDEN: the user may not ask for this. */
export function forbidden(what: string, why: string, { hint }: { hint?: string } = {}): KilnError {
  return new KilnError('E_FORBIDDEN', `${what} is not for users: ${why}`, {
    hint: hint ?? 'root can; docs/users.md says what users can do',
  });
}

/**
 * A user's variables that kiln obeys. Other variables with kiln's name decide which state and libvirt the
 * process uses, and where it traces to; a user may not set those.
 */
const OPEN_VARIABLES: ReadonlySet<string> = new Set(['KILN_IMAGE', 'KILN_BUILDER_ID']);

/**
 * The part of a user's environment that kiln obeys. Commands in sandboxes get any variable that the caller
 * names.
 */
export function userEnvironment(env: Readonly<Record<string, string>>): Record<string, string> {
  const open = ['TERM', 'LANG', 'TZ', 'SOURCE_DATE_EPOCH', ...OPEN_VARIABLES];
  return Object.fromEntries(
    open.flatMap((name) => (env[name] === undefined ? [] : [[name, env[name]]])),
  );
}
