// SPDX-License-Identifier: Apache-2.0
#include "confine.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/inotify.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "bpf.h"
#include "protocol.h"

#ifndef SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV
#define SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV (1UL << 5)
#endif

int filter_load(struct sock_fprog *enforced, int asking) {
  if (fault("seccomp")) return 0;
  if (!asking) return prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, enforced, 0, 0);
  return (int)syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER,
                      SECCOMP_FILTER_FLAG_NEW_LISTENER | SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV,
                      enforced);
}

struct filter {
  int pid;      // 0: its end has been reported
  int listener; // 0: no process has the filter any more
  struct sock_fprog verdicts;
  struct wire_refused refused[REFUSED_MAX];
  uint32_t kinds;
};

#define FILTERS_MAX 512 // a command that has ended keeps its own while its children live

static struct filter filters[FILTERS_MAX];
static struct sock_filter programs[FILTERS_MAX][BPF_MAXINSNS]; // untouched pages cost nothing
static int waiting = -1;

int filter_fd(void) { return waiting; }

static struct filter *free_place(void) {
  for (int i = 0; i < FILTERS_MAX; i++)
    if (filters[i].listener == 0 && filters[i].pid == 0) return &filters[i];
  errno = EAGAIN;
  return NULL;
}

int filter_take(int pid, int number, const struct sock_fprog *verdicts) {
  struct filter *filter = free_place();
  if (filter == NULL) return -1;
  if (waiting < 0 && (waiting = epoll_create1(EPOLL_CLOEXEC)) < 0) return -1;
  int process = (int)syscall(SYS_pidfd_open, pid, 0);
  if (process < 0) return -1;
  int listener = closing(process, (int)syscall(SYS_pidfd_getfd, process, number, 0));
  if (listener < 0) return -1;
  struct epoll_event event = {.events = EPOLLIN, .data.ptr = filter};
  if (epoll_ctl(waiting, EPOLL_CTL_ADD, listener, &event) != 0) return closing(listener, -1);
  struct sock_filter *program = programs[filter - filters];
  memcpy(program, verdicts->filter, verdicts->len * sizeof *program);
  *filter = (struct filter){.pid = pid, .listener = listener, .verdicts = {verdicts->len, program}};
  return 0;
}

uint32_t filter_refused(int pid, const struct wire_refused **out) {
  for (int i = 0; i < FILTERS_MAX; i++)
    if (filters[i].pid == pid) {
      *out = filters[i].refused;
      return filters[i].kinds;
    }
  return 0;
}

void filter_reported(int pid) {
  for (int i = 0; i < FILTERS_MAX; i++)
    if (filters[i].pid == pid) filters[i].pid = 0;
}

// The classic BPF of seccomp(2), linux/filter.h. An unknown instruction refuses the call with ENOSYS.
static uint32_t verdict(const struct sock_fprog *program, const struct seccomp_data *data) {
  const uint32_t unknown = SECCOMP_RET_ERRNO | ENOSYS;
  uint32_t a = 0, x = 0, memory[BPF_MEMWORDS] = {0};
  for (unsigned pc = 0; pc < program->len; pc++) {
    const struct sock_filter *f = &program->filter[pc];
    uint32_t operand = BPF_SRC(f->code) == BPF_X ? x : f->k;
    switch (BPF_CLASS(f->code)) {
    case BPF_LD:
      if (BPF_MODE(f->code) == BPF_IMM) a = f->k;
      else if (BPF_MODE(f->code) == BPF_MEM && f->k < BPF_MEMWORDS) a = memory[f->k];
      else if (BPF_MODE(f->code) == BPF_ABS && f->k <= sizeof *data - 4)
        memcpy(&a, (const char *)data + f->k, 4);
      else return unknown;
      break;
    case BPF_ALU:
      if (BPF_OP(f->code) == BPF_AND) a &= operand;
      else if (BPF_OP(f->code) == BPF_OR) a |= operand;
      else return unknown;
      break;
    case BPF_JMP: {
      int yes;
      if (BPF_OP(f->code) == BPF_JA) {
        if (f->k >= program->len - pc) return unknown;
        pc += f->k;
        break;
      }
      if (BPF_OP(f->code) == BPF_JEQ) yes = a == operand;
      else if (BPF_OP(f->code) == BPF_JGT) yes = a > operand;
      else if (BPF_OP(f->code) == BPF_JGE) yes = a >= operand;
      else if (BPF_OP(f->code) == BPF_JSET) yes = (a & operand) != 0;
      else return unknown;
      pc += yes ? f->jt : f->jf;
      break;
    }
    case BPF_ST:
      if (f->k < BPF_MEMWORDS) memory[f->k] = a;
      break;
    case BPF_MISC:
      if (BPF_MISCOP(f->code) == BPF_TAX) x = a;
      else a = x;
      break;
    case BPF_RET: return BPF_RVAL(f->code) == BPF_A ? a : f->k;
    default: return unknown;
    }
  }
  return unknown;
}

