// SPDX-License-Identifier: Apache-2.0
// Shuts the process in before it looks at a layer: an empty root, and no system call that changes a file.
#include <fcntl.h>
#include <linux/audit.h>
#include <linux/capability.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "reader.h"

#if defined(__x86_64__)
#define ARCHITECTURE AUDIT_ARCH_X86_64
#elif defined(__aarch64__)
#define ARCHITECTURE AUDIT_ARCH_AARCH64
#endif

#define ALLOW(name)                                                                                \
  BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_##name, 0, 1),                                           \
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW)

static struct sock_filter filter[] = {
    BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, arch)),
    BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, ARCHITECTURE, 1, 0),
    BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS),
    BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
    BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_openat, 0, 4),
    BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, args[2])),
    BPF_JUMP(BPF_JMP | BPF_JSET | BPF_K, O_ACCMODE | O_CREAT | O_TRUNC, 0, 1),
    BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS),
    BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    ALLOW(newfstatat), ALLOW(fstat), ALLOW(close), ALLOW(getdents64), ALLOW(pread64),
    ALLOW(readlinkat), ALLOW(fgetxattr), ALLOW(write), ALLOW(brk), ALLOW(mmap), ALLOW(munmap),
    ALLOW(mremap), ALLOW(madvise), ALLOW(sysinfo), ALLOW(restart_syscall), ALLOW(exit_group),
    BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS),
};

static void limit(int what, rlim_t most) {
  struct rlimit found;
  if (getrlimit(what, &found) != 0) fail("getrlimit");
  if (found.rlim_max > most) found.rlim_max = most;
  found.rlim_cur = found.rlim_max;
  if (setrlimit(what, &found) != 0) fail("setrlimit");
}

// Where something is mounted anyway; the mount namespace is this process's own.
static void leave_root(void) {
  if (mount("tmpfs", "/proc", "tmpfs", MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC,
            "size=4k,nr_inodes=2,mode=555") != 0 ||
      chdir("/proc") != 0 || syscall(SYS_pivot_root, ".", ".") != 0 || umount2(".", MNT_DETACH) != 0 ||
      chdir("/") != 0)
    fail("pivot_root");
}

// All that is left is to look at what is closed to others; the filter lets nothing be opened for writing.
static void drop_privileges(void) {
  struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
  unsigned reads = 1u << CAP_DAC_OVERRIDE;
  struct __user_cap_data_struct data[2] = {{.effective = reads, .permitted = reads}};
  if (syscall(SYS_capset, &header, data) != 0) fail("capset");
}

void enclose(void) {
  limit(RLIMIT_CORE, 0);
  limit(RLIMIT_FSIZE, 0);
  limit(RLIMIT_CPU, 600);
  limit(RLIMIT_DATA, 1u << 30);
  limit(RLIMIT_NOFILE, 1u << 14);
  // The user namespace, and a destination that there is none of.
  close(REPLY_FD + 1), close(REPLY_FD + 2);
  leave_root();
  drop_privileges();
  struct sock_fprog program = {.len = sizeof filter / sizeof *filter, .filter = filter};
  if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 ||
      prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program, 0, 0) != 0)
    fail("seccomp");
}
