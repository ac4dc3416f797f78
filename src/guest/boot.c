// SPDX-License-Identifier: Apache-2.0
#include "init.h"

#include <errno.h>
#include <sched.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "measure.h"
#include "mounts.h"

#define CGROUPS "/sys/fs/cgroup"

static int booted = -1; // pidfd of the pid 1 that was started here

static int pidfd_of(pid_t pid) { return (int)syscall(SYS_pidfd_open, pid, 0); }

pid_t boot_fork(const struct boot *boot) {
  if (boot->count == 0 && booted < 0) return fork();
  int own = pidfd_of(getpid());
  if (own < 0) return -1;
  int there = boot->count > 0 ? unshare(CLONE_NEWPID) : setns(booted, CLONE_NEWPID);
  // A pid namespace whose pid 1 has ended accepts no new processes.
  pid_t pid = there == 0 ? fork() : -1;
  if (pid == 0) return 0;
  int error = errno;
  // Later forks must not land in that namespace by mistake.
  if (setns(own, CLONE_NEWPID) != 0) _exit(1);
  close(own);
  if (pid > 0 && boot->count > 0) {
    close(booted);
    booted = pidfd_of(pid);
  }
  errno = error;
  return pid;
}

void boot_hold(const struct boot *boot, int slave) {
  static int console = -1;
  close(boot->count > 0 ? console : slave);
  if (boot->count > 0) console = slave;
}

static int make_cgroups(void) {
  if (mounts_tmpfs("/sys", 0555, 1 << 16) != 0 || mkdir("/sys/fs", 0555) != 0 ||
      mkdir(CGROUPS, 0555) != 0 || mounts_new("cgroup2", CGROUPS) != 0)
    return -1;
  return mounts_seal("/sys");
}

static int make_console(int terminal) {
  char path[32];
  int number;
  if (ioctl(terminal, TIOCGPTN, &number) != 0) return -1;
  snprintf(path, sizeof path, "/dev/pts/%d", number);
  return mounts_copy(path, "/dev/console");
}

// The host's real root has no type, and another namespace's root shows as `/..`.
static int is_delegated(void) {
  return access(CGROUPS "/cgroup.type", F_OK) == 0 && measure_hidden_cgroups();
}

uint32_t boot_prepare(const struct boot *boot, int terminal, char *facts, size_t size) {
  if (mounts_new("proc", "/proc") != 0) return FAIL_SYSTEM_PROC;
  for (unsigned i = 0; i < boot->count; i++) {
    const char *path = boot->rules[i].path;
    int readonly = boot->rules[i].rule == RULE_READONLY;
    if ((readonly ? mounts_readonly(path) : mounts_mask(path)) != 0) return FAIL_SYSTEM_RULES;
    if (!(readonly ? measure_readonly(path) : measure_masked(path))) return FAIL_OPEN_SYSTEM_PROC;
    facts_add(facts, size, "%s=%s\n", readonly ? "readonly" : "mask", path);
  }
  if (make_cgroups() != 0) return FAIL_SYSTEM_CGROUPS;
  if (!is_delegated()) return FAIL_OPEN_SYSTEM_CGROUPS;
  if (terminal >= 0 && make_console(terminal) != 0) return FAIL_SYSTEM_CONSOLE;
  return 0;
}