int filter_lets_write(const struct sock_fprog *program, int fd, const void *bytes, size_t length) {
  struct seccomp_data data = {
      .nr = SYS_write, .arch = ARCHITECTURE, .args = {(uint64_t)fd, (uintptr_t)bytes, length}};
  uint32_t kind = verdict(program, &data) & SECCOMP_RET_ACTION_FULL;
  return kind == SECCOMP_RET_ALLOW || kind == SECCOMP_RET_LOG;
}

static void count(struct filter *filter, const struct seccomp_data *data, uint32_t action) {
  if (rights_is_probe(data->nr, data->args[0])) return;
  for (uint32_t i = 0; i < filter->kinds; i++) {
    struct wire_refused *known = &filter->refused[i];
    if (known->number == data->nr && known->architecture == data->arch && known->action == action) {
      if (known->count < UINT32_MAX) known->count++;
      return;
    }
  }
  if (filter->kinds < REFUSED_MAX)
    filter->refused[filter->kinds++] = (struct wire_refused){data->arch, data->nr, action, 1};
}

// What the init makes in a command's place, when the command's filter asks. The kernel counts an inotify instance to the
// id that makes it, and root of a sandbox has 65536; what waits in netlink's sockets it counts to nobody, whatever the
// limit of memory. The init makes them all, so they are counted together.

#define NETLINK_MAX 32 // with 8 MiB each where the host allows most (net.core.rmem_max, doubled)

enum kind { INOTIFY, INOTIFY_FLAGS, SOCKET };
static const struct {
  uint32_t architecture;
  int number;
  enum kind kind;
} calls[] = {
#ifdef __x86_64__
    {AUDIT_ARCH_X86_64, 253, INOTIFY},      {AUDIT_ARCH_X86_64, 294, INOTIFY_FLAGS},
    {AUDIT_ARCH_X86_64, 41, SOCKET},        {AUDIT_ARCH_I386, 291, INOTIFY},
    {AUDIT_ARCH_I386, 332, INOTIFY_FLAGS},  {AUDIT_ARCH_I386, 359, SOCKET},
#else
    {AUDIT_ARCH_AARCH64, 26, INOTIFY_FLAGS}, {AUDIT_ARCH_AARCH64, 198, SOCKET},
    {AUDIT_ARCH_ARM, 316, INOTIFY},          {AUDIT_ARCH_ARM, 360, INOTIFY_FLAGS},
    {AUDIT_ARCH_ARM, 281, SOCKET},
#endif
};

static int proc = -1, network = -1;
// An epoll has a file until its last descriptor is closed, by whomever, and lists what it has.
static int living = -1, list = -1;

int lend_prepare(void) {
  char path[64];
  proc = open("/proc", O_PATH | O_DIRECTORY | O_CLOEXEC);
  network = open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC);
  living = epoll_create1(EPOLL_CLOEXEC);
  snprintf(path, sizeof path, "/proc/self/fdinfo/%d", living);
  list = open(path, O_RDONLY | O_CLOEXEC);
  return proc < 0 || network < 0 || living < 0 || list < 0 ? -1 : 0;
}

static int count_living(void) {
  static char text[128 * (NETLINK_MAX + 2)];
  ssize_t length = pread(list, text, sizeof text - 1, 0);
  if (length < 0) return NETLINK_MAX;
  text[length] = 0;
  int count = 0;
  for (const char *at = text; (at = strstr(at, "tfd:")) != NULL; at++) count++;
  return count;
}

struct errand {
  int network, type, protocol, fd, error;
};

static int open_there(void *argument) {
  struct errand *errand = argument;
  if (setns(errand->network, CLONE_NEWNET) == 0)
    errand->fd = socket(AF_NETLINK, errand->type | SOCK_CLOEXEC, errand->protocol);
  errand->error = errno;
  return 0;
}

// By a process that shares the init's memory and descriptors: from the host's network there is no way back.
static int open_elsewhere(int other, int type, int protocol) {
  static char stack[16 << 10] __attribute__((aligned(16)));
  struct errand errand = {other, type, protocol, -1, EAGAIN};
  pid_t pid = clone(open_there, stack + sizeof stack, CLONE_VM | CLONE_VFORK | CLONE_FILES | SIGCHLD, &errand);
  if (pid < 0) return -1;
  while (waitpid(pid, NULL, __WALL) < 0 && errno == EINTR) continue;
  errno = errand.error;
  return errand.fd;
}

