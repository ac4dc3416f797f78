// SPDX-License-Identifier: Apache-2.0
#define _GNU_SOURCE
#include "exec.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "boot.h"
#include "confine.h"
#include "faults.h"
#include "filter.h"
#include "label.h"
#include "marks.h"
#include "rights.h"
#include "users.h"

#define STRINGS_MAX 65536u
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
  struct resource_limit rlimits[RLIMITS_MAX];
  unsigned rlimit_count;
  int tty;
  struct winsize size;
  uint32_t umask;
  uint32_t gated;
};

static int parse_rlimit(const struct field *field, struct command *command) {
  uint64_t soft, hard;
  if (command->rlimit_count == RLIMITS_MAX ||
      field_u32(field, 0, &command->rlimits[command->rlimit_count].resource) != 0 ||
      field_u64(field, 4, &soft) != 0 || field_u64(field, 12, &hard) != 0)
    return -1;
  command->rlimits[command->rlimit_count++].limit = (struct rlimit){soft, hard};
  return 0;
}

static int parse_filter(const struct field *field, struct sock_fprog *filter) {
  if (field->length == 0 || field->length % sizeof(struct sock_filter) != 0 ||
      field->length / sizeof(struct sock_filter) > BPF_MAXINSNS)
    return -1;
  filter->len = (unsigned short)(field->length / sizeof(struct sock_filter));
  filter->filter = (struct sock_filter *)field->data;
  return 0;
}

static int parse_field(const struct field *field, struct command *command) {
  const char *string = field_string(field, 0);
  switch (field->tag) {
  case EXEC_ID: return field_u32(field, 0, &command->id);
  case EXEC_ARGV:
    if (string == NULL || command->argc == STRINGS_MAX) return -1;
    argv_strings[command->argc++] = (char *)string;
    return 0;
  case EXEC_ENV:
    if (string == NULL || command->envc == STRINGS_MAX) return -1;
    env_strings[command->envc++] = (char *)string;
    return 0;
  case EXEC_CWD: command->cwd = string; return string == NULL ? -1 : 0;
  case EXEC_USER: command->user = string; return string == NULL ? -1 : 0;
  case EXEC_CAPS: return field_u64(field, 0, &command->confinement.capabilities);
  case EXEC_SECCOMP: return parse_filter(field, &command->confinement.filter);
  case EXEC_VERDICTS: return parse_filter(field, &command->confinement.verdicts);
  case EXEC_LANDLOCK: return field_u32(field, 0, &command->confinement.landlock);
  case EXEC_RLIMIT: return parse_rlimit(field, command);
  case EXEC_TTY:
    if (field->length != 4) return -1;
    command->tty = 1;
    memcpy(&command->size.ws_row, field->data, 2);
    memcpy(&command->size.ws_col, field->data + 2, 2);
    return 0;
  case EXEC_BOOT: return boot_field(field, &command->boot);
  case EXEC_UMASK: return field_u32(field, 0, &command->umask);
  case EXEC_GATE: return field_u32(field, 0, &command->gated);
  default: return -1;
  }
}

static int parse(const struct message *request, struct command *command) {
  *command = (struct command){.cwd = "/", .user = "0", .umask = 022};
  struct field field;
  size_t offset = 0;
  int more;
  while ((more = field_next(request, &offset, &field)) > 0)
    if (parse_field(&field, command) != 0) return -1;
  if (more < 0 || command->argc == 0) return -1;
  if (request->nfds != (command->tty ? 1u : 3u) + (command->gated != 0)) return -1;
  argv_strings[command->argc] = NULL;
  return 0;
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

// A terminal of the box's own devpts: its master goes to the runner through `socket_fd`.
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
  union {
    struct cmsghdr header;
    char bytes[CMSG_SPACE(sizeof(int))];
  } control = {0};
  char byte = 0;
  struct iovec iov = {&byte, 1};
  struct msghdr msg = {.msg_iov = &iov,
                       .msg_iovlen = 1,
                       .msg_control = control.bytes,
                       .msg_controllen = sizeof control.bytes};
  struct cmsghdr *c = CMSG_FIRSTHDR(&msg);
  c->cmsg_level = SOL_SOCKET;
  c->cmsg_type = SCM_RIGHTS;
  c->cmsg_len = CMSG_LEN(sizeof(int));
  memcpy(CMSG_DATA(c), master, sizeof(int));
  return sendmsg(socket_fd, &msg, MSG_NOSIGNAL) == 1 ? 0 : -1;
}

// What the child tells the nested init through a close-on-exec socket.
struct report {
  enum { REPORT_ERROR, REPORT_LISTENER, REPORT_FACTS } kind;
  int number; // errno, or the listener's descriptor
  char text[8192]; // what failed, or facts
};

static _Noreturn void die(int socket_fd, const char *what) {
  struct report report = {.kind = REPORT_ERROR, .number = errno};
  snprintf(report.text, sizeof report.text, "%s", what);
  if (write(socket_fd, &report, sizeof report) < 0) _exit(126);
  _exit(127);
}

