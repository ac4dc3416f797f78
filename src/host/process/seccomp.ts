/**
 * System call filters through libseccomp, so that kiln keeps no table of call numbers; apt and systemd need it,
 * too. Sources: seccomp_init(3), seccomp_attr_set(3), seccomp_rule_add(3), seccomp_load(3),
 * seccomp_export_bpf(3).
 */

import { fstatSync, readSync } from 'node:fs';
import { constants as os } from 'node:os';
import koffi from 'koffi';
import { KilnError } from '../../errors.ts';
import { closing } from '../calls/descriptor.ts';
import { SyscallError } from '../calls/libc.ts';
import { checked, tryCall } from '../calls/system-call.ts';

const SCMP_FLTATR_CTL_TSYNC = 4;
const NR_SCMP_ERROR = -1;

/**
 * Makes a filter that refuses some system calls with EPERM; names that this libseccomp or architecture does not know
 * are left out. What it returns binds all threads of this process, for good; no_new_privs must be set.
 * @throws KilnError E_SECCOMP when libseccomp is missing or refuses.
 */
export function refuseSystemCalls(names: readonly string[]): () => void {
  const seccomp = library();
  const context = seccomp.init(ACTIONS.SCMP_ACT_ALLOW);
  if (context === null) throw new KilnError('E_SECCOMP', 'libseccomp cannot make a filter');
  check('seccomp_attr_set', seccomp.attrSet(context, SCMP_FLTATR_CTL_TSYNC, 1));
  const action = actionNumber('SCMP_ACT_ERRNO', os.errno.EPERM);
  for (const name of names) {
    const number = seccomp.resolve(name);
    if (number === NR_SCMP_ERROR) continue;
    check(`seccomp_rule_add ${name}`, seccomp.ruleAdd(context, action, number, 0, null));
  }
  return () => check('seccomp_load', seccomp.load(context));
}

function check(call: string, result: number, ...accepted: readonly number[]): void {
  if (result < 0 && !accepted.includes(-result)) throw new SyscallError(call, -result);
}

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
    resolve: lib.func('int seccomp_syscall_resolve_name(const char *name)') as (
      name: string,
    ) => number,
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

const MFD_CLOEXEC = 1;

const ACTIONS = {
  SCMP_ACT_KILL: 0x00000000,
  SCMP_ACT_KILL_THREAD: 0x00000000,
  SCMP_ACT_KILL_PROCESS: 0x80000000,
  SCMP_ACT_TRAP: 0x00030000,
  SCMP_ACT_ERRNO: 0x00050000,
  SCMP_ACT_LOG: 0x7ffc0000,
  SCMP_ACT_ALLOW: 0x7fff0000,
} as const;

const COMPARISONS = {
  SCMP_CMP_NE: 1,
  SCMP_CMP_LT: 2,
  SCMP_CMP_LE: 3,
  SCMP_CMP_EQ: 4,
  SCMP_CMP_GE: 5,
  SCMP_CMP_GT: 6,
  SCMP_CMP_MASKED_EQ: 7,
} as const;

/** Asks the process that holds the filter's listener (seccomp_unotify(2)). A profile cannot use it. */
const ASK = 0x7fc00000;

type FilterAction = keyof typeof ACTIONS;
type FilterComparison = keyof typeof COMPARISONS;
export const FILTER_ACTIONS = Object.keys(ACTIONS) as [FilterAction, ...FilterAction[]];
export const FILTER_COMPARISONS = Object.keys(COMPARISONS) as [
  FilterComparison,
  ...FilterComparison[],
];

interface FilterRule {
  readonly names: readonly string[];
  readonly action: FilterAction;
  readonly errno: number;
  readonly args: readonly {
    readonly index: number;
    readonly value: number;
    readonly valueTwo: number;
    readonly op: FilterComparison;
  }[];
}

const SCMP_FLTATR_CTL_OPTIMIZE = 8;
const OPTIMIZE_BINARY_TREE = 2;
const { EACCES, EEXIST, ENOSYS, EOPNOTSUPP } = os.errno;

