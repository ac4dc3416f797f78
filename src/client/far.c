#include "remote.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

/* How long a command may take to end whose caller is gone, seconds. */
#define LAST_MOMENTS 10
#define WORDS_COUNT_MAX 65536

struct far {
  struct connection from;
  struct queue to, input;
  /* The command's outputs; -1 once closed. With a terminal the first is that. */
  int outputs[2];
  int terminal, signals;
  pid_t child;
  bool ended, gone;
  int status;
  long heard;
};

struct start {
  uint8_t terminals;
  struct winsize size;
  char **words, **variables;
};

static bool take_words(const uint8_t **at, const uint8_t *end, char ***words) {
  if (end - *at < 4) return false;
  uint32_t count = read_u32(*at);
  *at += 4;
  if (count > WORDS_COUNT_MAX || (*words = calloc(count + 2, sizeof **words)) == NULL) return false;
  for (uint32_t i = 0; i < count; i++) {
    const uint8_t *nul = memchr(*at, '\0', end - *at);
    /* The first place is for the program's name. */
    if (nul == NULL || ((*words)[i + 1] = strdup((const char *)*at)) == NULL) return false;
    *at = nul + 1;
  }
  return true;
}

static bool read_start(const struct frame *frame, struct start *start) {
  const uint8_t *at = frame->payload, *end = at + frame->length;
  if (frame->type != REMOTE_START || frame->length < sizeof KILN_VERSION + 9 ||
      memcmp(at, KILN_VERSION, sizeof KILN_VERSION) != 0) {
    return false;
  }
  at += sizeof KILN_VERSION;
  start->terminals = *at;
  start->size = (struct winsize){.ws_row = (unsigned short)read_u32(at + 1), .ws_col = (unsigned short)read_u32(at + 5)};
  at += 9;
  return take_words(&at, end, &start->words) && take_words(&at, end, &start->variables) && at == end;
}

static void await_start(struct far *far, struct start *start) {
  struct frame frame;
  bool broken;
  while (!connection_next(&far->from, &frame, &broken)) {
    struct pollfd entry = {.fd = 0, .events = POLLIN};
    if (broken || poll(&entry, 1, SILENCE_LIMIT * 1000) <= 0 || connection_receive(&far->from) == -1) exit(1);
  }
  /* The near end says what is wrong: it knows our version. */
  if (!read_start(&frame, start)) exit(1);
}

_Noreturn static void become_command(const struct start *start, const int *fds, bool has_terminal) {
  char program[PATH_MAX + 16];
  sigset_t none;
  sigemptyset(&none);
  for (int fd = 0; fd <= 2; fd++) dup2(fds[fd], fd);
  if (has_terminal) {
    /* The keys that end or stop a command are for a session with this terminal. */
    setsid();
    ioctl(0, TIOCSCTTY, 0);
  }
  unsetenv("KILN_HOST");
  for (char **variable = start->variables + 1; *variable != NULL; variable++) putenv(*variable);
  snprintf(program, sizeof program, "%s/bin/kiln", package_folder());
  start->words[0] = program;
  signal(SIGPIPE, SIG_DFL);
  sigprocmask(SIG_SETMASK, &none, NULL);
  execv(program, start->words);
  fail("E_INSTALLATION", "%s cannot be started: %s\n  hint: it belongs to kiln: install kiln again", program,
       strerror(errno));
}

static void make_pipe(int *ends) {
  if (pipe2(ends, O_CLOEXEC) == -1) fail("E_SYSCALL", "a pipe cannot be made: %s", strerror(errno));
}

/* Its ends for us (`ours`) and for the command. */
static void open_terminal(const struct start *start, int *ours, int *its) {
  const int flags = O_RDWR | O_NOCTTY | O_CLOEXEC;
  int unlocked = 0;
  *ours = open("/dev/ptmx", flags | O_NONBLOCK);
  if (*ours == -1 || ioctl(*ours, TIOCSPTLCK, &unlocked) == -1 || (*its = ioctl(*ours, TIOCGPTPEER, flags)) == -1)
    fail("E_SYSCALL", "a terminal cannot be opened: %s", strerror(errno));
  ioctl(*ours, TIOCSWINSZ, &start->size);
}

