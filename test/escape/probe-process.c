// SPDX-License-Identifier: Apache-2.0
// The init, other processes, rights, namespaces.
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/sched.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/ipc.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/shm.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include "probe.h"

static enum outcome trace_init(void) {
  // Without a stop, and undone when this process ends.
  return by_result(ptrace(PTRACE_SEIZE, 1, NULL, NULL));
}
static enum outcome trace_child(void) {
  pid_t child = fork();
  if (child == 0) {
    pause();
    _exit(0);
  }
  long result = ptrace(PTRACE_SEIZE, child, NULL, NULL);
  int error = errno;
  kill(child, SIGKILL);
  waitpid(child, NULL, 0);
  errno = error;
  return by_result(result);
}
static enum outcome read_init_memory(void) {
  char byte;
  struct iovec here = {&byte, 1}, there = {(void *)0x400000, 1};
  return by_result(process_vm_readv(1, &here, 1, &there, 1, 0));
}
static enum outcome take_init_descriptor(void) {
  int process = (int)syscall(SYS_pidfd_open, 1, 0);
  if (process < 0) return STOPPED;
  for (int fd = 3; fd < 16; fd++)
    if (syscall(SYS_pidfd_getfd, process, fd, 0) >= 0) return THROUGH;
  return STOPPED;
}
static enum outcome list_init_descriptors(void) {
  char target[64];
  return by_result(readlink("/proc/1/fd/0", target, sizeof target));
}
static enum outcome open_init_memory(void) { return by_result(open("/proc/1/mem", O_RDWR)); }
static enum outcome open_init_root(void) { return by_result(open("/proc/1/root/bin", O_RDONLY)); }
static enum outcome read_init_environment(void) {
  return by_result(open("/proc/1/environ", O_RDONLY));
}
static enum outcome spare_init_from_oom(void) {
  return write_something("/proc/1/oom_score_adj", "1000");
}
// Pid 1 lives, or this would not be here any more.
static enum outcome kill_init(void) {
  int result = kill(1, SIGKILL);
  usleep(100000);
  if (result == 0) errno = EALREADY;
  return STOPPED;
}
static enum outcome enter_init_namespace(void) {
  int fd = open("/proc/1/ns/mnt", O_RDONLY);
  return fd < 0 ? STOPPED : by_result(setns(fd, CLONE_NEWNS));
}
// A process of the host has a name that comes in the environment.
static enum outcome see_other_processes(void) {
  const char *wanted = getenv("PROBE_PROCESS");
  DIR *processes = opendir("/proc");
  if (wanted == NULL || processes == NULL) return ABSENT;
  struct dirent *entry;
  while ((entry = readdir(processes)) != NULL) {
    char path[300], name[64] = "";
    snprintf(path, sizeof path, "/proc/%s/cmdline", entry->d_name);
    FILE *file = fopen(path, "r");
    if (file == NULL) continue;
    if (fgets(name, sizeof name, file) == NULL) name[0] = 0;
    fclose(file);
    if (strcmp(name, wanted) == 0) return THROUGH;
  }
  errno = ESRCH;
  return STOPPED;
}

static enum outcome unshare_user(void) { return by_result(unshare(CLONE_NEWUSER)); }
static enum outcome unshare_mounts(void) { return by_result(unshare(CLONE_NEWNS)); }
static enum outcome unshare_pids(void) { return by_result(unshare(CLONE_NEWPID)); }
static enum outcome unshare_network(void) { return by_result(unshare(CLONE_NEWNET)); }
static enum outcome unshare_cgroups(void) { return by_result(unshare(CLONE_NEWCGROUP)); }
static enum outcome clone_with(unsigned long flags) {
  long child = syscall(SYS_clone, flags | SIGCHLD, NULL, NULL, NULL, NULL);
  if (child == 0) _exit(0);
  if (child > 0) waitpid((pid_t)child, NULL, 0);
  return by_result(child);
}
static enum outcome clone_user(void) { return clone_with(CLONE_NEWUSER); }
static enum outcome clone3_user(void) {
  struct clone_args arguments = {.flags = CLONE_NEWUSER, .exit_signal = SIGCHLD};
  long child = syscall(SYS_clone3, &arguments, sizeof arguments);
  if (child == 0) _exit(0);
  if (child > 0) waitpid((pid_t)child, NULL, 0);
  return by_result(child);
}

