// SPDX-License-Identifier: Apache-2.0
#define _GNU_SOURCE
#include "exec.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/capability.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "measure.h"
#include "users.h"

#define STRINGS_MAX 65536u
#define RLIMITS_MAX 16

static char *argv_strings[STRINGS_MAX + 1];
static char *env_strings[STRINGS_MAX + 4]; // HOME, USER, LOGNAME may be added

struct command {
  uint32_t id;
  unsigned argc, envc;
  const char *cwd, *user;
  uint64_t capabilities;
  struct sock_fprog seccomp;
  struct {
    uint32_t resource;
    struct rlimit limit;
  } rlimits[RLIMITS_MAX];
  unsigned rlimit_count;
  int tty;
  struct winsize size;
  uint32_t umask;
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
  case EXEC_CAPS: return field_u64(field, 0, &command->capabilities);
  case EXEC_SECCOMP:
    if (field->length == 0 || field->length % sizeof(struct sock_filter) != 0 ||
        field->length / sizeof(struct sock_filter) > BPF_MAXINSNS)
      return -1;
    command->seccomp.len = (unsigned short)(field->length / sizeof(struct sock_filter));
    command->seccomp.filter = (struct sock_filter *)field->data;
    return 0;
  case EXEC_RLIMIT: return parse_rlimit(field, command);
  case EXEC_TTY:
    if (field->length != 4) return -1;
    command->tty = 1;
    memcpy(&command->size.ws_row, field->data, 2);
    memcpy(&command->size.ws_col, field->data + 2, 2);
    return 0;
  case EXEC_UMASK: return field_u32(field, 0, &command->umask);
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
  if (request->nfds != (command->tty ? 1 : 3)) return -1;
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

// Reports to the nested init through the close-on-exec pipe, then dies.
struct report {
  int error;
  char what[32];
};

static void die(int pipe_fd, const char *what) {
  struct report report = {.error = errno};
  snprintf(report.what, sizeof report.what, "%s", what);
  if (write(pipe_fd, &report, sizeof report) < 0) _exit(126);
  _exit(127);
}

// Leaves exactly the named capabilities: in force for container root, ambient for other users, who
// have none unless the request says so.
static int drop_privileges(const struct command *command, const struct user *user) {
  uint64_t keep = command->capabilities;
  for (int cap = 0; prctl(PR_CAPBSET_READ, cap, 0, 0, 0) >= 0; cap++)
    if (!(keep >> cap & 1) && prctl(PR_CAPBSET_DROP, cap, 0, 0, 0) != 0) return -1;
  if (prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0) != 0) return -1;
  if (keep != 0 && prctl(PR_SET_KEEPCAPS, 1, 0, 0, 0) != 0) return -1;
  if (setgroups((size_t)user->ngroups, user->groups) != 0 ||
      setresgid(user->gid, user->gid, user->gid) != 0 ||
      setresuid(user->uid, user->uid, user->uid) != 0)
    return -1;
  uint64_t inherit = user->uid == 0 ? 0 : keep;
  struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
  struct __user_cap_data_struct data[2] = {
      {(uint32_t)keep, (uint32_t)keep, (uint32_t)inherit},
      {(uint32_t)(keep >> 32), (uint32_t)(keep >> 32), (uint32_t)(inherit >> 32)}};
  if (syscall(SYS_capset, &header, data) != 0) return -1;
  for (int cap = 0; cap < 64; cap++)
    if (inherit >> cap & 1 && prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, cap, 0, 0) != 0) return -1;
  return 0;
}

static _Noreturn void become_command(struct command *command, const struct user *user, int fds[3],
                                     int pipe_fd) {
  sigset_t none;
  sigemptyset(&none);
  sigprocmask(SIG_SETMASK, &none, NULL);
  for (int s = 1; s < NSIG; s++) signal(s, SIG_DFL);
  if (setsid() < 0) die(pipe_fd, "setsid");
  if (command->tty && ioctl(fds[0], TIOCSCTTY, 0) != 0) die(pipe_fd, "take the terminal");
  for (int i = 0; i < 3; i++)
    if (dup2(fds[i], i) != i) die(pipe_fd, "dup2");
  umask(command->umask);

  // The box goes first when memory is short, never its init.
  prctl(PR_SET_DUMPABLE, 1, 0, 0, 0); // else the file is not ours to write
  int score = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);
  if (score >= 0 && write(score, "500", 3) != 3) die(pipe_fd, "oom_score_adj");
  int status = open("/proc/self/status", O_RDONLY | O_CLOEXEC);
  prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);

  for (unsigned i = 0; i < command->rlimit_count; i++)
    if (setrlimit((int)command->rlimits[i].resource, &command->rlimits[i].limit) != 0)
      die(pipe_fd, "setrlimit");
  if (drop_privileges(command, user) != 0) die(pipe_fd, "drop privileges");
  if (chdir(command->cwd) != 0) die(pipe_fd, "chdir");
  if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0) die(pipe_fd, "no_new_privs");
  if (command->seccomp.len > 0 &&
      prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &command->seccomp, 0, 0) != 0)
    die(pipe_fd, "seccomp");

  static char facts[4096];
  struct report fine = {0};
  measure_process(status, facts, sizeof facts);
  if (write(pipe_fd, &fine, sizeof fine) < 0 || write(pipe_fd, facts, sizeof facts) < 0)
    die(pipe_fd, "report");
  environ = env_strings;
  execvp(argv_strings[0], argv_strings);
  die(pipe_fd, "exec");
  _exit(127);
}

