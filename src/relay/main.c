// SPDX-License-Identifier: Apache-2.0
// Stands between kiln and a machine: kiln finds a socket that speaks as the init of a container does, qemu finds the
// other end of the machine's port. Two processes: the outer one has qemu's pidfd and kills it when the inner one
// ends; the inner one reads what the guest sends, in namespaces of its own, with virtiofsd as its child. Whatever ends
// first, the others follow.
#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "relay.h"

// qemu connects before a guest's first instruction; libvirt may take long to start it.
#define START_MS 180000
#define OPEN_FILES 1000000

_Noreturn void die(const char *what) {
  dprintf(2, "kiln-relay: %s: %s\n", what, strerror(errno));
  leave_relay(1);
}

void leave_relay(int status) { _exit(status); }

// Owned by `owner`, who alone can connect.
static int bind_in(int folder, const char *name, uid_t owner) {
  int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  struct sockaddr_un address = {.sun_family = AF_UNIX};
  snprintf(address.sun_path, sizeof address.sun_path, "/proc/self/fd/%d/%s", folder, name);
  unlinkat(folder, name, 0);
  if (fd < 0 || bind(fd, (struct sockaddr *)&address, sizeof address) != 0 ||
      fchownat(folder, name, owner, owner, AT_SYMLINK_NOFOLLOW) != 0 ||
      fchmodat(folder, name, 0600, 0) != 0)
    die(name);
  return fd;
}

static int listen_in(int folder, const char *name, uid_t owner) {
  int fd = bind_in(folder, name, owner);
  if (listen(fd, 1) != 0) die(name);
  return fd;
}

static void write_map(pid_t pid, const char *name, uint32_t base, uint32_t count) {
  char path[64], map[64];
  snprintf(path, sizeof path, "/proc/%d/%s", pid, name);
  int length = snprintf(map, sizeof map, "0 %u %u\n", base, count);
  int fd = open(path, O_WRONLY | O_CLOEXEC);
  if (fd < 0 || write(fd, map, (size_t)length) != length) die(path);
  close(fd);
}

static int pidfd_of(pid_t pid) { return (int)syscall(SYS_pidfd_open, pid, 0); }

// The process that connected; it lives as long as its connection.
static int peer(int fd, pid_t *pid) {
  struct ucred peer;
  socklen_t length = sizeof peer;
  if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &length) != 0) return -1;
  *pid = peer.pid;
  return pidfd_of(peer.pid);
}

// All that is left for the outer process to do is to kill qemu, which is another user's.
static void keep_only_kill(void) {
  struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
  struct __user_cap_data_struct data[2] = {{.effective = 1u << CAP_KILL, .permitted = 1u << CAP_KILL}};
  for (int i = 0; prctl(PR_CAPBSET_READ, i, 0, 0, 0) >= 0; i++) prctl(PR_CAPBSET_DROP, i, 0, 0, 0);
  if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 || syscall(SYS_capset, &header, data) != 0)
    die("give up capabilities");
}

static int ending(void) {
  sigset_t mask;
  sigemptyset(&mask);
  sigaddset(&mask, SIGTERM);
  sigprocmask(SIG_BLOCK, &mask, NULL);
  return signalfd(-1, &mask, SFD_CLOEXEC);
}

// Whoever started this one listens, for as long as it lives.
static void tell(const char *line) {
  if (write(1, line, strlen(line)) < 0) return;
}

static void tell_nobody(void) {
  int null = open("/dev/null", O_RDWR | O_CLOEXEC);
  for (int i = 0; i < 2; i++) dup2(null, i);
  close(null);
}

static _Noreturn void finish(int inner, int qemu) {
  syscall(SYS_pidfd_send_signal, inner, SIGKILL, NULL, 0);
  if (qemu >= 0) syscall(SYS_pidfd_send_signal, qemu, SIGKILL, NULL, 0);
  while (waitpid(-1, NULL, __WALL) > 0 || errno == EINTR) continue;
  _exit(0);
}

