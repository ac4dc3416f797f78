// SPDX-License-Identifier: Apache-2.0
// Bombs, of a size that does no harm where nothing stops them.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "probe.h"

static enum outcome fork_bomb(void) {
  enum outcome result = THROUGH;
  pid_t children[150];
  int count = 0, error = 0;
  for (; count < 150; count++) {
    children[count] = fork();
    if (children[count] == 0) {
      pause();
      _exit(0);
    }
    if (children[count] < 0) {
      error = errno;
      result = STOPPED;
      break;
    }
  }
  for (int i = 0; i < count; i++) kill(children[i], SIGKILL);
  while (wait(NULL) > 0) continue;
  errno = error;
  return result;
}
static enum outcome memory_bomb(void) {
  size_t size = 160u << 20;
  char *memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) return STOPPED;
  for (size_t at = 0; at < size; at += 4096) memory[at] = 1;
  return THROUGH;
}
static enum outcome disk_bomb(void) {
  static char block[1 << 20];
  int fd = open("/tmp/bomb", O_CREAT | O_WRONLY | O_TRUNC, 0600);
  memset(block, 1, sizeof block);
  enum outcome result = fd < 0 ? STOPPED : THROUGH;
  for (int i = 0; i < 40 && result == THROUGH; i++)
    result = by_result(write(fd, block, sizeof block));
  int error = errno;
  unlink("/tmp/bomb");
  errno = error;
  return result;
}
static enum outcome inode_bomb(void) {
  if (mkdir("/dev/shm/inodes", 0700) != 0 || chdir("/dev/shm/inodes") != 0) return STOPPED;
  for (int i = 0; i < 40000; i++) {
    char name[16];
    snprintf(name, sizeof name, "%d", i);
    int fd = open(name, O_CREAT | O_WRONLY, 0600);
    if (fd < 0) return STOPPED;
    close(fd);
  }
  return THROUGH;
}
// As many as one process may have, in as many processes as it takes. A child that the kernel kills
// tells nothing.
static int open_many(int most, pid_t *child) {
  int ends[2], count = 0;
  if (pipe(ends) != 0) return 0;
  *child = fork();
  if (*child == 0) {
    close(ends[0]);
    while (count < most && open("/dev/null", O_RDONLY) >= 0) count++;
    if (write(ends[1], &count, sizeof count) < 0) _exit(1);
    pause();
  }
  close(ends[1]);
  if (*child < 0 || read(ends[0], &count, sizeof count) != sizeof count) count = 0;
  close(ends[0]);
  return count;
}
static enum outcome descriptor_bomb(void) {
  enum { WANTED = 200000, CHILDREN = 300 };
  struct rlimit limit;
  if (getrlimit(RLIMIT_NOFILE, &limit) == 0) limit.rlim_cur = limit.rlim_max;
  setrlimit(RLIMIT_NOFILE, &limit);
  pid_t children[CHILDREN];
  int total = 0, count = 0, more = 1;
  for (; more > 0 && total < WANTED && count < CHILDREN; count++)
    total += more = open_many(WANTED - total, &children[count]);
  for (int i = 0; i < count; i++)
    if (children[i] > 0) kill(children[i], SIGKILL);
  while (wait(NULL) > 0) continue;
  errno = ENFILE;
  return total >= WANTED ? THROUGH : STOPPED;
}

// Bytes that wait in sockets: written, and read by nobody.
enum { WAITING = 100 << 20, SOCKETS = 400 };
static char block[60000];

