// SPDX-License-Identifier: Apache-2.0
// Namespaces, id map, control group and root of the sandbox, as libvirt makes those of a container.
#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "stage0.h"

int setgroups(size_t, const gid_t *);

static int write_text(const char *path, const char *text) {
  int fd = open(path, O_WRONLY | O_CLOEXEC);
  if (fd < 0) return -1;
  ssize_t n = write(fd, text, strlen(text));
  int error = errno;
  close(fd);
  errno = error;
  return n == (ssize_t)strlen(text) ? 0 : -1;
}

static _Noreturn void give_up(const char *what) {
  say(what);
  _exit(1);
}

static void make_devices(void) {
  static const struct {
    const char *name;
    unsigned major, minor;
  } devices[] = {{"null", 1, 3},    {"zero", 1, 5}, {"full", 1, 7}, {"random", 1, 8},
                 {"urandom", 1, 9}, {"tty", 5, 0}};
  if (mkdir(DEVICES, 0755) != 0 ||
      mount("tmpfs", DEVICES, "tmpfs", MS_NOSUID | MS_NOEXEC, "mode=755,size=64k") != 0)
    say(DEVICES);
  for (size_t i = 0; i < sizeof devices / sizeof *devices; i++) {
    char path[64];
    snprintf(path, sizeof path, DEVICES "/%s", devices[i].name);
    dev_t device = makedev(devices[i].major, devices[i].minor);
    // The mask takes bits from the mode that mknod is given.
    if (mknod(path, S_IFCHR | 0600, device) != 0 || chmod(path, 0666) != 0) say(path);
  }
}

// libvirt takes these from a container.
static void drop_capabilities(void) {
  static const int taken[] = {CAP_SYS_MODULE, CAP_SYS_TIME, CAP_MKNOD, CAP_AUDIT_CONTROL,
                              CAP_MAC_ADMIN};
  for (size_t i = 0; i < sizeof taken / sizeof *taken; i++)
    if (prctl(PR_CAPBSET_DROP, taken[i], 0, 0, 0) != 0) give_up("drop a capability");
}

static void change_root(void) {
  if (mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) != 0 ||
      mount(SKELETON, SKELETON, NULL, MS_BIND, NULL) != 0 ||
      mount(SOCKETS, SKELETON "/.kiln", NULL, MS_BIND, NULL) != 0 ||
      mount(DEVICES, SKELETON "/dev", NULL, MS_BIND, NULL) != 0 ||
      mount("proc", SKELETON "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL) != 0 ||
      chdir(SKELETON) != 0 || mount(".", "/", NULL, MS_MOVE, NULL) != 0 || chroot(".") != 0 ||
      chdir("/") != 0)
    give_up("change the root");
}

static _Noreturn void become_init(int ready) {
  char go;
  if (read(ready, &go, 1) != 1) _exit(1);
  sigset_t none;
  sigemptyset(&none);
  sigprocmask(SIG_SETMASK, &none, NULL);
  if (setgroups(0, NULL) != 0 || setresgid(0, 0, 0) != 0 || setresuid(0, 0, 0) != 0)
    give_up("become root of the sandbox");
  if (network_up() != 0) give_up("bring up the network");
  change_root();
  drop_capabilities();
  int null = open("/dev/null", O_RDWR);
  for (int i = 0; i < 3; i++) dup2(null, i);
  syscall(SYS_close_range, 3, ~0U, 0);
  setsid();
  signal(SIGPIPE, SIG_DFL);
  char *argv[] = {"/kiln-init", NULL}, *environment[] = {NULL};
  execve(argv[0], argv, environment);
  _exit(127);
}

static void write_map(pid_t pid, const char *name) {
  char path[64], map[64];
  snprintf(path, sizeof path, "/proc/%d/%s", pid, name);
  snprintf(map, sizeof map, "0 %u %u\n", PORT_IDS, PORT_IDS_COUNT);
  if (write_text(path, map) != 0) give_up(path);
}

/** As many as on the host, which root of the sandbox could not allow itself; at most fs.nr_open, as it is at boot. */
static void allow_files(pid_t pid, rlim_t files) {
  enum { SOFT = 1024, NR_OPEN = 1 << 20 };
  struct rlimit limit = {SOFT, files < NR_OPEN ? files : NR_OPEN};
  if (prlimit(pid, RLIMIT_NOFILE, &limit, NULL) != 0) give_up("allow open files");
}

pid_t sandbox_start(const struct port_begin *begin) {
  int ready[2];
  make_devices();
  if (mkdir(SOCKETS, 0700) != 0 || chown(SOCKETS, PORT_IDS, PORT_IDS) != 0 ||
      pipe2(ready, O_CLOEXEC) != 0)
    give_up(SOCKETS);
  unsigned long kinds = CLONE_NEWUSER | CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWNET | CLONE_NEWIPC |
                        CLONE_NEWUTS;
  pid_t pid = (pid_t)syscall(SYS_clone, kinds | SIGCHLD, NULL, NULL, NULL, 0);
  if (pid < 0) give_up("make namespaces");
  if (pid == 0) become_init(ready[0]);
  allow_files(pid, begin->files);
  write_map(pid, "uid_map");
  write_map(pid, "gid_map");
  if (group_make(pid) != 0) give_up(SANDBOX_GROUP);
  if (network_give(pid) != 0) give_up("give the network card");
  if (write(ready[1], "", 1) != 1) give_up("start the init");
  close(ready[0]), close(ready[1]);
  return pid;
}
