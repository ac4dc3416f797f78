// SPDX-License-Identifier: Apache-2.0
// The guest init: pid 1 of a box. It starts in a tiny, constant skeleton. A runner has it prepare what
// every box has: it becomes two processes. The outer one stays libvirt's init. The nested one is pid 1
// of a pid namespace of its own, where commands run, so that a command can neither see, signal nor
// trace the outer one. Then the same runner, or, when the box was to wait, another one, hands it an
// image, binds and limits. When that runner's socket ends, so does the box.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/keyctl.h>
#include <linux/sched.h>
#include <limits.h>
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
#include <time.h>
#include <unistd.h>

#include "exec.h"
#include "faults.h"
#include "filter.h"
#include "label.h"
#include "landlock.h"
#include "marks.h"
#include "measure.h"
#include "mounts.h"
#include "probe.h"
#include "protocol.h"
#include "service.h"

#define EXECUTIONS_MAX 256
#define SOCKET_PATH "/.kiln/init.sock"

static struct execution executions[EXECUTIONS_MAX];

static void on_terminate(int signo) {
  (void)signo;
  _exit(0);
}

static int listen_for_runner(void) {
  int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  struct sockaddr_un address = {.sun_family = AF_UNIX, .sun_path = SOCKET_PATH};
  if (fd < 0 || bind(fd, (struct sockaddr *)&address, sizeof address) != 0 || listen(fd, 1) != 0)
    _exit(101);
  return fd;
}

static int accept_runner(int listener) {
  int fd;
  do fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
  while (fd < 0 && (errno == EINTR || errno == ECONNABORTED));
  if (fd < 0) _exit(102);
  return fd;
}

static struct execution *find_execution(uint32_t id) {
  for (int i = 0; i < EXECUTIONS_MAX; i++)
    if (executions[i].pid != 0 && executions[i].id == id) return &executions[i];
  return NULL;
}

static void report_exit(int control, struct execution *execution, int status,
                        const struct rusage *usage) {
  if (execution->tty >= 0) close(execution->tty);
  execution->pid = 0;
  if (control < 0) return;
  answer_begin(MSG_EXITED);
  answer_u32(OUT_ID, execution->id);
  answer_u32(OUT_STATUS, (uint32_t)status);
  answer_u64(OUT_UTIME,
             (uint64_t)usage->ru_utime.tv_sec * 1000000u + (uint64_t)usage->ru_utime.tv_usec);
  answer_u64(OUT_STIME,
             (uint64_t)usage->ru_stime.tv_sec * 1000000u + (uint64_t)usage->ru_stime.tv_usec);
  answer_u64(OUT_MAXRSS, (uint64_t)usage->ru_maxrss * 1024u);
  const struct refused *refused;
  uint32_t kinds = filter_refused(execution->id, &refused);
  if (kinds > 0) answer_bytes(OUT_REFUSED, refused, kinds * sizeof *refused);
  answer_send(control);
}

// Reaps everything that has ended, orphans too. Only a command's own end is reported.
static int reap(int control, int flags) {
  int status, last;
  struct rusage usage;
  while ((last = wait4(-1, &status, flags | __WALL, &usage)) > 0)
    for (int i = 0; i < EXECUTIONS_MAX; i++)
      if (executions[i].pid == last) report_exit(control, &executions[i], status, &usage);
  return last;
}

static void start(struct message *message, int control) {
  for (int i = 0; i < EXECUTIONS_MAX; i++)
    if (executions[i].pid == 0) {
      if (exec_begin(message, control, 0) > 0) exec_finish(control, &executions[i]);
      return;
    }
  answer_failed(control, 0, EAGAIN, "start another command: too many are running", NULL);
}

static uint32_t keep_seconds;

static void obey(struct message *message, int control) {
  uint32_t id = 0, signo = 0;
  uint16_t size[2] = {0, 0};
  struct field field;
  size_t offset = 0;
  if (message->type == MSG_EXEC) {
    start(message, control);
    return;
  }
  if (message->type >= MSG_DIRECTORY) {
    service_obey(message, control, executions, EXECUTIONS_MAX);
    return;
  }
  while (field_next(message, &offset, &field) > 0) {
    if (field.tag == EXEC_ID) field_u32(&field, 0, &id);
    if (field.tag == EXEC_SIGNO) field_u32(&field, 0, &signo);
    if (field.tag == EXEC_TTL) field_u32(&field, 0, &keep_seconds);
    if (field.tag == EXEC_TTY && field.length == 4) memcpy(size, field.data, 4);
  }
  struct execution *execution = find_execution(id);
  if (message->type == MSG_SIGNAL && execution != NULL && signo > 0 && signo < NSIG) {
    // As a terminal does: the whole foreground group, which the command leads.
    if (kill(-execution->pid, (int)signo) != 0) kill(execution->pid, (int)signo);
  } else if (message->type == MSG_WINSIZE && execution != NULL) {
    exec_winsize(execution, size[0], size[1]);
  } else if (message->type == MSG_KILL_ALL) {
    kill(-1, SIGKILL);
    reap(control, 0);
    answer_begin(MSG_QUIET);
    answer_send(control);
  }
}

