// SPDX-License-Identifier: Apache-2.0
// One file, for the order of what happens between fork and exec decides what is in force.
#include "init.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "confine.h"
#include "label.h"
#include "measure.h"

#define STRINGS_MAX 65536u // as wire.c has it
#define RLIMITS_MAX 16
#define START_MS 30000 // a filter that refuses what a start needs would wait for ever

static char *argv_strings[STRINGS_MAX + 1];
static char *env_strings[STRINGS_MAX + 4]; // HOME, USER, LOGNAME may be added

struct command {
  uint32_t id;
  unsigned argc, envc;
  const char *cwd, *user;
  struct confinement confinement;
  struct boot boot;
  struct wire_rlimit rlimits[RLIMITS_MAX];
  unsigned rlimit_count;
  int tty, unpacks;
  struct winsize size;
  uint32_t umask;
};

static struct sock_fprog program(const unsigned char *filter, size_t length) {
  return (struct sock_fprog){.len = (unsigned short)(length / sizeof(struct sock_filter)),
                             .filter = (struct sock_filter *)filter};
}

static void parse_field(const struct field *field, struct command *command) {
  switch (field->tag) {
  case FIELD_ID: command->id = wire_get_id(field); return;
  case FIELD_ARGUMENT: argv_strings[command->argc++] = (char *)wire_get_argument(field); return;
  case FIELD_VARIABLE: env_strings[command->envc++] = (char *)wire_get_variable(field); return;
  case FIELD_WORKDIR: command->cwd = wire_get_workdir(field); return;
  case FIELD_USER: command->user = wire_get_user(field); return;
  case FIELD_CAPABILITIES:
    command->confinement.capabilities = wire_get_capabilities(field);
    return;
  case FIELD_SECCOMP: {
    struct wire_seccomp seccomp = wire_get_seccomp(field);
    command->confinement.filter = program(seccomp.filter, seccomp.filter_length);
    return;
  }
  case FIELD_VERDICTS: {
    struct wire_verdicts verdicts = wire_get_verdicts(field);
    command->confinement.verdicts = program(verdicts.filter, verdicts.filter_length);
    return;
  }
  case FIELD_LANDLOCK: command->confinement.landlock = wire_get_landlock(field); return;
  case FIELD_RLIMIT: command->rlimits[command->rlimit_count++] = wire_get_rlimit(field); return;
  case FIELD_TERMINAL: {
    struct wire_terminal terminal = wire_get_terminal(field);
    command->tty = 1;
    command->size = (struct winsize){.ws_row = terminal.rows, .ws_col = terminal.columns};
    return;
  }
  case FIELD_BOOT: command->boot.rules[command->boot.count++] = wire_get_boot(field); return;
  case FIELD_UNPACK: command->unpacks = 1; return;
  case FIELD_UMASK: command->umask = wire_get_umask(field); return;
  }
}

static void parse(const struct message *request, struct command *command) {
  *command = (struct command){0};
  struct field field;
  size_t offset = 0;
  while (field_next(request, &offset, &field)) parse_field(&field, command);
  argv_strings[command->argc] = NULL;
}

static int has_variable(const struct command *command, const char *prefix) {
  for (unsigned i = 0; i < command->envc; i++)
    if (strncmp(env_strings[i], prefix, strlen(prefix)) == 0) return 1;
  return 0;
}

static void complete_environment(struct command *command, const struct user *user) {
  static char home[300], name[80], logname[80];
  snprintf(home, sizeof home, "HOME=%s", user->home);
  snprintf(name, sizeof name, "USER=%s", user->name);
  snprintf(logname, sizeof logname, "LOGNAME=%s", user->name);
  if (!has_variable(command, "HOME=")) env_strings[command->envc++] = home;
  if (user->name[0] != 0 && !has_variable(command, "USER=")) env_strings[command->envc++] = name;
  if (user->name[0] != 0 && !has_variable(command, "LOGNAME="))
    env_strings[command->envc++] = logname;
  env_strings[command->envc] = NULL;
}

static int open_terminal(const struct command *command, const struct user *user, int socket_fd,
                         int *master, int *slave) {
  int unlock = 0, number;
  *slave = -1;
  *master = open("/dev/pts/ptmx", O_RDWR | O_NOCTTY | O_CLOEXEC);
  if (*master < 0) return -1;
  char path[32];
  if (ioctl(*master, TIOCSPTLCK, &unlock) != 0 || ioctl(*master, TIOCGPTN, &number) != 0) return -1;
  snprintf(path, sizeof path, "/dev/pts/%d", number);
  *slave = open(path, O_RDWR | O_NOCTTY | O_CLOEXEC);
  if (*slave < 0 || fchown(*slave, user->uid, (gid_t)-1) != 0 ||
      ioctl(*slave, TIOCSWINSZ, &command->size) != 0)
    return -1;
  return send_descriptor(socket_fd, *master);
}