static struct sockaddr_in listen_at(int type, int *fd) {
  struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
  socklen_t length = sizeof address;
  int much = 1 << 20;
  *fd = socket(AF_INET, type, 0);
  setsockopt(*fd, SOL_SOCKET, SO_RCVBUF, &much, sizeof much);
  if (bind(*fd, (struct sockaddr *)&address, length) == 0) listen(*fd, SOCKETS);
  getsockname(*fd, (struct sockaddr *)&address, &length);
  return address;
}
static enum outcome stream_bomb(void) {
  int listener;
  struct sockaddr_in address = listen_at(SOCK_STREAM, &listener);
  long waiting = 0;
  for (int i = 0; i < SOCKETS && waiting < WAITING; i++) {
    int to = socket(AF_INET, SOCK_STREAM, 0);
    if (connect(to, (struct sockaddr *)&address, sizeof address) != 0 || accept(listener, NULL, NULL) < 0)
      break;
    // Acknowledgements take a moment, and the buffer grows with them.
    for (int again = 0; again < 20; again++) {
      ssize_t n = send(to, block, sizeof block, MSG_DONTWAIT);
      if (n < 0) usleep(200);
      else waiting += n, again = 0;
    }
  }
  errno = ENOBUFS;
  return waiting >= WAITING ? THROUGH : STOPPED;
}
// A datagram that finds no room is lost without a word: what waits is what can be read.
static enum outcome datagram_bomb(void) {
  int fds[SOCKETS], from = socket(AF_INET, SOCK_DGRAM, 0);
  long waiting = 0;
  for (int i = 0; i < SOCKETS; i++) {
    struct sockaddr_in address = listen_at(SOCK_DGRAM, &fds[i]);
    for (int n = 0; n < 8; n++)
      sendto(from, block, sizeof block, 0, (struct sockaddr *)&address, sizeof address);
  }
  for (int i = 0; i < SOCKETS; i++)
    for (ssize_t n; (n = recv(fds[i], block, sizeof block, MSG_DONTWAIT)) > 0;) waiting += n;
  errno = ENOBUFS;
  return waiting >= WAITING ? THROUGH : STOPPED;
}

// What all sandboxes and the host share: more than one sandbox may have, and let go at once.
static enum outcome many_terminals(void) {
  for (int i = 0; i < 65; i++)
    if (posix_openpt(O_RDWR | O_NOCTTY) < 0) return STOPPED;
  return THROUGH;
}

static enum outcome many_signals(void) {
  union sigval none = {0};
  sigset_t all;
  sigfillset(&all);
  sigprocmask(SIG_BLOCK, &all, NULL);
  for (int i = 0; i < 1025; i++)
    if (sigqueue(getpid(), SIGRTMIN, none) != 0) return STOPPED;
  return THROUGH;
}
// A queue is counted with all that it may hold.
static enum outcome many_queues(void) {
  struct rlimit limit;
  errno = EMFILE;
  return getrlimit(RLIMIT_MSGQUEUE, &limit) == 0 && limit.rlim_cur > 819200 / 8 ? THROUGH : STOPPED;
}
// What the host has: SELinux may keep a command from reading it.
static long an_eighth_of(const char *name) {
  const char *text = getenv(name);
  return text == NULL ? -1 : atol(text) / 8;
}
static long inotify_share(void) { return an_eighth_of("PROBE_INOTIFY"); }
static enum outcome many_inotify(void) {
  for (long n = inotify_share(); n >= 0; n--)
    if (inotify_init1(0) < 0) return STOPPED;
  return THROUGH;
}
// The kernel bounds what each id has.
static enum outcome many_inotify_ids(void) {
  long most = inotify_share();
  for (long n = 0; n <= most; n++)
    if (setresuid((uid_t)n + 1, (uid_t)n + 1, 0) != 0 || inotify_init1(0) < 0 ||
        setresuid(0, 0, 0) != 0)
      return STOPPED;
  return most < 0 ? STOPPED : THROUGH;
}
// Room for one is enough to tell: ENOMEM is what the kernel says when the host's pool is empty.
static enum outcome of_pool(int made) { return made < 0 && errno == ENOMEM ? THROUGH : by_result(made); }
static enum outcome huge_pages(void) {
  int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB;
  void *memory = mmap(NULL, 2 << 20, PROT_READ | PROT_WRITE, flags, -1, 0);
  return of_pool(memory == MAP_FAILED ? -1 : 0);
}
static enum outcome huge_file(void) { return of_pool(memfd_create("huge", MFD_HUGETLB)); }
static enum outcome socket_filter(void) {
  struct sock_filter all = {BPF_RET | BPF_K, 0, 0, 0xffff};
  struct sock_fprog program = {1, &all};
  int fd = socket(AF_UNIX, SOCK_DGRAM, 0);
  return by_result(setsockopt(fd, SOL_SOCKET, SO_ATTACH_FILTER, &program, sizeof program));
}
#ifdef __x86_64__
static enum outcome ia32_huge_pages(void) {
  static unsigned arguments[6] = {0, 2 << 20, 3, 0x40022, ~0U, 0};
  long result;
  __asm__ volatile("int $0x80"
                   : "=a"(result)
                   : "a"(90 /* mmap */), "b"((unsigned long)arguments)
                   : "memory", "r8", "r9", "r10", "r11");
  errno = (int)-result;
  return of_pool(result < 0 && result > -4096 ? -1 : 0);
}
#else
static enum outcome ia32_huge_pages(void) { return ABSENT; }
#endif
static enum outcome many_netlink(void) {
  for (int n = 0; n < 33; n++)
    if (socket(AF_NETLINK, SOCK_RAW, 0) < 0) return STOPPED;
  return THROUGH;
}
// Each instance watches each file.
static enum outcome many_watches(void) {
  enum { INSTANCES = 8 };
  int fds[INSTANCES], error = 0;
  long left = an_eighth_of("PROBE_WATCHES");
  char folder[] = "/dev/shm/watched-XXXXXX", name[64];
  if (left < 0 || mkdtemp(folder) == NULL) return STOPPED;
  for (int i = 0; i < INSTANCES; i++)
    if ((fds[i] = inotify_init1(0)) < 0) return STOPPED;
  long files = left / INSTANCES + 1;
  for (long f = 0; f < files; f++) {
    snprintf(name, sizeof name, "%s/%ld", folder, f);
    close(open(name, O_CREAT | O_WRONLY, 0600));
    for (int i = 0; i < INSTANCES && error == 0; i++)
      if (inotify_add_watch(fds[i], name, IN_MODIFY) < 0) error = errno;
  }
  for (long f = 0; f < files; f++) {
    snprintf(name, sizeof name, "%s/%ld", folder, f);
    unlink(name);
  }
  rmdir(folder);
  errno = error;
  return error == 0 ? THROUGH : STOPPED;
}