static int64_t now_ms(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

// The life of the box: until the runner is gone, or, when it asked to keep the box, until that
// time is over and nobody has come back.
static void serve(int listener, int control, int signals) {
  int64_t deadline = 0;
  for (;;) {
    struct pollfd polled[4] = {{.fd = control >= 0 ? control : listener, .events = POLLIN},
                               {.fd = signals, .events = POLLIN},
                               {.fd = service_notify_fd(), .events = POLLIN},
                               {.fd = filter_fd(), .events = POLLIN}};
    int wait_ms = -1;
    if (control < 0) {
      int64_t left = deadline - now_ms();
      if (left <= 0) return;
      wait_ms = left > 1000000 ? 1000000 : (int)left;
    }
    if (poll(polled, 4, wait_ms) < 0 && errno != EINTR) return;
    if (polled[3].revents != 0) filter_answer();
    if (polled[1].revents != 0) {
      struct signalfd_siginfo info;
      if (read(signals, &info, sizeof info) < 0 && errno != EINTR) return;
      reap(control, WNOHANG);
    }
    if (polled[2].revents != 0) service_notify(control);
    if (polled[0].revents == 0) continue;
    if (control < 0) {
      control = accept_runner(listener);
      keep_seconds = 0;
      continue;
    }
    struct message message;
    if (message_receive(control, &message) <= 0) {
      message_close_fds(&message);
      if (keep_seconds == 0) return;
      close(control);
      control = -1;
      deadline = now_ms() + (int64_t)keep_seconds * 1000;
      continue;
    }
    obey(&message, control);
    message_close_fds(&message);
  }
}

// The message that says what the box is for. A prepared box may have to wait for whoever claims it:
// not for ever, since there may be no other kiln that would end it.
static int await_setup(int listener, int control, uint32_t wait_seconds, struct message *setup) {
  int more = message_receive(control, setup);
  if (more <= 0 && wait_seconds > 0) {
    close(control);
    int64_t deadline = now_ms() + (int64_t)wait_seconds * 1000;
    struct pollfd polled = {.fd = listener, .events = POLLIN};
    for (;;) {
      int64_t left = deadline - now_ms();
      if (left <= 0) _exit(0);
      int ready = poll(&polled, 1, left > INT_MAX ? INT_MAX : (int)left);
      if (ready < 0 && errno != EINTR) _exit(102);
      if (ready > 0) break;
    }
    control = accept_runner(listener);
    more = message_receive(control, setup);
    marks_begin();
  }
  // The network is asked for an address first: what it says of name servers is part of the setup.
  while (more > 0 && (setup->type == MSG_DHCP_SOCKET || setup->type == MSG_ADDRESS)) {
    service_obey(setup, control, executions, EXECUTIONS_MAX);
    message_close_fds(setup);
    more = message_receive(control, setup);
  }
  if (more <= 0 || setup->type != MSG_SETUP) _exit(103);
  if (setup->refused) {
    char number[16];
    snprintf(number, sizeof number, "%u", setup->nfds);
    answer_failed(control, 0, setup->nfds == FDS_MAX ? EMFILE : EACCES, "receive descriptor", number);
    _exit(110);
  }
  return control;
}

static uint32_t seconds_to_wait(const struct message *prepare) {
  struct field field;
  size_t offset = 0;
  uint32_t seconds = 0;
  while (field_next(prepare, &offset, &field) > 0)
    if (field.tag == SETUP_WAIT) field_u32(&field, 0, &seconds);
  return seconds;
}

static int watch_children(void) {
  sigset_t mask;
  sigemptyset(&mask);
  sigaddset(&mask, SIGCHLD);
  sigprocmask(SIG_BLOCK, &mask, NULL);
  return signalfd(-1, &mask, SFD_CLOEXEC);
}

// The runner may have sent the first command with the setup: it gets ready on another processor while
// this one looks at the box, and the runner opens its gate when it knows what was found. Its pid, or 0.
static pid_t begin_first(int control) {
  uint32_t head[2];
  if (recv(control, head, sizeof head, MSG_PEEK | MSG_DONTWAIT) != sizeof head || head[1] != MSG_EXEC)
    return 0;
  struct message message;
  if (message_receive(control, &message) <= 0) _exit(103);
  pid_t pid = exec_begin(&message, control, 1);
  message_close_fds(&message);
  return pid < 0 ? 0 : pid;
}

static _Noreturn void nested_init(struct message *prepare, int listener, int control) {
  signal(SIGTERM, SIG_DFL); // of no effect from inside: we are pid 1 there
  struct failure failure;
  if (mounts_stage(prepare, &failure) != 0) {
    answer_failed(control, 0, errno, failure.what, failure.detail);
    _exit(105);
  }
  mark("prepare");
  answer_begin(MSG_DONE);
  answer_u32(OUT_ID, 0);
  answer_u32(OUT_PID, 0);
  answer_send(control);
  struct message setup;
  control = await_setup(listener, control, seconds_to_wait(prepare), &setup);
  if (label_setup(&setup) != 0) {
    answer_failed(control, 0, errno, "know the labels it was prepared with", NULL);
    _exit(109);
  }
  if (mounts_enter(&setup, &failure) != 0) {
    answer_failed(control, 0, errno, failure.what, failure.detail);
    _exit(1);
  }
  mark("enter");
  static char facts[48 << 10];
  const char *problem = "landlock: nothing to measure against";
  measure_surroundings(&setup);
  int comparable = landlock_prepare() == 0, signals = watch_children();
  pid_t first = comparable ? begin_first(control) : 0;
  if (!comparable || measure_box(&setup, first, facts, sizeof facts, &problem) != 0) {
    answer_failed(control, 0, EPERM, "prove the box closed:", problem);
    _exit(1);
  }
  mark("measure");
  marks_append(facts, sizeof facts);
  label_measure("init_label", facts, sizeof facts);
  message_close_fds(&setup);
  answer_begin(MSG_READY);
  answer_bytes(OUT_FACTS, facts, strlen(facts));
  answer_send(control);
  if (first > 0) exec_finish(control, &executions[0]);
  serve(listener, control, signals);
  _exit(0);
}

int main(int argc, char **argv) {
  if (argc > 1) return probe(argv[1]);
  umask(0);
  prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);
  struct sigaction action = {.sa_handler = on_terminate};
  sigaction(SIGTERM, &action, NULL);
  signal(SIGPIPE, SIG_IGN);

  if (mounts_seal_skeleton() != 0) _exit(100);
  int listener = listen_for_runner();
  int control = accept_runner(listener);
  struct message prepare;
  if (message_receive(control, &prepare) <= 0 || prepare.type != MSG_PREPARE) _exit(103);
  marks_begin();
  // A fresh one: else the keys of whoever started libvirt are in reach.
  if (syscall(SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, NULL) < 0 && errno != ENOSYS) {
    answer_failed(control, 0, errno, "join a new session keyring", NULL);
    _exit(107);
  }
  if (!fault("cgroup-namespace") && !fault("cgroup-unchecked") && unshare(CLONE_NEWCGROUP) != 0) {
    answer_failed(control, 0, errno, "unshare the cgroup namespace", NULL);
    _exit(104);
  }
  // For the nested init on; a kernel without it says EINVAL, and kiln knows whether it has one.
  if (!fault("time-namespace") && unshare(CLONE_NEWTIME) != 0 && errno != EINVAL) {
    answer_failed(control, 0, errno, "unshare the time namespace", NULL);
    _exit(108);
  }
  if (label_setup(&prepare) != 0) {
    answer_failed(control, 0, errno, "take on the init's label", NULL);
    _exit(109);
  }
  if (!fault("pid-namespace") && unshare(CLONE_NEWPID) != 0) {
    answer_failed(control, 0, errno, "unshare the pid namespace", NULL);
    _exit(106);
  }
  pid_t child = fork();
  if (child == 0) nested_init(&prepare, listener, control);
  if (child < 0) answer_failed(control, 0, errno, "fork", NULL);
  // Only the nested init holds the runner's socket and what came through it.
  message_close_fds(&prepare);
  close(control);
  close(listener);
  while (child > 0 && waitpid(child, NULL, 0) < 0 && errno == EINTR) continue;
  _exit(0);
}