static void start_command(struct far *far, const struct start *start) {
  bool has_terminal = (start->terminals & 3) == 3;
  int in[2] = {-1, -1}, out[2] = {-1, -1}, error[2] = {-1, -1};
  if (has_terminal) {
    open_terminal(start, &far->terminal, &out[1]);
    in[0] = out[1];
    out[0] = far->terminal;
    in[1] = fcntl(far->terminal, F_DUPFD_CLOEXEC, 3);
  } else {
    make_pipe(in);
    make_pipe(out);
    fcntl(in[1], F_SETFL, O_NONBLOCK);
  }
  if (has_terminal && (start->terminals & 4) != 0) error[1] = out[1];
  else make_pipe(error);
  far->child = fork();
  if (far->child == -1) fail("E_TOO_MANY_PROCESSES", "fork: %s\n  hint: end processes, or allow more: `ulimit -u`", strerror(errno));
  if (far->child == 0) become_command(start, (const int[]){in[0], out[1], error[1]}, has_terminal);
  close(in[0]);
  if (out[1] != in[0]) close(out[1]);
  if (error[1] != out[1]) close(error[1]);
  far->input = (struct queue){.fd = in[1], .plain = true};
  far->outputs[0] = out[0];
  far->outputs[1] = error[0];
}

static void close_output(struct far *far, int which) {
  if (far->outputs[which] == -1) return;
  if (far->outputs[which] == far->terminal) far->terminal = -1;
  close(far->outputs[which]);
  far->outputs[which] = -1;
}

/* False: this is no frame of the kiln that we know. */
static bool take_frame(struct far *far, const struct frame *frame) {
  const uint8_t *payload = frame->payload;
  uint8_t taken[4];
  switch (frame->type) {
    case REMOTE_INPUT:
      if (far->input.fd != -1) {
        queue_put(&far->input, payload, frame->length);
        return queue_length(&far->input) <= 2 * INPUT_WINDOW;
      }
      write_u32(taken, frame->length);
      queue_frame(&far->to, REMOTE_TAKEN, taken, sizeof taken);
      return true;
    case REMOTE_INPUT_END: far->input.ends = far->terminal == -1; return true;
    case REMOTE_SIGNAL:
      if (frame->length != 4) return false;
      if (!far->ended) kill(far->child, (int)read_u32(payload));
      return true;
    case REMOTE_RESIZE:
      if (frame->length != 8) return false;
      if (far->terminal != -1) {
        struct winsize size = {.ws_row = (unsigned short)read_u32(payload), .ws_col = (unsigned short)read_u32(payload + 4)};
        ioctl(far->terminal, TIOCSWINSZ, &size);
      }
      return true;
    case REMOTE_CLOSE:
      if (frame->length != 1 || payload[0] < 1 || payload[0] > 2) return false;
      close_output(far, payload[0] - 1);
      return true;
    case REMOTE_ALIVE: return true;
    default: return false;
  }
}

static void take_output(struct far *far, int which) {
  uint8_t bytes[PIECE];
  ssize_t got = read(far->outputs[which], bytes, sizeof bytes);
  if (got == -1 && (errno == EAGAIN || errno == EINTR)) return;
  if (got > 0) queue_frame(&far->to, which == 0 ? REMOTE_OUTPUT : REMOTE_ERROR, bytes, (uint32_t)got);
  else close_output(far, which);
}

static void pass_input(struct far *far) {
  size_t waited = queue_length(&far->input);
  size_t passed = queue_go(&far->input);
  /* What a command did not read that has closed its input counts as passed on. */
  if (far->input.fd == -1) passed = waited;
  if (passed == 0) return;
  uint8_t taken[4];
  write_u32(taken, (uint32_t)passed);
  queue_frame(&far->to, REMOTE_TAKEN, taken, sizeof taken);
}

