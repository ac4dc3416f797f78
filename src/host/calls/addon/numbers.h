/*
 * The system calls that src/host/calls makes, with the numbers that they have on the architecture this is
 * compiled for. A new one is a line here and a name in src/host/calls/system-call.ts.
 */
#include <sys/syscall.h>

#define CALL(name) {#name, SYS_##name}

static const struct {
  const char *name;
  long number;
} call_numbers[] = {
    CALL(accept4), CALL(bind), CALL(capget), CALL(capset), CALL(close), CALL(close_range),
    CALL(connect), CALL(dup3), CALL(exit_group), CALL(fchdir), CALL(fchownat), CALL(fcntl),
    CALL(fgetxattr), CALL(flistxattr), CALL(flock), CALL(fremovexattr), CALL(fsconfig),
    CALL(fsetxattr), CALL(fsmount), CALL(fsopen), CALL(fspick), CALL(getdents64), CALL(getgroups),
    CALL(getsockopt), CALL(getxattr), CALL(ioctl), CALL(keyctl), CALL(landlock_create_ruleset),
    CALL(linkat), CALL(listen), CALL(lseek), CALL(memfd_create), CALL(mkdirat), CALL(mknodat),
    CALL(mount), CALL(mount_setattr), CALL(move_mount), CALL(open_tree), CALL(openat2),
    CALL(pidfd_open), CALL(pidfd_send_signal), CALL(pipe2), CALL(pivot_root), CALL(ppoll),
    CALL(prctl), CALL(prlimit64),
    CALL(readlinkat), CALL(renameat2), CALL(setfsgid), CALL(setfsuid), CALL(setgroups),
    CALL(setsockopt), CALL(setxattr), CALL(shutdown), CALL(socket), CALL(socketpair),
    CALL(statx), CALL(symlinkat), CALL(umount2), CALL(unlinkat), CALL(utimensat),
};
