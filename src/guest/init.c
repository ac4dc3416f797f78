// SPDX-License-Identifier: Apache-2.0
// Two processes: the outer one is libvirt's init; the nested one is pid 1 of the pid namespace where commands
// run, so that no command can see, signal or trace the outer one. One file, for each relies on what the other does.
#include <errno.h>
#include <linux/keyctl.h>
#include <linux/sched.h>
#include <limits.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <sys/ioctl.h>
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

#include "confine.h"
#include "init.h"
#include "label.h"
#include "measure.h"
#include "mounts.h"
#include "pages.h"

#define EXECUTIONS_MAX 256
#define SOCKET_PATH "/.kiln/init.sock"
#define NEW_SOCKET_PATH "/.kiln/new.sock"

static struct execution executions[EXECUTIONS_MAX];

static void on_terminate(int signo) {
  (void)signo;
  _exit(0);
}

static int listen_for_runner(void) {
  int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  struct sockaddr_un address = {.sun_family = AF_UNIX, .sun_path = NEW_SOCKET_PATH};
  // Whoever sees it can connect.
  if (fd < 0 || bind(fd, (struct sockaddr *)&address, sizeof address) != 0 || listen(fd, 1) != 0 ||
      rename(NEW_SOCKET_PATH, SOCKET_PATH) != 0)
    _exit(101);
  return fd;
}

// Whoever has started this may have died before it could connect.
#define RUNNER_MS 60000

