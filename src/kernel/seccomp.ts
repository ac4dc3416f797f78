/**
 * Filtering a process's own system calls, through libseccomp (which every Debian, Fedora and SUSE
 * has: apt and systemd need it), so that no numbers of system calls are kept here.
 * Sources: seccomp_init(3), seccomp_attr_set(3), seccomp_rule_add(3), seccomp_load(3).
 */
import koffi from 'koffi';
import { KilnError } from '../errors.ts';
import { SyscallError } from './libc.ts';

const SCMP_ACT_ALLOW = 0x7fff0000;
const SCMP_ACT_ERRNO = 0x00050000;
const SCMP_FLTATR_CTL_TSYNC = 4;
/** What libseccomp calls a system call it does not know at all. */
const NR_SCMP_ERROR = -1;

/** A filter that is loaded but not in force yet. */
export interface SystemCallFilter {
  /** Puts it in force for all threads of this process, for good. no_new_privs must be set. */
  apply(): void;
}

/** System calls by name, and the errno (a number) each group fails with. */
export interface RefusedCalls {
  readonly errno: number;
  readonly names: readonly string[];
}

/**
 * Builds a filter that refuses some system calls and allows all others.
 * Names that this libseccomp or this architecture does not know are left out.
 * @throws KilnError E_SECCOMP when libseccomp is missing or refuses.
 */
export function refuseSystemCalls(groups: readonly RefusedCalls[]): SystemCallFilter {
  const seccomp = library();
  const context = seccomp.init(SCMP_ACT_ALLOW);
  if (context === null) throw new KilnError('E_SECCOMP', 'libseccomp cannot make a filter');
  const done = (call: string, result: number) => {
    if (result < 0) throw new SyscallError(call, -result);
  };
  done('seccomp_attr_set', seccomp.attrSet(context, SCMP_FLTATR_CTL_TSYNC, 1));
  for (const { errno, names } of groups) {
    for (const name of names) {
      const number = seccomp.resolve(name);
      if (number === NR_SCMP_ERROR) continue;
      const action = SCMP_ACT_ERRNO | (errno & 0xffff);
      done(`seccomp_rule_add ${name}`, seccomp.ruleAdd(context, action, number, 0, null));
    }
  }
  return { apply: () => done('seccomp_load', seccomp.load(context)) };
}

/** libseccomp's calls, loaded at the first use. @throws KilnError E_SECCOMP where it is missing. */
export function library() {
  let lib: ReturnType<typeof koffi.load>;
  try {
    lib = koffi.load('libseccomp.so.2');
  } catch (cause) {
    throw new KilnError('E_SECCOMP', 'libseccomp.so.2 cannot be loaded', {
      cause,
      hint: 'install libseccomp2 (Debian, Ubuntu) or libseccomp (Fedora)',
    });
  }
  return {
    init: lib.func('void *seccomp_init(uint32_t action)'),
    attrSet: lib.func('int seccomp_attr_set(void *context, int attribute, uint32_t value)'),
    resolve: lib.func('int seccomp_syscall_resolve_name(const char *name)'),
    resolveNumber: lib.func(
      'str seccomp_syscall_resolve_num_arch(uint32_t architecture, int number)',
    ) as (architecture: number, number: number) => string | null,
    ruleAdd: lib.func(
      'int seccomp_rule_add_array(void *context, uint32_t action, int number, unsigned int count, void *arguments)',
    ),
    load: lib.func('int seccomp_load(void *context)'),
    archAdd: lib.func('int seccomp_arch_add(void *context, uint32_t architecture)'),
    archResolve: lib.func('uint32_t seccomp_arch_resolve_name(const char *name)'),
    exportBpf: lib.func('int seccomp_export_bpf(void *context, int fd)'),
    release: lib.func('void seccomp_release(void *context)'),
  };
}