// A layer is not there: nothing is executed.
static _Noreturn void die_open(int socket_fd, const char *layer) {
  char what[64];
  snprintf(what, sizeof what, "prove the command confined: %s", layer);
  errno = EPERM;
  die(socket_fd, what);
}

// Last of all: what comes after must be allowed by the filter. Where it asks, the init takes the
// listener while this process goes on; until then, what is asked waits. Whether to wait for that.
static int load_filter(struct confinement *confinement, int socket_fd) {
  if (confinement->filter.len == 0) return 0;
  int listener = filter_load(&confinement->filter, confinement->verdicts.len > 0);
  if (listener < 0) die(socket_fd, "seccomp");
  if (confinement->verdicts.len == 0 || listener == 0) return 0;
  static struct report report = {.kind = REPORT_LISTENER};
  report.number = listener;
  if (write(socket_fd, &report, sizeof report) < 0) _exit(127);
  return 1;
}

// `gate` is a pipe that the runner writes to once it knows that the box is what it should be, or -1.
static _Noreturn void become_command(struct command *command, const struct user *user, int fds[3],
                                     int master, int gate, int socket_fd) {
  static struct report facts = {.kind = REPORT_FACTS};
  marks_begin();
  sigset_t none;
  sigemptyset(&none);
  sigprocmask(SIG_SETMASK, &none, NULL);
  for (int s = 1; s < NSIG; s++) signal(s, SIG_DFL);
  if (setsid() < 0) die(socket_fd, "setsid");
  if (command->tty && ioctl(fds[0], TIOCSCTTY, 0) != 0) die(socket_fd, "take the terminal");
  for (int i = 0; i < 3; i++)
    if (dup2(fds[i], i) != i) die(socket_fd, "dup2");
  if (command->boot.count > 0) {
    const char *failed = boot_prepare(&command->boot, master, facts.text, sizeof facts.text);
    if (failed != NULL) die(socket_fd, failed);
  }
  umask(command->umask);

  // The box goes first when memory is short, never its init.
  prctl(PR_SET_DUMPABLE, 1, 0, 0, 0); // else the file is not ours to write
  int score = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);
  if (score >= 0 && write(score, "500", 3) != 3) die(socket_fd, "oom_score_adj");
  struct rights_files files = rights_open();
  prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);

  for (unsigned i = 0; i < command->rlimit_count; i++)
    if (!fault("rlimits") && setrlimit((int)command->rlimits[i].resource, &command->rlimits[i].limit) != 0)
      die(socket_fd, "setrlimit");
  struct landlock landlock;
  const char *failed = confine(&command->confinement, user, command->cwd, &landlock);
  if (failed != NULL) die(socket_fd, failed);
  if (rights_limits(command->rlimits, command->rlimit_count, facts.text, sizeof facts.text) != 0 &&
      !fault("rights-unchecked"))
    die_open(socket_fd, "limits");
  mark("confine"); // the last: a filter need not allow a look at the clock
  int waits = load_filter(&command->confinement, socket_fd);

  const char *missing = rights_measure(files, &command->confinement, user, &landlock, facts.text,
                                       sizeof facts.text);
  if (missing == NULL) missing = label_missing();
  if (missing != NULL) die_open(socket_fd, missing);
  marks_append(facts.text, sizeof facts.text);
  label_measure("label", facts.text, sizeof facts.text);
  if (write(socket_fd, &facts, sizeof facts) < 0) die(socket_fd, "report");
  // With exec the descriptor of the listener is gone: the init has it by then.
  char go;
  if (waits && read(socket_fd, &go, 1) != 1) _exit(127);
  if (gate >= 0) {
    ssize_t n = read(gate, &go, 1);
    if (n < 0) die(socket_fd, "wait for the runner");
    if (n == 0) _exit(127);
  }
  environ = env_strings;
  execvp(argv_strings[0], argv_strings);
  die(socket_fd, "exec");
}

// Reads one report while answering for the filter the child may have by now. 1, 0 at the end, -1 (errno).
static int next_report(int fd, struct report *report, int wait_ms) {
  for (;;) {
    struct pollfd polled[2] = {{.fd = fd, .events = POLLIN},
                               {.fd = filter_fd(), .events = POLLIN}};
    int ready = poll(polled, 2, wait_ms);
    if (ready < 0 && errno == EINTR) continue;
    if (ready == 0) errno = ETIMEDOUT;
    if (ready <= 0) return -1;
    if (polled[1].revents != 0) filter_answer();
    if (polled[0].revents == 0) continue;
    ssize_t n = read(fd, report, sizeof *report);
    // The child ended without taking what was sent to it, perhaps after it has said why.
    if (n < 0 && (errno == EINTR || errno == ECONNRESET)) continue;
    return n == sizeof *report;
  }
}