static void take_child(struct far *far) {
  struct signalfd_siginfo info;
  int status;
  while (read(far->signals, &info, sizeof info) == sizeof info) continue;
  if (far->ended || waitpid(far->child, &status, WNOHANG) != far->child) return;
  far->ended = true;
  far->status = WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
}

static void take_frames(struct far *far) {
  struct frame frame;
  bool broken = false;
  if (connection_receive(&far->from) == -1) far->gone = true;
  far->heard = seconds_now();
  while (!far->gone && connection_next(&far->from, &frame, &broken)) far->gone = !take_frame(far, &frame);
  if (broken) far->gone = true;
}

static void serve(struct far *far) {
  while (!far->gone && !(far->ended && far->outputs[0] == -1 && far->outputs[1] == -1)) {
    bool full = queue_length(&far->to) > OUTPUT_WINDOW;
    struct pollfd entries[] = {
        {.fd = 0, .events = POLLIN},
        {.fd = far->signals, .events = POLLIN},
        {.fd = full ? -1 : far->outputs[0], .events = POLLIN},
        {.fd = full ? -1 : far->outputs[1], .events = POLLIN},
        queue_wait(&far->to),
        queue_wait(&far->input),
    };
    if (poll(entries, sizeof entries / sizeof *entries, 1000) == -1 && errno != EINTR) return;
    if (entries[0].revents != 0) take_frames(far);
    if (entries[1].revents != 0) take_child(far);
    for (int which = 0; which < 2; which++)
      if (entries[2 + which].revents != 0 && far->outputs[which] != -1) take_output(far, which);
    if ((entries[5].revents & POLLERR) != 0) far->input.ends = true;
    pass_input(far);
    queue_go(&far->to);
    if (far->to.fd == -1 || seconds_now() - far->heard > SILENCE_LIMIT) far->gone = true;
  }
}

/* Nobody reads its output any more, nor writes its input. */
static void end_command(struct far *far) {
  close_output(far, 0);
  close_output(far, 1);
  queue_close(&far->input);
  if (far->ended) return;
  kill(far->child, SIGTERM);
  for (long begun = seconds_now(); !far->ended; take_child(far)) {
    struct pollfd entry = {.fd = far->signals, .events = POLLIN};
    if (seconds_now() - begun > LAST_MOMENTS) kill(far->child, SIGKILL);
    poll(&entry, 1, 1000);
  }
}

void serve_far(void) {
  static struct far far = {.terminal = -1, .outputs = {-1, -1}};
  struct start start = {0};
  sigset_t watched;
  far.from = (struct connection){.socket = 0};
  far.to = (struct queue){.fd = 1, .plain = true};
  fcntl(1, F_SETFL, fcntl(1, F_GETFL) | O_NONBLOCK);
  signal(SIGPIPE, SIG_IGN);
  sigemptyset(&watched);
  sigaddset(&watched, SIGCHLD);
  sigprocmask(SIG_BLOCK, &watched, NULL);
  far.signals = signalfd(-1, &watched, SFD_CLOEXEC | SFD_NONBLOCK);
  if (far.signals == -1) fail("E_SYSCALL", "signalfd: %s", strerror(errno));
  queue_frame(&far.to, REMOTE_HELLO, KILN_VERSION, sizeof KILN_VERSION);
  queue_go(&far.to);
  await_start(&far, &start);
  start_command(&far, &start);
  far.heard = seconds_now();
  serve(&far);
  if (far.gone) end_command(&far);
  uint8_t status[4];
  write_u32(status, (uint32_t)far.status);
  queue_frame(&far.to, REMOTE_STATUS, status, sizeof status);
  for (long begun = seconds_now(); far.to.fd != -1 && queue_length(&far.to) > 0 && seconds_now() - begun <= SILENCE_LIMIT;) {
    struct pollfd entry = queue_wait(&far.to);
    poll(&entry, 1, 1000);
    queue_go(&far.to);
  }
  exit(0);
}
