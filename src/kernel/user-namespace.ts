/**
 * User namespaces without a process in them: a descriptor that ID-maps a mount (mount_setattr) or
 * that a program enters (setns, nsenter).
 */
import { addon, checked } from './system-call.ts';

/** One line of uid_map and gid_map: `count` ids from `inside` are `outside` and following in our namespace. */
export interface IdMapping {
  readonly inside: number;
  readonly outside: number;
  readonly count: number;
}

/**
 * Makes a user namespace in which user ids are mapped by `users` and group ids by `groups`, and
 * returns a descriptor for it. It lives as long as somebody holds it; the caller closes it.
 *
 * Needs CAP_SETUID and CAP_SETGID, except for a single mapping of the caller's own id.
 * Throws a SyscallError: EINVAL where the kernel refuses a map.
 */
export function createUserNamespace(
  users: readonly IdMapping[],
  groups: readonly IdMapping[] = users,
): number {
  // Without CAP_SETGID the kernel takes a group map only after setgroups(2) is denied.
  const denySetgroups = process.geteuid?.() !== 0;
  const result = addon().userNamespace(mapText(users), mapText(groups), denySetgroups);
  return checked('make a user namespace', result);
}

function mapText(mappings: readonly IdMapping[]): string {
  return mappings.map((m) => `${m.inside} ${m.outside} ${m.count}\n`).join('');
}