static enum outcome become_root(void) {
  if (geteuid() == 0) { // another user is as good
    return by_result(setgroups(0, NULL) | setresuid(12345, 12345, 12345));
  }
  return by_result(setresuid(0, 0, 0));
}
// Runs a copy of this program that its file gives rights to; `mode` is what it prints then.
static enum outcome run_with(const char *path, const char *verb) {
  pid_t child = fork();
  if (child == 0) {
    int null = open("/dev/null", O_WRONLY);
    dup2(null, 1);
    execl(path, path, verb, NULL);
    _exit(errno == ENOENT ? 99 : 98);
  }
  int status;
  waitpid(child, &status, 0);
  errno = EPERM;
  if (WIFEXITED(status) && WEXITSTATUS(status) == 99) return ABSENT;
  return WIFEXITED(status) && WEXITSTATUS(status) == 42 ? THROUGH : STOPPED;
}
static enum outcome setuid_file(void) { return run_with("/bin/probe-setuid", "am-i-root"); }
static enum outcome capability_file(void) { return run_with("/bin/probe-capable", "am-i-capable"); }
static enum outcome am_i_root(void) { _exit(geteuid() == 0 ? 42 : 1); }
static enum outcome am_i_capable(void) {
  char line[256];
  FILE *file = fopen("/proc/self/status", "r");
  while (file != NULL && fgets(line, sizeof line, file) != NULL)
    if (strncmp(line, "CapEff:", 7) == 0) _exit(strtoull(line + 7, NULL, 16) != 0 ? 42 : 1);
  _exit(1);
}
static enum outcome chroot_away(void) { return by_result(chroot("/tmp")); }
static enum outcome dump_core(void) {
  struct rlimit limit = {RLIM_INFINITY, RLIM_INFINITY};
  if (chdir("/tmp") != 0 || setrlimit(RLIMIT_CORE, &limit) != 0) return STOPPED;
  pid_t child = fork();
  if (child == 0) abort();
  int status;
  waitpid(child, &status, 0);
  errno = EPERM;
  return WCOREDUMP(status) ? THROUGH : STOPPED;
}
// Its key comes in the environment.
static enum outcome host_shared_memory(void) {
  const char *key = getenv("PROBE_SHM");
  return key == NULL ? ABSENT : by_result(shmget((key_t)strtoul(key, NULL, 16), 1, 0));
}
// As if it had been typed: on the terminal of this session, and on what standard streams are.
static enum outcome inject_terminal_input(void) {
  static const char typed[] = "typed by the probe\n";
  int fds[] = {open("/dev/tty", O_RDWR), 0, 1, 2};
  enum outcome result = STOPPED;
  for (size_t i = 0; i < sizeof fds / sizeof *fds && result == STOPPED; i++)
    for (const char *at = typed; *at != 0; at++) result = by_result(ioctl(fds[i], TIOCSTI, at));
  return result;
}
static enum outcome inherited_descriptors(void) {
  for (int fd = 3; fd < 1024; fd++) {
    struct stat st;
    if (fstat(fd, &st) != 0) continue;
    int flags = fcntl(fd, F_GETFL);
    // Our own pipe to the parent is the one that can only be written to.
    if (S_ISFIFO(st.st_mode) && (flags & O_ACCMODE) == O_WRONLY) continue;
    return THROUGH;
  }
  return STOPPED;
}

const struct verb process_verbs[] = {
    {"trace-init", trace_init},
    {"trace-child", trace_child},
    {"read-init-memory", read_init_memory},
    {"take-init-descriptor", take_init_descriptor},
    {"list-init-descriptors", list_init_descriptors},
    {"open-init-memory", open_init_memory},
    {"open-init-root", open_init_root},
    {"read-init-environment", read_init_environment},
    {"init-oom-score", spare_init_from_oom},
    {"kill-init", kill_init},
    {"enter-init-namespace", enter_init_namespace},
    {"see-other-processes", see_other_processes},
    {"unshare-user", unshare_user},
    {"unshare-mounts", unshare_mounts},
    {"unshare-pids", unshare_pids},
    {"unshare-network", unshare_network},
    {"unshare-cgroups", unshare_cgroups},
    {"clone-user", clone_user},
    {"clone3-user", clone3_user},
    {"become-another", become_root},
    {"setuid-file", setuid_file},
    {"capability-file", capability_file},
    {"am-i-root", am_i_root},
    {"am-i-capable", am_i_capable},
    {"chroot", chroot_away},
    {"core-dump", dump_core},
    {"host-shared-memory", host_shared_memory},
    {"tiocsti", inject_terminal_input},
    {"inherited-descriptors", inherited_descriptors},
    {NULL, NULL},
};