// Reads until the command has been exec'd (end of file) or has reported an error.
static void read_report(int fd, struct report *report, char *facts, size_t size) {
  unsigned char bytes[sizeof(struct report) * 2 + 4096];
  size_t length = 0;
  ssize_t n;
  while (length < sizeof bytes && (n = read(fd, bytes + length, sizeof bytes - length)) != 0) {
    if (n > 0) length += (size_t)n;
    else if (errno != EINTR) break;
  }
  memset(report, 0, sizeof *report);
  facts[0] = 0;
  if (length < sizeof *report) {
    report->error = ECHILD; // killed before it could exec
    snprintf(report->what, sizeof report->what, "start");
    return;
  }
  memcpy(report, bytes, sizeof *report);
  if (report->error != 0 || length < sizeof *report + size) return;
  memcpy(facts, bytes + sizeof *report, size);
  facts[size - 1] = 0;
  if (length == sizeof *report * 2 + size) memcpy(report, bytes + sizeof *report + size, sizeof *report);
}

static int refuse(int control, uint32_t id, int error, const char *what, const char *detail) {
  answer_failed(control, id, error, what, detail);
  return -1;
}

int exec_start(struct message *request, int control, struct execution *out) {
  static struct command command;
  static struct user user;
  if (parse(request, &command) != 0)
    return refuse(control, command.id, EBADMSG, "read the request", NULL);
  if (user_find(command.user, &user) != 0)
    return refuse(control, command.id, errno, "find user", command.user);
  complete_environment(&command, &user);

  int master = -1, slave = -1, fds[3];
  if (command.tty) {
    if (open_terminal(&command, &user, request->fds[0], &master, &slave) != 0) {
      int error = errno;
      close(master);
      close(slave);
      return refuse(control, command.id, error, "open a terminal", NULL);
    }
    fds[0] = fds[1] = fds[2] = slave;
  } else {
    for (int i = 0; i < 3; i++) {
      // Else the command cannot reopen /dev/stderr: a pipe belongs to who made it.
      struct stat st;
      if (fstat(request->fds[i], &st) == 0 && S_ISFIFO(st.st_mode) &&
          fchown(request->fds[i], user.uid, user.gid) != 0)
        return refuse(control, command.id, errno, "hand over stdio", NULL);
      // Out of the way of 0, 1, 2, which dup2 is about to overwrite.
      fds[i] = fcntl(request->fds[i], F_DUPFD_CLOEXEC, 10);
    }
  }

  int pipe_fds[2];
  pid_t pid = pipe2(pipe_fds, O_CLOEXEC) == 0 ? fork() : -1;
  if (pid == 0) become_command(&command, &user, fds, pipe_fds[1]);
  int fork_error = errno;
  if (slave >= 0) close(slave);
  else
    for (int i = 0; i < 3; i++) close(fds[i]);
  if (pid < 0) return refuse(control, command.id, fork_error, "fork", NULL);
  close(pipe_fds[1]);

  static char facts[4096];
  struct report report;
  read_report(pipe_fds[0], &report, facts, sizeof facts);
  close(pipe_fds[0]);
  if (report.error != 0) {
    if (master >= 0) close(master);
    const char *detail = strcmp(report.what, "exec") == 0    ? argv_strings[0]
                         : strcmp(report.what, "chdir") == 0 ? command.cwd
                                                             : NULL;
    return refuse(control, command.id, report.error, report.what, detail);
  }
  *out = (struct execution){.id = command.id, .pid = pid, .tty = master};
  answer_begin(MSG_STARTED);
  answer_u32(OUT_ID, command.id);
  answer_u32(OUT_PID, (uint32_t)pid);
  answer_bytes(OUT_FACTS, facts, strlen(facts));
  answer_send(control);
  return 0;
}

int exec_winsize(const struct execution *execution, uint16_t rows, uint16_t columns) {
  struct winsize size = {.ws_row = rows, .ws_col = columns};
  return execution->tty < 0 ? 0 : ioctl(execution->tty, TIOCSWINSZ, &size);
}