// In the network namespace of the thread `pid`, which may have one of its own.
static int netlink_socket(uint32_t pid, int type, int protocol) {
  char path[32];
  struct stat own, its;
  if (count_living() >= NETLINK_MAX) return failing(ENOBUFS);
  snprintf(path, sizeof path, "%u/ns/net", pid);
  int other = openat(proc, path, O_RDONLY | O_CLOEXEC);
  if (other < 0) return -1;
  if (fstat(network, &own) != 0 || fstat(other, &its) != 0) return closing(other, -1);
  int fd = own.st_ino == its.st_ino && own.st_dev == its.st_dev
               ? socket(AF_NETLINK, type | SOCK_CLOEXEC, protocol)
               : open_elsewhere(other, type, protocol);
  closing(other, fd);
  struct epoll_event none = {0};
  return fd < 0 || epoll_ctl(living, EPOLL_CTL_ADD, fd, &none) == 0 ? fd : closing(fd, -1);
}

static int make(enum kind kind, uint32_t pid, const struct seccomp_data *data) {
  switch (kind) {
  case INOTIFY: return inotify_init1(IN_CLOEXEC);
  case INOTIFY_FLAGS: return inotify_init1((int)data->args[0] | IN_CLOEXEC);
  default: return netlink_socket(pid, (int)data->args[1], (int)data->args[2]);
  }
}

static int cloexec_of(enum kind kind, const struct seccomp_data *data) {
  return kind == INOTIFY ? 0 : (int)data->args[kind == SOCKET] & O_CLOEXEC;
}

// 1: answered with a descriptor; 0: no such call; else the negative errno to answer with.
static int lend(int listener, const struct seccomp_notif *question) {
  const struct seccomp_data *data = &question->data;
  for (size_t i = 0; i < sizeof calls / sizeof *calls; i++) {
    if (calls[i].number != data->nr || calls[i].architecture != data->arch) continue;
    int fd = make(calls[i].kind, question->pid, data);
    if (fd < 0) return -errno;
    struct seccomp_notif_addfd handed = {.id = question->id,
                                         .flags = SECCOMP_ADDFD_FLAG_SEND,
                                         .srcfd = (uint32_t)fd,
                                         .newfd_flags = (uint32_t)cloexec_of(calls[i].kind, data)};
    return closing(fd, ioctl(listener, SECCOMP_IOCTL_NOTIF_ADDFD, &handed)) < 0 ? -errno : 1;
  }
  return 0;
}

static void answer(struct filter *filter) {
  // Kernels may have longer structures than these headers (SECCOMP_GET_NOTIF_SIZES).
  union {
    struct seccomp_notif question;
    char room[512];
  } in;
  union {
    struct seccomp_notif_resp answer;
    char room[512];
  } out;
  memset(&in, 0, sizeof in);
  memset(&out, 0, sizeof out);
  if (ioctl(filter->listener, SECCOMP_IOCTL_NOTIF_RECV, &in) != 0) return;
  uint32_t action = verdict(&filter->verdicts, &in.question.data);
  uint32_t kind = action & SECCOMP_RET_ACTION_FULL;
  int lent = kind == SECCOMP_RET_ALLOW ? lend(filter->listener, &in.question) : 0;
  if (lent > 0) return;
  if (lent == 0) count(filter, &in.question.data, action);
  if (kind == SECCOMP_RET_KILL_PROCESS || kind == SECCOMP_RET_KILL_THREAD) {
    if (in.question.pid > 0) kill((pid_t)in.question.pid, SIGKILL);
    return;
  }
  out.answer.id = in.question.id;
  // Never "continue": the arguments could have changed since the kernel asked.
  out.answer.error = lent < 0                   ? lent
                     : kind == SECCOMP_RET_ERRNO ? -(int32_t)(action & SECCOMP_RET_DATA)
                                                 : -ENOSYS;
  ioctl(filter->listener, SECCOMP_IOCTL_NOTIF_SEND, &out);
}

void filter_answer(void) {
  struct epoll_event events[16];
  int n = epoll_wait(waiting, events, 16, 0);
  for (int i = 0; i < n; i++) {
    struct filter *filter = events[i].data.ptr;
    if (events[i].events & EPOLLIN) {
      answer(filter);
    } else {
      // Closing does not end the watch: a command that starts has a copy of the descriptor until it executes.
      epoll_ctl(waiting, EPOLL_CTL_DEL, filter->listener, NULL);
      close(filter->listener);
      filter->listener = 0;
    }
  }
}