struct report {
  enum { REPORT_ERROR, REPORT_LISTENER, REPORT_FACTS } kind;
  uint32_t failure;
  int number; // errno, or the listener's descriptor
  char facts[8192];
};

static _Noreturn void die(int socket_fd, uint32_t failure) {
  struct report report = {.kind = REPORT_ERROR, .failure = failure, .number = errno};
  if (write(socket_fd, &report, sizeof report) < 0) _exit(126);
  _exit(127);
}

// Loaded last: the filter must allow every later call. If it asks, the init takes the listener.
static int load_filter(struct confinement *confinement, int socket_fd) {
  if (confinement->filter.len == 0) return 0;
  static struct report report = {.kind = REPORT_LISTENER};
  int asks = confinement->verdicts.len > 0;
  const struct sock_fprog *answers = asks ? &confinement->verdicts : &confinement->filter;
  // Nobody would answer for a report that the filter asks about, nor hear one that it refuses.
  if (!filter_lets_write(answers, socket_fd, &report, sizeof report)) {
    errno = EPERM;
    die(socket_fd, FAIL_START);
  }
  int listener = filter_load(&confinement->filter, asks);
  if (listener < 0) die(socket_fd, FAIL_SECCOMP);
  if (!asks || listener == 0) return 0;
  report.number = listener;
  if (write(socket_fd, &report, sizeof report) < 0) _exit(127);
  return 1;
}

// Only the host's root can raise a hard limit. A limit of core dumps must be neither more nor less than wanted.
static int set_limit(const struct wire_rlimit *wanted) {
  struct rlimit limit = {wanted->soft, wanted->hard}, found;
  if (fault("rlimits")) return 0;
  if (wanted->resource != RLIMIT_CORE && getrlimit((int)wanted->resource, &found) == 0) {
    if (limit.rlim_max > found.rlim_max) limit.rlim_max = found.rlim_max;
    if (limit.rlim_cur > limit.rlim_max) limit.rlim_cur = limit.rlim_max;
  }
  return setrlimit((int)wanted->resource, &limit);
}

static _Noreturn void become_command(struct command *command, const struct user *user, int fds[3],
                                     int master, int socket_fd) {
  static struct report facts = {.kind = REPORT_FACTS};
  marks_begin();
  sigset_t none;
  sigemptyset(&none);
  sigprocmask(SIG_SETMASK, &none, NULL);
  for (int s = 1; s < NSIG; s++) signal(s, SIG_DFL);
  if (setsid() < 0) die(socket_fd, FAIL_SETSID);
  if (command->tty && ioctl(fds[0], TIOCSCTTY, 0) != 0) die(socket_fd, FAIL_TAKE_TERMINAL);
  for (int i = 0; i < 3; i++)
    if (dup2(fds[i], i) != i) die(socket_fd, FAIL_DUP2);
  if (command->boot.count > 0) {
    uint32_t failed = boot_prepare(&command->boot, master, facts.facts, sizeof facts.facts);
    if (failed != 0) die(socket_fd, failed);
  }
  umask(command->umask);

  prctl(PR_SET_DUMPABLE, 1, 0, 0, 0); // else the file is not ours to write
  int score = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);
  if (score >= 0 && write(score, "500", 3) != 3) die(socket_fd, FAIL_OOM_SCORE);
  struct rights_files files = rights_open();
  prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);

  for (unsigned i = 0; i < command->rlimit_count; i++)
    if (set_limit(&command->rlimits[i]) != 0) die(socket_fd, FAIL_SETRLIMIT);
  struct landlock landlock;
  uint32_t failed = confine(&command->confinement, user, command->cwd, &landlock);
  if (failed != 0) die(socket_fd, failed);
  if (rights_limits(command->rlimits, command->rlimit_count, facts.facts, sizeof facts.facts) != 0 &&
      !fault("rights-unchecked"))
    die(socket_fd, FAIL_HAS_LIMITS);
  mark("confine"); // the last: a filter need not allow a look at the clock
  int waits = load_filter(&command->confinement, socket_fd);

  uint32_t missing = rights_measure(files, &command->confinement, user, &landlock, facts.facts,
                                    sizeof facts.facts);
  if (missing == 0) missing = label_missing();
  if (missing != 0) die(socket_fd, missing);
  marks_append(facts.facts, sizeof facts.facts);
  label_measure("label", facts.facts, sizeof facts.facts);
  if (write(socket_fd, &facts, sizeof facts) < 0) die(socket_fd, FAIL_REPORT);
  // exec closes the listener's descriptor, so wait until the init has it.
  char go;
  if (waits && read(socket_fd, &go, 1) != 1) _exit(127);
  // As exec does; the end of the socket tells the init that the command has begun.
  if (command->unpacks && syscall(SYS_close_range, 3, ~0U, 0) == 0) _exit(unpack());
  if (command->unpacks) die(socket_fd, FAIL_DESCRIPTORS);
  environ = env_strings;
  execvp(argv_strings[0], argv_strings);
  die(socket_fd, FAIL_EXEC);
}

