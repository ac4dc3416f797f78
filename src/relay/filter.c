// SPDX-License-Identifier: Apache-2.0
// Filters of system calls for what reads what a guest sends.
#include <errno.h>
#include <fcntl.h>

#include "bpf.h"
#include "relay.h"

// What is left to the relay: another call kills it.
static struct sock_filter relay_filter[] = {
    FILTER_BEGIN,
    ALLOW(read), ALLOW(write), ALLOW(recvmsg), ALLOW(sendmsg), ALLOW(sendto), ALLOW(ppoll),
#ifdef SYS_poll
    ALLOW(poll),
#endif
    ALLOW(close), ALLOW(fcntl), ALLOW(ioctl), ALLOW(fstat), ALLOW(newfstatat), ALLOW(fstatfs),
    ALLOW(openat), ALLOW(mkdirat), ALLOW(move_mount), ALLOW(pwrite64), ALLOW(accept4), ALLOW(listen),
    ALLOW(socket), ALLOW(socketpair), ALLOW(bind), ALLOW(connect), ALLOW(setsockopt),
    ALLOW(renameat), ALLOW(renameat2), ALLOW(shutdown), ALLOW(wait4), ALLOW(brk), ALLOW(mmap),
    ALLOW(munmap), ALLOW(mremap), ALLOW(madvise), ALLOW(prlimit64), ALLOW(restart_syscall),
    ALLOW(exit_group),
    ALLOW(getrandom), ALLOW(clock_gettime), // where the vDSO has no clock
    KILL,
};

#define SET_ID 06000
#define FAIL(error) BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | (error))

// A call with a mode, which must have no such bit.
#define MODE(name, argument)                                                                       \
  BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_##name, 0, 4), LOAD(args[argument]),                     \
      BPF_JUMP(BPF_JMP | BPF_JSET | BPF_K, SET_ID, 0, 1), FAIL(EPERM), ALLOWED

// One whose mode counts only where it makes a file.
#define MODE_OF_NEW(name, flags, argument)                                                         \
  BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_##name, 0, 6), LOAD(args[flags]),                        \
      BPF_JUMP(BPF_JMP | BPF_JSET | BPF_K, O_CREAT | (O_TMPFILE & ~O_DIRECTORY), 0, 3),            \
      LOAD(args[argument]), BPF_JUMP(BPF_JMP | BPF_JSET | BPF_K, SET_ID, 0, 1), FAIL(EPERM), ALLOWED

#define ABSENT(name) BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_##name, 0, 1), FAIL(ENOSYS)

// A set-id file in a bind would be the caller's, on the host. A sandbox's own filter refuses it in the guest, but a
// guest that has broken its kernel asks virtiofsd. In openat2 and io_uring no filter sees the mode.
static struct sock_filter files_filter[] = {
    FILTER_BEGIN,
#ifdef __x86_64__
    BPF_JUMP(BPF_JMP | BPF_JGE | BPF_K, 0x40000000, 0, 1), // x32
    KILL,
    MODE(chmod, 1), MODE(creat, 1), MODE(mkdir, 1), MODE(mknod, 1), MODE_OF_NEW(open, 1, 2),
#endif
    MODE(fchmod, 1), MODE(fchmodat, 2), MODE(mkdirat, 2), MODE(mknodat, 2), MODE_OF_NEW(openat, 2, 3),
#ifdef SYS_fchmodat2
    MODE(fchmodat2, 2),
#endif
    ABSENT(openat2), ABSENT(io_uring_setup), ALLOWED,
};

static void enter(struct sock_filter *filter, size_t length) {
  if (enter_filter(filter, length) != 0) die("seccomp");
}

void filter_enter(void) { enter(relay_filter, sizeof relay_filter / sizeof *relay_filter); }

void filter_files(void) { enter(files_filter, sizeof files_filter / sizeof *files_filter); }