static void await_runner(int listener) {
  struct pollfd polled = {.fd = listener, .events = POLLIN};
  if (poll(&polled, 1, RUNNER_MS) == 0) _exit(102);
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

static uint64_t microseconds(struct timeval time) {
  return (uint64_t)time.tv_sec * 1000000u + (uint64_t)time.tv_usec;
}

// libvirt and systemd end all processes of a sandbox by SIGTERM, each in turn, and this one before its commands:
// how those end then is not their own doing. The number of a process outside is 0 in here; from inside, only kill(2)
// sends SI_USER, and it cannot name another sender.
static int ended_from_outside(void) {
  sigset_t mask;
  siginfo_t info;
  struct timespec now = {0};
  sigemptyset(&mask);
  sigaddset(&mask, SIGTERM);
  while (sigtimedwait(&mask, &info, &now) == SIGTERM)
    if (info.si_code == SI_USER && info.si_pid == 0) return 1;
  return 0;
}

static void report_exit(int control, struct execution *execution, int status,
                        const struct rusage *usage) {
  if (execution->tty >= 0) close(execution->tty);
  pid_t pid = execution->pid;
  execution->pid = 0;
  if (control < 0) return;
  struct writer *answer = answer_begin(MSG_EXITED);
  wire_put_id(answer, execution->id);
  wire_put_status(answer, (uint32_t)status);
  wire_put_usage(answer, (struct wire_usage){microseconds(usage->ru_utime),
                                             microseconds(usage->ru_stime),
                                             (uint64_t)usage->ru_maxrss * 1024u});
  const struct wire_refused *refused;
  uint32_t kinds = filter_refused(pid, &refused);
  for (uint32_t i = 0; i < kinds; i++) wire_put_refused(answer, refused[i]);
  answer_send(control);
}

static int reap(int control, int flags) {
  int status, last;
  struct rusage usage;
  while ((last = wait4(-1, &status, flags | __WALL, &usage)) > 0) {
    if (ended_from_outside()) _exit(0);
    for (int i = 0; i < EXECUTIONS_MAX; i++)
      if (executions[i].pid == last) report_exit(control, &executions[i], status, &usage);
    filter_reported(last);
  }
  return last;
}

static uint32_t id_of(const struct message *message) {
  struct field field;
  return field_find(message, FIELD_ID, &field) ? wire_get_id(&field) : 0;
}

static _Noreturn void end_failed(int control, struct failure *failure, int status) {
  answer_failed(control, 0, failure);
  _exit(status);
}

static _Noreturn void end_with(int control, uint32_t code, int status) {
  answer_refused(control, 0, errno, code, NULL);
  _exit(status);
}

static void start(struct message *message, int control) {
  for (int i = 0; i < EXECUTIONS_MAX; i++)
    if (executions[i].pid == 0) {
      exec_start(message, control, &executions[i]);
      return;
    }
  answer_refused(control, id_of(message), EAGAIN, FAIL_TOO_MANY_COMMANDS, NULL);
}

// When the sandbox ends though nobody is in it, in milliseconds of now_ms(); 0: as soon as nobody is.
static int64_t keep_until;
// Told by who was in it before. Who is killed without having done more than look leaves it as it was.
static int keep_is_earlier;

static void signal_command(const struct message *message) {
  struct execution *execution = find_execution(id_of(message));
  struct field field;
  if (execution == NULL) return;
  if (field_find(message, FIELD_SIGNAL, &field)) {
    int signo = (int)wire_get_signal(&field);
    // As a terminal does: the whole foreground group, which the command leads.
    if (kill(-execution->pid, signo) != 0) kill(execution->pid, signo);
  } else if (field_find(message, FIELD_TERMINAL, &field) && execution->tty >= 0) {
    struct wire_terminal size = wire_get_terminal(&field);
    struct winsize wanted = {.ws_row = size.rows, .ws_col = size.columns};
    ioctl(execution->tty, TIOCSWINSZ, &wanted);
  }
}

// A sandbox that may be half of one and half of another takes no more commands.
static void change_root(const struct message *message, int control) {
  struct failure failure;
  kill(-1, SIGKILL);
  reap(control, 0);
  int changed = mounts_again(message, &failure);
  if (changed == 0 && !measure_mounts_again()) changed = fail(&failure, FAIL_OPEN_MOUNTS, NULL);
  if (changed == 0) answer_done(control, id_of(message), 0);
  else answer_failed(control, id_of(message), &failure);
  if (changed < 0) _exit(1);
}

static int64_t now_ms(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

static int obey(struct message *message, int control) {
  struct field field;
  switch (message->type) {
  case MSG_EXEC:
    if (keep_is_earlier) keep_until = 0;
    start(message, control);
    return 0;
  case MSG_SIGNAL:
  case MSG_WINSIZE: signal_command(message); return 0;
  case MSG_KEEP:
    if (!field_find(message, FIELD_TTL, &field)) return 0;
    keep_until = now_ms() + (int64_t)wire_get_ttl(&field) * 1000;
    keep_is_earlier = 0;
    return 0;
  case MSG_KILL_ALL:
    kill(-1, SIGKILL);
    reap(control, 0);
    answer_begin(MSG_QUIET);
    answer_send(control);
    return 0;
  case MSG_ROOT: change_root(message, control); return 0;
  default: return service_obey(message, control, executions, EXECUTIONS_MAX);
  }
}

static void serve(int listener, int control, int signals) {
  for (;;) {
    struct pollfd polled[4] = {{.fd = control >= 0 ? control : listener, .events = POLLIN},
                               {.fd = signals, .events = POLLIN},
                               {.fd = service_notify_fd(), .events = POLLIN},
                               {.fd = filter_fd(), .events = POLLIN}};
    int wait_ms = -1;
    if (control < 0) {
      int64_t left = keep_until - now_ms();
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
      keep_is_earlier = 1;
      continue;
    }
    struct message message;
    int more = message_receive(control, &message);
    if (more <= 0) {
      // A peer that sends an invalid message gets no second connection.
      if (more < 0 && errno == EBADMSG) return;
      message_close_fds(&message);
      close(control);
      control = -1;
      continue;
    }
    if (obey(&message, control) != 0) return;
    message_close_fds(&message);
  }
}

// A parked sandbox may have to wait for its claim, but not for ever: there may be no kiln that would end it.
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
  // The address comes first: the name servers that the network tells are part of the setup.
  while (more > 0 && (setup->type == MSG_DHCP_SOCKET || setup->type == MSG_ADDRESS)) {
    service_obey(setup, control, executions, EXECUTIONS_MAX);
    message_close_fds(setup);
    more = message_receive(control, setup);
  }
  if (more <= 0 || setup->type != MSG_SETUP) _exit(103);
  if (setup->refused) {
    struct failure failure;
    errno = setup->nfds == FDS_MAX ? EMFILE : EACCES;
    fail(&failure, FAIL_KEPT_BACK, NULL);
    failure.number = setup->nfds;
    end_failed(control, &failure, 110);
  }
  return control;
}

static int watch_children(void) {
  sigset_t mask;
  sigemptyset(&mask);
  sigaddset(&mask, SIGTERM); // it waits for ended_from_outside()
  sigprocmask(SIG_BLOCK, &mask, NULL);
  sigemptyset(&mask);
  sigaddset(&mask, SIGCHLD);
  sigprocmask(SIG_BLOCK, &mask, NULL);
  return signalfd(-1, &mask, SFD_CLOEXEC);
}

static _Noreturn void nested_init(struct message *prepare, int listener, int control) {
  signal(SIGTERM, SIG_DFL); // of no effect from inside: we are pid 1 there
  struct failure failure;
  if (mounts_stage(prepare, &failure) != 0) end_failed(control, &failure, 105);
  mark("prepare");
  answer_done(control, 0, 0);
  struct field wait;
  uint32_t seconds = field_find(prepare, FIELD_WAIT, &wait) ? wire_get_wait(&wait) : 0;
  struct message setup;
  control = await_setup(listener, control, seconds, &setup);
  if (label_setup(&setup) != 0) end_with(control, FAIL_OTHER_LABELS, 109);
  if (mounts_enter(&setup, &failure) != 0) end_failed(control, &failure, 1);
  mark("enter");
  static char facts[48 << 10];
  measure_surroundings(&setup);
  if (lend_prepare() != 0) end_with(control, FAIL_LEND, 1);
  if (landlock_prepare() != 0) end_with(control, FAIL_MEASURE_FILES, 1);
  int signals = watch_children();
  if (measure_sandbox(&setup, facts, sizeof facts, &failure) != 0) end_failed(control, &failure, 1);
  mark("measure");
  marks_append(facts, sizeof facts);
  label_measure("init_label", facts, sizeof facts);
  message_close_fds(&setup);
  struct writer *answer = answer_begin(MSG_READY);
  wire_put_facts(answer, facts);
  answer_send(control);
  serve(listener, control, signals);
  _exit(0);
}

int main(int argc, char **argv) {
  if (argc > 1) return probe(argv[1]);
  small_pages();
  umask(0);
  prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);
  struct sigaction action = {.sa_handler = on_terminate};
  sigaction(SIGTERM, &action, NULL);
  signal(SIGPIPE, SIG_IGN);

  if (mounts_seal("/") != 0) _exit(100);
  int listener = listen_for_runner();
  await_runner(listener);
  int control = accept_runner(listener);
  struct message prepare;
  if (message_receive(control, &prepare) <= 0 || prepare.type != MSG_PREPARE) _exit(103);
  marks_begin();
  // A fresh keyring: otherwise the keys of libvirt's starter are within reach.
  if (syscall(SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, NULL) < 0 && errno != ENOSYS)
    end_with(control, FAIL_SESSION_KEYRING, 107);
  if (!fault("cgroup-namespace") && !fault("cgroup-unchecked") && unshare(CLONE_NEWCGROUP) != 0)
    end_with(control, FAIL_CGROUP_NAMESPACE, 104);
  // In force for the nested init. A kernel without time namespaces says EINVAL; kiln knows whether it has them.
  if (!fault("time-namespace") && unshare(CLONE_NEWTIME) != 0 && errno != EINVAL)
    end_with(control, FAIL_TIME_NAMESPACE, 108);
  if (label_setup(&prepare) != 0) end_with(control, FAIL_INIT_LABEL, 109);
  if (!fault("pid-namespace") && unshare(CLONE_NEWPID) != 0)
    end_with(control, FAIL_PID_NAMESPACE, 106);
  pid_t child = fork();
  if (child == 0) nested_init(&prepare, listener, control);
  if (child < 0) end_with(control, FAIL_FORK, 111);
  // Only the nested init holds kiln's connection and its descriptors.
  message_close_fds(&prepare);
  close(control);
  close(listener);
  while (waitpid(child, NULL, 0) < 0 && errno == EINTR) continue;
  _exit(0);
}