// Reads one report while answering for the filter that the child may have by now. 1, 0 at the end, -1 (errno).
static int next_report(int fd, struct report *report) {
  for (;;) {
    struct pollfd polled[2] = {{.fd = fd, .events = POLLIN},
                               {.fd = filter_fd(), .events = POLLIN}};
    int ready = poll(polled, 2, START_MS);
    if (ready < 0 && errno == EINTR) continue;
    if (ready == 0) errno = ETIMEDOUT;
    if (ready <= 0) return -1;
    if (polled[1].revents != 0) filter_answer();
    if (polled[0].revents == 0) continue;
    ssize_t n = read(fd, report, sizeof *report);
    if (n < 0 && (errno == EINTR || errno == ECONNRESET)) continue;
    return n == sizeof *report;
  }
}

static int hear_start(int fd, pid_t pid, const struct command *command, struct report *out) {
  static struct report report;
  int untaken = 0, more;
  *out = (struct report){.kind = REPORT_ERROR, .failure = FAIL_START, .number = ECHILD};
  while ((more = next_report(fd, &report)) > 0) {
    if (report.kind == REPORT_LISTENER) {
      // If that fails, the child may know the reason better, and must not go on.
      if (filter_take(pid, report.number, &command->confinement.verdicts) != 0)
        untaken = errno;
      else if (write(fd, "", 1) != 1) untaken = errno;
      continue;
    }
    *out = report;
    if (report.kind == REPORT_ERROR) return -1;
    if (untaken) break;
  }
  if (untaken || more < 0) {
    *out = (struct report){.kind = REPORT_ERROR,
                           .failure = untaken ? FAIL_SECCOMP_LISTENER : FAIL_START,
                           .number = untaken ? untaken : errno};
    return -1;
  }
  return out->kind == REPORT_FACTS ? 0 : -1;
}

static struct command command;
static struct user user;

static uint32_t take_stdio(const struct message *request, int fds[3], int *master, int *slave) {
  if (command.tty) {
    if (open_terminal(&command, &user, request->fds[0], master, slave) != 0) return FAIL_TERMINAL;
    fds[0] = fds[1] = fds[2] = *slave;
    return 0;
  }
  for (int i = 0; i < 3; i++) {
    // Without this the command cannot reopen /dev/stderr: a pipe belongs to its maker.
    struct stat st;
    if (fstat(request->fds[i], &st) == 0 && S_ISFIFO(st.st_mode) &&
        fchown(request->fds[i], user.uid, user.gid) != 0)
      return FAIL_STDIO;
    // Moves them away from 0, 1, 2, which dup2 overwrites next.
    fds[i] = fcntl(request->fds[i], F_DUPFD_CLOEXEC, 10);
    if (fds[i] < 0) return FAIL_STDIO;
  }
  return 0;
}

static void close_open(int fd) {
  if (fd >= 0) close(fd);
}

int exec_start(struct message *request, int control, struct execution *out) {
  parse(request, &command);
  if (request->nfds != (command.tty ? 1u : 3u))
    return answer_refused(control, command.id, request->refused ? EACCES : EBADMSG, FAIL_STDIO, NULL);
  if (user_find(command.user, &user) != 0)
    return answer_refused(control, command.id, errno, FAIL_USER, command.user);
  complete_environment(&command, &user);

  int master = -1, slave = -1, fds[3] = {-1, -1, -1}, ends[2] = {-1, -1};
  pid_t pid = -1;
  uint32_t failed = take_stdio(request, fds, &master, &slave);
  if (failed == 0 && (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) != 0 ||
                      (pid = boot_fork(&command.boot)) < 0))
    failed = FAIL_FORK;
  if (pid == 0) become_command(&command, &user, fds, master, ends[1]);
  int error = errno;
  close_open(ends[1]);
  if (failed == 0 && slave >= 0) boot_hold(&command.boot, slave);
  else if (slave >= 0) close(slave);
  else
    for (int i = 0; i < 3; i++) close_open(fds[i]);
  static struct report report;
  if (failed != 0) {
    close_open(ends[0]);
    close_open(master);
    return answer_refused(control, command.id, error, failed, NULL);
  }
  int unstarted = hear_start(ends[0], pid, &command, &report);
  close(ends[0]);
  if (unstarted) {
    kill(pid, SIGKILL);
    close_open(master);
    const char *text = report.failure == FAIL_CHDIR ? command.cwd : NULL;
    return answer_refused(control, command.id, report.number, report.failure, text);
  }
  *out = (struct execution){.id = command.id, .pid = pid, .tty = master};
  struct writer *answer = answer_begin(MSG_STARTED);
  wire_put_id(answer, command.id);
  wire_put_process(answer, (uint32_t)pid);
  wire_put_facts(answer, report.facts);
  answer_send(control);
  return 0;
}
