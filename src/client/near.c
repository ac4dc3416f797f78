#include "remote.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <unistd.h>

#include "travels.h"

/* Of ssh's own words before the other kiln answers, bytes. */
#define WORDS_MAX 16384
/* A connection that fails later than this is not tried again only to say why, seconds. */
#define AGAIN 10
/* A third ^C within this time ends the connection at once, seconds. */
#define IMPATIENCE 3
#define INTERRUPTED 130

struct near {
  const char *host;
  pid_t ssh;
  struct connection from;
  struct queue to, output, error;
  int words_fd;
  char words[WORDS_MAX];
  size_t words_length;
  bool answered, whole, input_open, terminal;
  bool output_told, error_told;
  size_t unread;
  int status;
  int interrupts;
  long last_interrupt, last_alive;
};

static bool is_word(const char *text, const char *more) {
  if (strspn(text, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_") == 0) return false;
  for (; *text != '\0'; text++) {
    bool plain = (*text >= 'a' && *text <= 'z') || (*text >= 'A' && *text <= 'Z') || (*text >= '0' && *text <= '9');
    if (!plain && strchr(more, *text) == NULL) return false;
  }
  return true;
}

/* Whether a word is an image's name, and no path of a recipe or a lock. */
static bool is_image_name(const char *word) {
  const char *dot = strrchr(word, '.');
  bool is_file = dot != NULL && (strcmp(dot, ".yaml") == 0 || strcmp(dot, ".yml") == 0 || strcmp(dot, ".json") == 0);
  return is_word(word, "_.+@:~-") && strlen(word) <= 200 && !is_file;
}

static bool value_travels(enum way way, const char *value) {
  if (value == NULL || value[0] == '-') return false;
  if (way == WAY_IMAGE) return is_image_name(value);
  return way != WAY_PAIR || strchr(value, '=') != NULL;
}

/* Whether the words of a run are all known here, and none of them names a file. */
static bool words_travel(char *const *words) {
  if (words[0] == NULL || strcmp(words[0], "run") != 0) return false;
  for (size_t i = 1; words[i] != NULL; i++) {
    if (strcmp(words[i], "--") == 0) return true;
    size_t length = strcspn(words[i], "="), known = 0;
    const char *value = words[i][length] == '\0' ? NULL : words[i] + length + 1;
    while (travels[known].name != NULL &&
           (strlen(travels[known].name) != length || strncmp(words[i], travels[known].name, length) != 0)) {
      known++;
    }
    if (travels[known].name == NULL || (value != NULL && length == 2)) return false;
    enum way way = travels[known].way;
    if (way == WAY_FLAG && value != NULL) return false;
    if (way == WAY_FLAG || way == WAY_OPTIONAL) continue;
    if (!value_travels(way, value == NULL ? words[++i] : value)) return false;
  }
  return false;
}

struct address {
  char user[256], host[256], port[8];
};

/* ssh://USER@HOST:PORT in its plain form: any other is for src/remote. */
static bool parse_address(const char *text, struct address *address) {
  char copy[512];
  if (strncmp(text, "ssh://", 6) != 0 || strlen(text) >= sizeof copy) return false;
  strcpy(copy, text + 6);
  size_t length = strlen(copy);
  if (length > 0 && copy[length - 1] == '/') copy[length - 1] = '\0';
  char *at = strchr(copy, '@'), *host = at == NULL ? copy : at + 1, *colon = strchr(host, ':');
  *address = (struct address){0};
  if (at != NULL) *at = '\0';
  if (colon != NULL) *colon = '\0';
  if (strlen(copy) > 255 || strlen(host) > 255 || !is_word(host, ".-")) return false;
  if (at != NULL && !is_word(copy, "_.-")) return false;
  if (colon != NULL && (strlen(colon + 1) > 5 || colon[1] == '\0' || strspn(colon + 1, "0123456789") != strlen(colon + 1)))
    return false;
  strcpy(address->host, host);
  if (at != NULL) strcpy(address->user, copy);
  if (colon != NULL) strcpy(address->port, colon + 1);
  return true;
}

static bool is_set(const char *name) {
  const char *value = getenv(name);
  return value != NULL && value[0] != '\0';
}

/* The words after the machine's address; NULL where they are not for another machine, or not for this file. */
static char **words_there(int argc, char **argv, struct address *address) {
  /* An image of a variable can be a file; to a CI service more is said. */
  static const char *const others[] = {"KILN_FROM_SOURCE", "KILN_IMAGE", "KILN_CI_LOG", "GITHUB_ACTIONS", "GITLAB_CI"};
  const char *url = getenv("KILN_HOST");
  char **words = argv + 1;
  if (argc < 2 || is_mock(argv[0])) return NULL;
  if (strcmp(argv[1], "--host") == 0 && argc > 2) {
    url = argv[2];
    words = argv + 3;
  } else if (strncmp(argv[1], "--host=", 7) == 0) {
    url = argv[1] + 7;
    words = argv + 2;
  }
  if (url == NULL || url[0] == '\0' || !words_travel(words) || !parse_address(url, address)) return NULL;
  for (size_t i = 0; i < sizeof others / sizeof *others; i++)
    if (is_set(others[i])) return NULL;
  return words;
}

static void start_ssh(struct near *near, struct address *address) {
  char *arguments[16] = {"ssh", "-T", "-o", "ServerAliveInterval=15", "-o", "ServerAliveCountMax=3"};
  size_t count = 6;
  if (address->port[0] != '\0') arguments[count++] = "-p", arguments[count++] = address->port;
  if (address->user[0] != '\0') arguments[count++] = "-l", arguments[count++] = address->user;
  arguments[count++] = "--";
  arguments[count++] = address->host;
  arguments[count] = "kiln " REMOTE_RUN;
  int in[2], out[2], words[2];
  if (pipe2(in, O_CLOEXEC) == -1 || pipe2(out, O_CLOEXEC) == -1 || pipe2(words, O_CLOEXEC) == -1)
    fail("E_SYSCALL", "a pipe cannot be made: %s", strerror(errno));
  near->ssh = fork();
  if (near->ssh == -1) fail("E_TOO_MANY_PROCESSES", "ssh cannot be started: fork: %s\n  hint: end processes", strerror(errno));
  if (near->ssh == 0) {
    sigset_t none;
    sigemptyset(&none);
    dup2(in[0], 0);
    dup2(out[1], 1);
    dup2(words[1], 2);
    /* The terminal's keys are for the command there. */
    signal(SIGINT, SIG_IGN);
    signal(SIGQUIT, SIG_IGN);
    signal(SIGPIPE, SIG_DFL);
    sigprocmask(SIG_SETMASK, &none, NULL);
    execvp(arguments[0], arguments);
    _exit(127);
  }
  close(in[0]);
  close(out[1]);
  close(words[1]);
  fcntl(in[1], F_SETFL, O_NONBLOCK);
  fcntl(words[0], F_SETFL, O_NONBLOCK);
  near->to = (struct queue){.fd = in[1], .plain = true};
  near->from = (struct connection){.socket = out[0]};
  near->words_fd = words[0];
}

static void append_window(struct text *text) {
  struct winsize size = window_size();
  append_u32(text, size.ws_row);
  append_u32(text, size.ws_col);
}

static void append_start(struct near *near, char *const *words) {
  static const char *const names[] = {"TERM",           "NO_COLOR", "FORCE_COLOR", "SOURCE_DATE_EPOCH", "KILN_BUILDER_ID",
                                       "KILN_SIGN_PASSPHRASE"};
  struct text text = {0};
  char *variables[sizeof names / sizeof *names + 1];
  size_t count = 0;
  uint8_t terminals = 0;
  for (int fd = 0; fd <= 2; fd++)
    if (isatty(fd)) terminals |= 1 << fd;
  near->terminal = (terminals & 3) == 3;
  for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
    const char *value = getenv(names[i]);
    if (value != NULL && asprintf(&variables[count], "%s=%s", names[i], value) != -1) count++;
  }
  variables[count] = NULL;
  append(&text, KILN_VERSION, sizeof KILN_VERSION);
  append(&text, &terminals, 1);
  append_window(&text);
  append_words(&text, words);
  append_words(&text, variables);
  if (text.length > FRAME_MAX) fail("E_ARGUMENT", "the arguments are too long");
  queue_frame(&near->to, REMOTE_START, text.data, (uint32_t)text.length);
  for (size_t i = 0; i < count; i++) free(variables[i]);
  free(text.data);
}

static void take_words(struct near *near) {
  char words[4096];
  ssize_t got = read(near->words_fd, words, sizeof words);
  if (got <= 0) {
    if (got == -1 && (errno == EAGAIN || errno == EINTR)) return;
    close(near->words_fd);
    near->words_fd = -1;
    return;
  }
  if (near->answered) {
    queue_put(&near->error, words, got);
    return;
  }
  size_t room = WORDS_MAX - near->words_length, length = (size_t)got < room ? (size_t)got : room;
  memcpy(near->words + near->words_length, words, length);
  near->words_length += length;
}

/* False: this is no frame of the kiln that we know. */
static bool take_frame(struct near *near, const struct frame *frame) {
  if (!near->answered) {
    if (frame->type != REMOTE_HELLO || frame->length != sizeof KILN_VERSION ||
        memcmp(frame->payload, KILN_VERSION, sizeof KILN_VERSION) != 0) {
      return false;
    }
    near->answered = true;
    near->input_open = true;
    queue_put(&near->error, near->words, near->words_length);
    if (near->terminal) make_terminal_raw();
    return true;
  }
  switch (frame->type) {
    case REMOTE_OUTPUT: queue_put(&near->output, frame->payload, frame->length); return true;
    case REMOTE_ERROR: queue_put(&near->error, frame->payload, frame->length); return true;
    case REMOTE_TAKEN:
      if (frame->length != 4 || read_u32(frame->payload) > near->unread) return false;
      near->unread -= read_u32(frame->payload);
      return true;
    case REMOTE_STATUS:
      if (frame->length != 4) return false;
      near->whole = true;
      near->status = (int)(read_u32(frame->payload) & 0xff);
      return true;
    default: return false;
  }
}

static void take_input(struct near *near) {
  uint8_t bytes[PIECE];
  ssize_t got = read(0, bytes, sizeof bytes);
  if (got == -1 && (errno == EAGAIN || errno == EINTR)) return;
  if (got > 0) {
    near->unread += got;
    queue_frame(&near->to, REMOTE_INPUT, bytes, (uint32_t)got);
    return;
  }
  near->input_open = false;
  queue_frame(&near->to, REMOTE_INPUT_END, NULL, 0);
}

_Noreturn static void interrupted(struct near *near) {
  restore_terminal();
  kill(near->ssh, SIGTERM);
  fputs("kiln: interrupted; what runs there ends with the connection [E_INTERRUPTED]\n", stderr);
  exit(INTERRUPTED);
}

static void take_signal(struct near *near, int signals) {
  struct signalfd_siginfo info;
  struct text text = {0};
  if (read(signals, &info, sizeof info) != sizeof info) return;
  int number = (int)info.ssi_signo;
  if (number == SIGWINCH) {
    append_window(&text);
    queue_frame(&near->to, REMOTE_RESIZE, text.data, (uint32_t)text.length);
    free(text.data);
    return;
  }
  if (number == SIGINT || number == SIGTERM) {
    if (seconds_now() - near->last_interrupt > IMPATIENCE) near->interrupts = 0;
    near->last_interrupt = seconds_now();
    near->interrupts++;
  }
  if (!near->answered || near->interrupts > 2) interrupted(near);
  append_u32(&text, (uint32_t)number);
  queue_frame(&near->to, REMOTE_SIGNAL, text.data, (uint32_t)text.length);
  free(text.data);
}

static void tell_closed(struct near *near, const struct queue *queue, uint8_t which, bool *told) {
  if (*told || queue->fd != -1) return;
  *told = true;
  queue_frame(&near->to, REMOTE_CLOSE, &which, 1);
}

static void tell_alive(struct near *near) {
  if (seconds_now() - near->last_alive < ALIVE_EVERY) return;
  near->last_alive = seconds_now();
  queue_frame(&near->to, REMOTE_ALIVE, NULL, 0);
}

/* False: the connection has ended, or what comes is not from a kiln like this. */
static bool serve(struct near *near, int signals) {
  while (!near->whole) {
    struct frame frame;
    bool broken, full = queue_length(&near->output) + queue_length(&near->error) > OUTPUT_WINDOW;
    while (!full && connection_next(&near->from, &frame, &broken)) {
      if (!take_frame(near, &frame)) return false;
      if (near->whole) return true;
      full = queue_length(&near->output) + queue_length(&near->error) > OUTPUT_WINDOW;
    }
    if (!full && broken) return false;
    bool reads = near->input_open && near->unread < INPUT_WINDOW;
    struct pollfd entries[] = {
        {.fd = full ? -1 : near->from.socket, .events = POLLIN},
        {.fd = signals, .events = POLLIN},
        {.fd = full ? -1 : near->words_fd, .events = POLLIN},
        {.fd = reads ? 0 : -1, .events = POLLIN},
        queue_wait(&near->to),
        queue_wait(&near->output),
        queue_wait(&near->error),
    };
    if (poll(entries, sizeof entries / sizeof *entries, ALIVE_EVERY * 1000) == -1 && errno != EINTR) return false;
    if (entries[1].revents != 0) take_signal(near, signals);
    if (entries[2].revents != 0) take_words(near);
    if (entries[3].revents != 0) take_input(near);
    /* Nobody reads them: the writer there is to notice. */
    if ((entries[5].revents & (POLLERR | POLLNVAL)) != 0) queue_close(&near->output);
    if ((entries[6].revents & (POLLERR | POLLNVAL)) != 0) queue_close(&near->error);
    queue_go(&near->output);
    queue_go(&near->error);
    tell_closed(near, &near->output, 1, &near->output_told);
    tell_closed(near, &near->error, 2, &near->error_told);
    tell_alive(near);
    queue_go(&near->to);
    if (entries[0].revents != 0 && connection_receive(&near->from) == -1) return false;
  }
  return true;
}

static void drain(struct queue *queue) {
  while (queue_length(queue) > 0) {
    struct pollfd entry = queue_wait(queue);
    if (poll(&entry, 1, -1) == -1 && errno != EINTR) return;
    queue_go(queue);
  }
}

_Noreturn static void end(struct near *near) {
  drain(&near->output);
  drain(&near->error);
  restore_terminal();
  if (near->output.error != 0 && near->output.error != EPIPE)
    fail("E_OUTPUT", "standard output cannot be written: %s\n  hint: make room where it goes, or send it elsewhere",
         strerror(near->output.error));
  exit(near->status);
}

void run_there(int argc, char **argv) {
  static struct near near;
  struct address address;
  char **words = words_there(argc, argv, &address);
  if (words == NULL) return;
  int signals = catch_signals();
  start_ssh(&near, &address);
  append_start(&near, words);
  near.output = (struct queue){.fd = 1, .plain = is_file(1)};
  near.error = (struct queue){.fd = 2, .plain = is_file(2)};
  near.last_alive = seconds_now();
  long begun = near.last_alive;
  if (serve(&near, signals)) end(&near);
  restore_terminal();
  kill(near.ssh, SIGTERM);
  if (near.answered) {
    drain(&near.error);
    fail("E_REMOTE_LOST",
         "the connection to %s ended before the command did\n  hint: the command was ended there, unless it was detached; "
         "`kiln --host … ps` shows what goes on",
         address.host);
  }
  if (seconds_now() - begun > AGAIN) {
    fwrite(near.words, 1, near.words_length, stderr);
    fail("E_REMOTE_SSH", "ssh to %s ended\n  hint: `ssh %s true` has to work without a question", address.host, address.host);
  }
  close(signals);
  queue_close(&near.to);
  close(near.from.socket);
  if (near.words_fd != -1) close(near.words_fd);
  waitpid(near.ssh, NULL, 0);
}
