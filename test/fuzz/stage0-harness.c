// SPDX-License-Identifier: Apache-2.0
// Stage 0 itself, native and with sanitizers, which end it at the first mistake. Cases come on standard input as
// { u32 port, u32 init, bytes[port], bytes[init] }: what the host sends through the port, and what the init sends.
// Each has a stage 0 of its own. Prints a line for each: what it answered, in bytes, and "off" if it powers off, else
// what ended it. Runs in namespaces
// of its own, in a folder with `sockets`, `shares` and `tree`.
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "stage0.h"

#define CASE_MAX (1u << 20)
#define OFF 77
#define HANG_S 20

int stage0_main(void);
int setgroups(size_t, const gid_t *);

static unsigned char bytes[2 * CASE_MAX];
static uint32_t lengths[2];
static int port_fd;

static void must(int condition) {
  if (!condition) abort();
}

// In the place of reboot(2).
int harness_reboot(int how) {
  (void)how;
  _exit(OFF);
}

int boot(void) { return port_fd; }

int group_make(pid_t pid) {
  (void)pid;
  return 0;
}

const char *group_limit(const struct wire_machine_limits *wanted) {
  errno = EINVAL;
  return wanted->pids % 7 == 3 ? "pids.max" : NULL;
}

struct wire_machine_limits group_limits(void) { return (struct wire_machine_limits){1, 2, 3}; }

struct wire_machine_usage group_usage(void) {
  struct wire_machine_usage usage;
  memset(&usage, 1, sizeof usage);
  return usage;
}

int image_mount(int share, uint32_t place) {
  (void)share;
  errno = EINVAL;
  return place % 3 == 0 ? 0 : -1;
}

int image_take(unsigned place) { return place % 3 == 2 ? open("/dev/null", O_RDONLY | O_CLOEXEC) : -1; }

int network_connect(pid_t pid, uint16_t number) {
  (void)pid, (void)number;
  int ends[2];
  if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) != 0) return -1;
  close(ends[1]);
  return ends[0];
}

int network_set(pid_t pid, const struct wire_card *card) {
  (void)pid;
  unsigned char both[32];
  memcpy(both, card->addresses, card->addresses_length);
  errno = both[0];
  return both[0] == 0 ? 0 : -1;
}

int network_listen(pid_t pid, uint16_t number) {
  (void)pid;
  struct sockaddr_un address = {.sun_family = AF_UNIX};
  int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (number % 5 == 1 || bind(fd, (struct sockaddr *)&address, sizeof(sa_family_t)) != 0) {
    close(fd);
    errno = EADDRINUSE;
    return -1;
  }
  listen(fd, 4);
  return fd;
}

static void pass(int carrier, int fd) {
  union {
    struct cmsghdr header;
    char bytes[CMSG_SPACE(sizeof(int))];
  } control = {0};
  struct iovec iov = {"", 1};
  struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1};
  msg.msg_control = control.bytes;
  msg.msg_controllen = sizeof control.bytes;
  struct cmsghdr *c = CMSG_FIRSTHDR(&msg);
  c->cmsg_level = SOL_SOCKET;
  c->cmsg_type = SCM_RIGHTS;
  c->cmsg_len = CMSG_LEN(sizeof(int));
  memcpy(CMSG_DATA(c), &fd, sizeof fd);
  if (fd >= 0) sendmsg(carrier, &msg, MSG_NOSIGNAL | MSG_DONTWAIT);
}

// Something of each kind, and of none.
static void answer_carrier(int carrier) {
  static int turn;
  int both[2];
  switch (turn++ % 6) {
  case 0: pass(carrier, open("/dev/ptmx", O_RDWR | O_NOCTTY)); break;
  case 1: pass(carrier, network_listen(0, 0)); break;
  case 2: pass(carrier, socket(AF_INET, SOCK_DGRAM, 0)); break;
  case 3: pass(carrier, open("/dev/null", O_RDWR)); break;
  case 4: pass(carrier, open("/", O_PATH | O_DIRECTORY)); break; // of a layer
  default:
    if (socketpair(AF_UNIX, SOCK_STREAM, 0, both) == 0) pass(carrier, both[0]);
  }
}

static int take(int kiln) {
  union {
    struct cmsghdr header;
    char bytes[CMSG_SPACE(sizeof(int) * FDS_MAX)];
  } control;
  char piece[4096];
  struct stat st;
  struct iovec iov = {piece, sizeof piece};
  struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1};
  msg.msg_control = control.bytes;
  msg.msg_controllen = sizeof control.bytes;
  ssize_t n = recvmsg(kiln, &msg, MSG_CMSG_CLOEXEC);
  for (struct cmsghdr *c = n > 0 ? CMSG_FIRSTHDR(&msg) : NULL; c != NULL; c = CMSG_NXTHDR(&msg, c)) {
    int fds[FDS_MAX];
    size_t count = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    memcpy(fds, CMSG_DATA(c), count * sizeof(int));
    for (size_t i = 0; i < count; i++) {
      if (fstat(fds[i], &st) == 0 && S_ISSOCK(st.st_mode)) answer_carrier(fds[i]);
      else if (write(fds[i], piece, 64) < 0) close(fds[i]);
    }
  }
  return n > 0;
}