function actionNumber(action: FilterAction, errno: number): number {
  return action === 'SCMP_ACT_ERRNO' ? ACTIONS[action] | (errno & 0xffff) : ACTIONS[action];
}

const REFUSALS: readonly FilterAction[] = [
  'SCMP_ACT_ERRNO',
  'SCMP_ACT_KILL',
  'SCMP_ACT_KILL_THREAD',
  'SCMP_ACT_KILL_PROCESS',
];

function askingNumber(action: FilterAction, errno: number, isRule: boolean): number {
  if (!REFUSALS.includes(action)) return actionNumber(action, errno);
  const absent = isRule && action === 'SCMP_ACT_ERRNO' && [ENOSYS, EOPNOTSUPP].includes(errno);
  return absent ? actionNumber(action, errno) : ASK;
}

/** struct scmp_arg_cmp { unsigned arg; enum op; uint64_t a, b; } */
function argumentBytes(args: FilterRule['args']): Buffer {
  const bytes = Buffer.alloc(24 * args.length);
  args.forEach(({ index, op, value, valueTwo }, i) => {
    bytes.writeUInt32LE(index, 24 * i);
    bytes.writeUInt32LE(COMPARISONS[op], 24 * i + 4);
    bytes.writeBigUInt64LE(BigInt(value), 24 * i + 8);
    bytes.writeBigUInt64LE(BigInt(valueTwo), 24 * i + 16);
  });
  return bytes;
}

/**
 * As struct sock_filter[]. Calls of other ABIs (`architectures`, in libseccomp's names such as `x86`) have the
 * same rules. With `asking`, it asks its listener instead of refusing, but not for ENOSYS and EOPNOTSUPP:
 * programs rely on that answer (clone3) and then do without the call.
 * @throws KilnError E_SECCOMP (for `asking` also where libseccomp or the kernel cannot), SyscallError
 */
export function compileFilter(
  fallback: { readonly action: FilterAction; readonly errno: number },
  rules: readonly FilterRule[],
  architectures: readonly string[],
  asking = false,
): Buffer {
  const seccomp = library();
  const number = (action: FilterAction, errno: number, isRule = true) =>
    asking ? askingNumber(action, errno, isRule) : actionNumber(action, errno);
  const fallbackNumber = number(fallback.action, fallback.errno, false);
  const context = seccomp.init(fallbackNumber);
  if (context === null) throw new KilnError('E_SECCOMP', 'libseccomp cannot make a filter');
  try {
    // libseccomp before 2.5 lacks this attribute; its filter is then a linear list, which is as right.
    seccomp.attrSet(context, SCMP_FLTATR_CTL_OPTIMIZE, OPTIMIZE_BINARY_TREE);
    for (const name of architectures) {
      check('seccomp_arch_add', seccomp.archAdd(context, seccomp.archResolve(name)), EEXIST);
    }
    for (const rule of rules) {
      const args = argumentBytes(rule.args);
      const action = number(rule.action, rule.errno);
      // libseccomp refuses a rule that repeats the default action (EACCES), and such a rule has no effect.
      if (action === fallbackNumber) continue;
      for (const name of rule.names) {
        const call = seccomp.resolve(name);
        if (call === NR_SCMP_ERROR) continue;
        const result = seccomp.ruleAdd(context, action, call, rule.args.length, args);
        check(`seccomp_rule_add ${name}`, result, EEXIST, EACCES);
      }
    }
    return exported((fd) => check('seccomp_export_bpf', seccomp.exportBpf(context, fd)));
  } finally {
    seccomp.release(context);
  }
}

/** Of this machine. */
export function callNumber(name: string): number {
  return library().resolve(name);
}

export function systemCallName(architecture: number, number: number): string {
  return library().resolveNumber(architecture, number) ?? `system call ${number}`;
}

function exported(write: (fd: number) => void): Buffer {
  const made = tryCall('memfd_create', 'kiln-seccomp', MFD_CLOEXEC);
  using file = closing(checked('memfd_create', made));
  write(file.fd);
  const bytes = Buffer.alloc(fstatSync(file.fd).size);
  readSync(file.fd, bytes, 0, bytes.length, 0);
  return bytes;
}
