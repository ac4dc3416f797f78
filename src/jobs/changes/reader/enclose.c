// SPDX-License-Identifier: Apache-2.0
// Shuts the process in before it looks at a layer: an empty root, and no system call that changes a file.
#include <fcntl.h>
#include <linux/capability.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <unistd.h>

#include "bpf.h"
#include "reader.h"

static struct sock_filter filter[] = {
    FILTER_BEGIN,
    BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_openat, 0, 4), LOAD(args[2]),
    BPF_JUMP(BPF_JMP | BPF_JSET | BPF_K, O_ACCMODE | O_CREAT | O_TRUNC, 0, 1), KILL, ALLOWED,
    ALLOW(newfstatat), ALLOW(fstat), ALLOW(close), ALLOW(getdents64), ALLOW(pread64),
    ALLOW(readlinkat), ALLOW(fgetxattr), ALLOW(write), ALLOW(brk), ALLOW(mmap), ALLOW(munmap),
    ALLOW(mremap), ALLOW(madvise), ALLOW(sysinfo), ALLOW(restart_syscall), ALLOW(exit_group),
    KILL,
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
  limit(RLIMIT_CPU, CPU_SECONDS_MAX);
  limit(RLIMIT_DATA, MEMORY_MAX);
  limit(RLIMIT_NOFILE, FIRST_FD + FILES_MAX);
  close(USER_NAMESPACE_FD), close(DESTINATION_FD);
  leave_root();
  drop_privileges();
  if (enter_filter(filter, sizeof filter / sizeof *filter) != 0) fail("seccomp");
}