static _Noreturn void be_init(int listener, int ready) {
  sigset_t none;
  sigemptyset(&none);
  sigprocmask(SIG_SETMASK, &none, NULL);
  prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
  must(chroot("tree") == 0 && chdir("/") == 0 && write(ready, "", 1) == 1);
  for (;;) {
    int kiln = accept(listener, NULL, NULL);
    if (kiln < 0) _exit(1);
    send(kiln, bytes + lengths[0], lengths[1], MSG_NOSIGNAL);
    while (take(kiln)) continue;
    close(kiln);
  }
}

void renew(const struct port_renew *from) { (void)from; }

pid_t sandbox_start(const struct port_begin *begin) {
  (void)begin;
  struct sockaddr_un address = {.sun_family = AF_UNIX, .sun_path = SOCKETS "/new.sock"};
  int listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0), ready[2];
  char byte;
  unlink(SOCKETS "/new.sock");
  must(bind(listener, (struct sockaddr *)&address, sizeof address) == 0 && listen(listener, 4) == 0);
  must(pipe2(ready, O_CLOEXEC) == 0);
  pid_t pid = fork();
  must(pid >= 0);
  if (pid == 0) be_init(listener, ready[1]);
  // Whatever is looked for in its files must not be looked for in the host's.
  must(read(ready[0], &byte, 1) == 1);
  close(listener), close(ready[0]), close(ready[1]);
  must(rename(SOCKETS "/new.sock", SOCKETS "/init.sock") == 0);
  return pid;
}

static _Noreturn void be_stage0(int port, int other) {
  close(other);
  port_fd = port;
  fcntl(port, F_SETFL, O_NONBLOCK);
  alarm(HANG_S);
  stage0_main();
  _exit(1);
}

// Whatever comes back is read, so that nothing waits for it.
static size_t drive(int port) {
  unsigned char back[16 << 10];
  size_t answered = 0;
  ssize_t n;
  for (uint32_t at = 0; at < lengths[0];) {
    uint32_t piece = lengths[0] - at < 1 + at % 5000 ? lengths[0] - at : 1 + at % 5000;
    if (send(port, bytes + at, piece, MSG_NOSIGNAL) != (ssize_t)piece) break;
    at += piece;
    while ((n = recv(port, back, sizeof back, MSG_DONTWAIT)) > 0) answered += (size_t)n;
  }
  // It takes some turns to answer what it has read; then it finds the end of the port.
  struct timeval patience = {.tv_usec = 3000};
  setsockopt(port, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
  for (int waiting = 1; waiting > 0;) {
    while ((n = recv(port, back, sizeof back, 0)) > 0) answered += (size_t)n;
    if (n == 0 || ioctl(port, TIOCOUTQ, &waiting) != 0) break;
  }
  while ((n = recv(port, back, sizeof back, 0)) > 0) answered += (size_t)n;
  shutdown(port, SHUT_WR);
  patience.tv_sec = HANG_S;
  setsockopt(port, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
  while ((n = recv(port, back, sizeof back, 0)) > 0) answered += (size_t)n;
  return answered;
}

int main(void) {
  while (fread(lengths, sizeof lengths, 1, stdin) == 1) {
    int ends[2], room = 4 << 20, status;
    must(lengths[0] <= CASE_MAX && lengths[1] <= CASE_MAX);
    must(fread(bytes, 1, lengths[0] + lengths[1], stdin) == lengths[0] + lengths[1]);
    must(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) == 0);
    setsockopt(ends[0], SOL_SOCKET, SO_SNDBUFFORCE, &room, sizeof room);
    unlink(SOCKETS "/init.sock");
    pid_t pid = fork();
    must(pid >= 0);
    if (pid == 0) be_stage0(ends[1], ends[0]);
    close(ends[1]);
    size_t answered = drive(ends[0]);
    must(waitpid(pid, &status, 0) == pid);
    while (waitpid(-1, NULL, WNOHANG) > 0) continue;
    close(ends[0]);
    int off = WIFEXITED(status) && WEXITSTATUS(status) == OFF;
    printf("%zu %s\n", answered, off ? "off" : WIFEXITED(status) ? "exit" : "signal");
    fflush(stdout);
  }
  return 0;
}
