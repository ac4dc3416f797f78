/**
 * User namespaces without a process in them: a descriptor that ID-maps a mount (mount_setattr) or
 * that a program enters (setns, nsenter).
 */
import { constants, openSync, writeFileSync } from 'node:fs';
import koffi from 'koffi';
import { checked, libc } from './libc.ts';

/** From linux/sched.h; the same on every architecture. */
const CLONE_VM = 0x100;
const CLONE_NEWUSER = 0x10000000;
/** From linux/wait.h: wait for a child made without an exit signal. */
const WCLONE = 0x80000000 | 0;
const SIGKILL = 9;
const SIG_SETMASK = 2;
/** sizeof(sigset_t) in glibc and musl. */
const SIGSET_SIZE = 128;
const STACK_SIZE = 64 * 1024;

/** How long the stand-in process sleeps, seconds, should we die before we can kill it. */
const STAND_IN_SECONDS = 2n;

const clone = libc.func('int clone(void *entry, void *stack, int flags, uintptr_t argument)');
const kill = libc.func('int kill(int pid, int signal)');
const waitpid = libc.func('int waitpid(int pid, void *status, int options)');
const sigfillset = libc.func('int sigfillset(void *set)');
const pthreadSigmask = libc.func('int pthread_sigmask(int how, const void *set, void *old)');
const sleepEntry = libc.symbol('sleep');

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
 * Throws a SyscallError, or Node's own error where a map is refused.
 *
 * A namespace needs a process to be made. Forking this one would copy the whole JavaScript engine
 * into a child with a single thread, so the child runs no code of ours: clone(2) starts libc's
 * `sleep` on a stack of its own, with all signals blocked, and it is killed as soon as the
 * descriptor is open. If we are killed in between, it ends by itself.
 */
export function createUserNamespace(
  users: readonly IdMapping[],
  groups: readonly IdMapping[] = users,
): number {
  const stack = Buffer.alloc(STACK_SIZE);
  const top = (koffi.address(stack) + BigInt(STACK_SIZE)) & ~15n;
  const all = Buffer.alloc(SIGSET_SIZE);
  const before = Buffer.alloc(SIGSET_SIZE);
  sigfillset(all);
  pthreadSigmask(SIG_SETMASK, all, before);
  let pid: number;
  try {
    pid = checked('clone', clone(sleepEntry, top, CLONE_NEWUSER | CLONE_VM, STAND_IN_SECONDS));
  } finally {
    pthreadSigmask(SIG_SETMASK, before, null);
  }
  try {
    if (process.geteuid?.() !== 0) writeFileSync(`/proc/${pid}/setgroups`, 'deny');
    writeFileSync(`/proc/${pid}/uid_map`, mapText(users));
    writeFileSync(`/proc/${pid}/gid_map`, mapText(groups));
    return openSync(`/proc/${pid}/ns/user`, constants.O_RDONLY);
  } finally {
    kill(pid, SIGKILL);
    waitpid(pid, null, WCLONE);
  }
}

function mapText(mappings: readonly IdMapping[]): string {
  return mappings.map((m) => `${m.inside} ${m.outside} ${m.count}\n`).join('');
}