// For kiln: whose number this is as long as this process lives.
static void note_qemu(int folder, pid_t pid) {
  int fd = openat(folder, "qemu.pid", O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
  if (fd < 0 || dprintf(fd, "%d\n", pid) < 0) die("qemu.pid");
  close(fd);
}

static _Noreturn void watch(int inner, int link, int port, int console, int folder) {
  int qemu = -1, signals = ending();
  char byte;
  for (;;) {
    struct pollfd polled[] = {{.fd = inner, .events = POLLIN},   {.fd = qemu, .events = POLLIN},
                              {.fd = port, .events = POLLIN},    {.fd = console, .events = POLLIN},
                              {.fd = signals, .events = POLLIN}, {.fd = link, .events = POLLIN}};
    int ready = poll(polled, 6, port >= 0 ? START_MS : -1);
    if (ready < 0 && errno == EINTR) continue;
    if (ready <= 0 || polled[0].revents != 0 || polled[1].revents != 0 || polled[4].revents != 0)
      finish(inner, qemu);
    if (polled[5].revents != 0) {
      if (recv(link, &byte, 1, 0) != 1) finish(inner, qemu);
      tell("open\n");
      tell_nobody();
    }
    // The first connection of each is qemu's, and there is no other.
    for (int i = 2; i < 4; i++) {
      if (polled[i].revents == 0) continue;
      int fd = accept4(polled[i].fd, NULL, NULL, SOCK_CLOEXEC);
      if (fd < 0) continue;
      pid_t pid;
      if (i == 2 && (qemu = peer(fd, &pid)) < 0) finish(inner, qemu);
      if (i == 2) note_qemu(folder, pid);
      if (send_descriptor(link, i == 2 ? LINK_PORT : LINK_CONSOLE, fd) != 0) finish(inner, qemu);
      close(fd);
      close(polled[i].fd);
      *(i == 2 ? &port : &console) = -1;
    }
  }
}

static void raise_open_files(void) {
  struct rlimit limit;
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0) return;
  // virtiofsd holds a descriptor for each file that the guest knows.
  struct rlimit more = {OPEN_FILES, OPEN_FILES};
  if (limit.rlim_max < OPEN_FILES && setrlimit(RLIMIT_NOFILE, &more) == 0) return;
  limit.rlim_cur = limit.rlim_max;
  setrlimit(RLIMIT_NOFILE, &limit);
}

static void join_group(const char *path) {
  int fd = open(path, O_WRONLY | O_CLOEXEC);
  if (fd < 0 || write(fd, "0", 1) != 1) die(path);
  close(fd);
}

// kiln-relay FOLDER BASE COUNT USER VIRTIOFSD MACHINE GROUP…: the sandbox's folder, the ids of its user namespace, qemu's
// user, whether the machine boots, is saved or restored, and the control groups to be in.
int main(int argc, char **argv) {
  if (argc < 7) return 2;
  syscall(SYS_close_range, 3, ~0U, 0);
  signal(SIGPIPE, SIG_IGN);
  umask(077);
  for (int i = 7; i < argc; i++) join_group(argv[i]);
  struct inner inner = {.base = (uint32_t)strtoul(argv[2], NULL, 10),
                        .count = (uint32_t)strtoul(argv[3], NULL, 10),
                        .virtiofsd = argv[5],
                        .machine = strcmp(argv[6], "saved") == 0      ? MACHINE_IS_SAVED
                                   : strcmp(argv[6], "restored") == 0 ? MACHINE_IS_RESTORED
                                                                      : MACHINE_BOOTS};
  uid_t user = (uid_t)strtoul(argv[4], NULL, 10);
  char machine[4096], init[4096];
  snprintf(machine, sizeof machine, "%s/machine", argv[1]);
  snprintf(init, sizeof init, "%s/init", argv[1]);
  int folder = open(machine, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  inner.folder = open(init, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (folder < 0 || inner.folder < 0) die(argv[1]);
  inner.work = machine;
  int port = listen_in(folder, "port.sock", user), console = listen_in(folder, "console.sock", user);
  inner.files = listen_in(folder, "files.sock", user);
  inner.listener = bind_in(inner.folder, "new.sock", inner.base);
  raise_open_files();
  inner.console = openat(folder, "console.log", O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

  int link[2];
  if (inner.console < 0 || socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, link) != 0)
    die("prepare");
  unsigned long kinds = CLONE_NEWUSER | CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWIPC | CLONE_NEWUTS |
                        CLONE_NEWNET | CLONE_NEWCGROUP;
  int pidfd = -1;
  pid_t child = (pid_t)syscall(SYS_clone, kinds | SIGCHLD | CLONE_PIDFD, NULL, &pidfd, NULL, 0);
  if (child < 0) die("make namespaces");
  if (child == 0) {
    close(link[0]), close(port), close(console), close(folder);
    inner.link = link[1];
    inside_enter(&inner);
    filter_enter();
    serve_begin(&inner);
    if (send(inner.link, "", 1, MSG_NOSIGNAL) != 1) _exit(1);
    for (;;) serve_turn(-1);
  }
  close(link[1]), close(inner.files), close(inner.listener), close(inner.folder);
  close(inner.console);
  write_map(child, "uid_map", inner.base, inner.count);
  write_map(child, "gid_map", inner.base, inner.count);
  keep_only_kill();
  char up;
  if (send(link[0], "", 1, MSG_NOSIGNAL) != 1 || recv(link[0], &up, 1, 0) != 1) {
    waitpid(child, NULL, __WALL);
    return 1;
  }
  tell("ready\n");
  watch(pidfd, link[0], port, console, folder);
}
