import type { Attempt } from '../attempt.ts';

const NO_SUCH_NUMBER = { EINVAL: 'the kernel has looked at the arguments, which make no sense' };

/** A host may be made without modules, or without kexec; the filter says EPERM. */
const NO_CALL = { ENOSYS: 'a kernel without this call' };

/** System calls that nobody needs. */
export const callAttempts: readonly Attempt[] = [
  { verb: 'add-key', tries: 'a key in the kernel', layer: 'seccomp', without: 'seccomp' },
  { verb: 'keyctl-session', tries: 'the session keyring', layer: 'seccomp', without: 'seccomp' },
  { verb: 'request-key', tries: 'asking the host for a key', layer: 'seccomp', without: 'seccomp' },
  { verb: 'bpf', tries: 'bpf(2)', layer: 'seccomp', without: 'seccomp' },
  { verb: 'userfaultfd', tries: 'userfaultfd(2)', layer: 'seccomp', without: 'seccomp' },
  { verb: 'io-uring', tries: 'io_uring', layer: 'seccomp', without: 'seccomp' },
  {
    verb: 'aio',
    tries: 'io_setup(2), of whose events the whole host has 65,536',
    layer: 'seccomp',
    without: 'seccomp',
  },
  {
    verb: 'perf',
    tries: 'perf_event_open(2)',
    layer: 'seccomp',
    without: 'seccomp',
    further: { EACCES: 'Debian’s kernels leave it to the host’s root (perf_event_paranoid is 3)' },
  },
  {
    verb: 'init-module',
    tries: 'loading a module',
    layer: 'seccomp',
    without: 'sandbox',
    further: { ...NO_CALL, ENOEXEC: 'nothing is no module' },
  },
  {
    verb: 'finit-module',
    tries: 'the same from a file',
    layer: 'seccomp',
    without: 'sandbox',
    further: { ...NO_CALL, EBADF: 'the kernel has looked for the file' },
  },
  {
    verb: 'kexec',
    tries: 'another kernel',
    layer: 'seccomp',
    without: 'sandbox',
    further: { ...NO_CALL, ...NO_SUCH_NUMBER },
  },
  {
    verb: 'kexec-file',
    tries: 'the same from a file',
    layer: 'seccomp',
    without: 'sandbox',
    further: { ...NO_CALL, ...NO_SUCH_NUMBER },
  },
  {
    verb: 'clock-settime',
    tries: 'the clock',
    layer: 'seccomp',
    without: 'seccomp',
    further: NO_SUCH_NUMBER,
  },
  {
    verb: 'settimeofday',
    tries: 'the clock, the old way',
    layer: 'seccomp',
    without: 'seccomp',
    further: NO_SUCH_NUMBER,
  },
  {
    verb: 'swapon',
    tries: 'swap space',
    layer: 'seccomp',
    without: 'seccomp',
    further: NO_SUCH_NUMBER,
  },
  {
    verb: 'file-handle',
    tries: 'file handles, which know no mounts',
    layer: 'seccomp',
    without: 'seccomp',
  },
  { verb: 'fanotify', tries: 'watching a whole file system', layer: 'seccomp', without: 'seccomp' },
  {
    verb: 'kernel-log',
    tries: 'the kernel’s log',
    layer: 'seccomp',
    without: 'sandbox',
  },
  {
    verb: 'iopl',
    tries: 'I/O ports',
    layer: 'seccomp',
    without: 'seccomp',
    further: { ENOSYS: 'a kernel without CONFIG_X86_IOPL_IOPERM' },
  },
  { verb: 'personality', tries: 'READ_IMPLIES_EXEC', layer: 'seccomp', without: 'seccomp' },
  {
    verb: 'ia32-add-key',
    tries: 'a key, by the 32-bit door',
    layer: 'seccomp',
    without: 'seccomp',
  },
  {
    verb: 'ia32-socketcall',
    tries: 'AF_VSOCK, by the 32-bit door',
    layer: 'seccomp',
    without: 'seccomp',
  },
  { verb: 'ia32-aio', tries: 'io_setup, by the 32-bit door', layer: 'seccomp', without: 'seccomp' },
  {
    verb: 'x32-getpid',
    tries: 'the x32 ABI',
    layer: 'seccomp',
    without: 'seccomp',
    further: { ENOSYS: 'a kernel without CONFIG_X86_X32_ABI; the filter kills' },
  },
];