// As much as there is of what all sandboxes share, and keeps it. Root has signals by each of its ids.
static int one_signal(void) { return sigqueue(getpid(), SIGRTMIN, (union sigval){0}); }
static int one_timer(void) {
  timer_t timer;
  struct sigevent none = {.sigev_notify = SIGEV_NONE};
  return timer_create(CLOCK_MONOTONIC, &none, &timer);
}
static int one_terminal(void) { return posix_openpt(O_RDWR | O_NOCTTY); }
static int one_inotify(void) { return inotify_init1(0); }
static int one_netlink(void) { return socket(AF_NETLINK, SOCK_RAW, 0); }
static int one_aio(void) {
  unsigned long context = 0;
  return (int)syscall(SYS_io_setup, 1024, &context);
}
static int (*const ones[])(void) = {one_signal, one_timer, one_terminal, one_inotify, one_netlink};
static void block_signals(void) {
  sigset_t all;
  sigfillset(&all);
  sigprocmask(SIG_BLOCK, &all, NULL);
}
static enum outcome take_all(void) {
  long taken[sizeof ones / sizeof *ones] = {0};
  block_signals();
  for (uid_t id = getuid(); id < 1000 + (getuid() == 0 ? 0 : 1); id++) {
    if (setresuid(id, id, 0) != 0 && id == 0) return STOPPED;
    for (size_t kind = 0; kind < sizeof ones / sizeof *ones; kind++)
      while (taken[kind] < 200000 && ones[kind]() >= 0) taken[kind]++;
    if (getuid() != 0 && setresuid(0, 0, 0) != 0) break;
  }
  while (one_aio() == 0) continue;
  printf("taken\t%ld\t%ld\t%ld\t%ld\t%ld\n", taken[0], taken[1], taken[2], taken[3], taken[4]);
  fflush(stdout);
  alarm(0);
  pause();
  return THROUGH;
}
static enum outcome one_of_each(void) {
  block_signals();
  for (size_t kind = 0; kind < sizeof ones / sizeof *ones; kind++)
    if (ones[kind]() < 0) return STOPPED;
  return by_result(inotify_add_watch(inotify_init1(0), "/", IN_MODIFY));
}

const struct verb limit_verbs[] = {
    {"fork-bomb", fork_bomb},   {"memory-bomb", memory_bomb},         {"disk-bomb", disk_bomb},
    {"inode-bomb", inode_bomb}, {"descriptor-bomb", descriptor_bomb},
    {"stream-bomb", stream_bomb}, {"datagram-bomb", datagram_bomb},
    {"many-signals", many_signals},
    {"many-queues", many_queues}, {"many-terminals", many_terminals},
    {"many-inotify", many_inotify}, {"many-inotify-ids", many_inotify_ids},
    {"take-all", take_all}, {"one-of-each", one_of_each}, {"many-netlink", many_netlink}, {"huge-pages", huge_pages}, {"huge-file", huge_file},
    {"ia32-huge-pages", ia32_huge_pages}, {"socket-filter", socket_filter}, {"many-watches", many_watches}, {NULL, NULL},
};