// Until the command has been exec'd (end of file) or has reported an error, which `out` is then.
static int hear_start(int fd, pid_t pid, const struct command *command, struct report *out) {
  static struct report report;
  int untaken = 0, more, wait_ms = START_MS;
  *out = (struct report){.kind = REPORT_ERROR, .number = ECHILD, .text = "start"};
  while ((more = next_report(fd, &report, wait_ms)) > 0) {
    if (report.kind == REPORT_LISTENER) {
      // Where that fails, the child may know better why, and is not let go on.
      if (filter_take(pid, report.number, &command->confinement.verdicts, command->id) != 0)
        untaken = errno;
      else if (write(fd, "", 1) != 1) untaken = errno;
      continue;
    }
    *out = report;
    if (report.kind == REPORT_ERROR) return -1;
    if (untaken) break;
    if (command->gated) wait_ms = -1; // for the runner, as long as there is one
  }
  if (untaken || more < 0) {
    *out = (struct report){.kind = REPORT_ERROR, .number = untaken ? untaken : errno};
    snprintf(out->text, sizeof out->text, "%s", untaken ? "seccomp listener" : "start");
    return -1;
  }
  return out->kind == REPORT_FACTS ? 0 : -1;
}

static int refuse(int control, uint32_t id, int error, const char *what, const char *detail) {
  answer_failed(control, id, error, what, detail);
  return -1;
}

// The command that is being started: one at a time.
static struct command command;
static struct user user;
static int start_fd; // of its process's reports
static int master;   // of its terminal, or -1
static pid_t pid;

// Takes the command's stdin, stdout and stderr out of a request. NULL, or what failed.
static const char *take_stdio(const struct message *request, int fds[3], int *slave) {
  if (command.tty) {
    if (open_terminal(&command, &user, request->fds[0], &master, slave) != 0) return "open a terminal";
    fds[0] = fds[1] = fds[2] = *slave;
    return NULL;
  }
  for (int i = 0; i < 3; i++) {
    // Else the command cannot reopen /dev/stderr: a pipe belongs to who made it.
    struct stat st;
    if (fstat(request->fds[i], &st) == 0 && S_ISFIFO(st.st_mode) &&
        fchown(request->fds[i], user.uid, user.gid) != 0)
      return "hand over stdio";
    // Out of the way of 0, 1, 2, which dup2 is about to overwrite.
    fds[i] = fcntl(request->fds[i], F_DUPFD_CLOEXEC, 10);
    if (fds[i] < 0) return "hand over stdio";
  }
  return NULL;
}

static void close_open(int fd) {
  if (fd >= 0) close(fd);
}

pid_t exec_begin(struct message *request, int control, int first) {
  if (parse(request, &command) != 0 || (first && (!command.gated || command.boot.count > 0)))
    return refuse(control, command.id, EBADMSG, "read the request", NULL);
  if (user_find(command.user, &user) != 0)
    return refuse(control, command.id, errno, "find user", command.user);
  complete_environment(&command, &user);

  int slave = -1, fds[3] = {-1, -1, -1}, gate = -1, ends[2] = {-1, -1};
  master = pid = -1;
  const char *failed = take_stdio(request, fds, &slave);
  if (failed == NULL && command.gated &&
      (gate = fcntl(request->fds[request->nfds - 1], F_DUPFD_CLOEXEC, 10)) < 0)
    failed = "hold the command back";
  if (failed == NULL && (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) != 0 ||
                         (pid = boot_fork(&command.boot)) < 0))
    failed = "fork";
  if (pid == 0) become_command(&command, &user, fds, master, gate, ends[1]);
  int error = errno;
  close_open(gate);
  close_open(ends[1]);
  if (failed == NULL && slave >= 0) boot_hold(&command.boot, slave);
  else if (slave >= 0) close(slave);
  else
    for (int i = 0; i < 3; i++) close_open(fds[i]);
  start_fd = ends[0];
  if (failed == NULL) return pid;
  close_open(start_fd);
  close_open(master);
  return refuse(control, command.id, error, failed, NULL);
}

int exec_finish(int control, struct execution *out) {
  static struct report report;
  int failed = hear_start(start_fd, pid, &command, &report);
  close(start_fd);
  if (failed) {
    kill(pid, SIGKILL); // it may still wait for us
    if (master >= 0) close(master);
    const char *detail = strcmp(report.text, "exec") == 0    ? argv_strings[0]
                         : strcmp(report.text, "chdir") == 0 ? command.cwd
                                                             : NULL;
    return refuse(control, command.id, report.number, report.text, detail);
  }
  *out = (struct execution){.id = command.id, .pid = pid, .tty = master};
  answer_begin(MSG_STARTED);
  answer_u32(OUT_ID, command.id);
  answer_u32(OUT_PID, (uint32_t)pid);
  answer_bytes(OUT_FACTS, report.text, strlen(report.text));
  answer_send(control);
  return 0;
}

int exec_winsize(const struct execution *execution, uint16_t rows, uint16_t columns) {
  struct winsize size = {.ws_row = rows, .ws_col = columns};
  return execution->tty < 0 ? 0 : ioctl(execution->tty, TIOCSWINSZ, &size);
}
