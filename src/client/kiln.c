/*
 * kiln, the program that people start. It parses no more than tells whether the daemon is meant (daemon.c): it
 * hands its arguments, environment and descriptors to the daemon, moves stdio, handles terminal and signals, and
 * ends as it is told. One file, for all of it acts on the one client.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

#include "client.h"
#include "remote.h"

#define ANSWER_OK "{\"parameters\":{}}"
#define ANSWER_OTHER_BUILD "{\"error\":\"io.kiln.OtherBuild\""
#define BUILD_ID_MAX 64
/* So often a daemon that is about to end, or is of another build, is given time to make room. */
#define ATTEMPTS 200
#define PAUSE_MS 25
/* After so many seconds without an answer the daemon is named, and after so many the client gives up. */
#define PATIENCE 5
#define SILENCE_MAX 60
/* A third ^C within this time ends the client at once, seconds. */
#define IMPATIENCE 3

static const int forwarded[] = {SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGUSR1, SIGUSR2, SIGWINCH};

struct client {
  struct connection connection;
  int signals;
  struct lane input, output, error;
  int terminal;
  bool raw;
  struct termios before;
  /* stdio has been handed over and the daemon not yet been told that all output is written. */
  bool draining;
  sigset_t caught;
  struct timespec last_interrupt;
  int interrupts;
  int output_error;
  int told_to_end;
};

static struct client client = {.terminal = -1};

void restore_terminal(void) {
  if (!client.raw) return;
  client.raw = false;
  tcsetattr(0, TCSADRAIN, &client.before);
}

void make_terminal_raw(void) {
  struct termios raw;
  if (client.raw || tcgetattr(0, &client.before) == -1) return;
  raw = client.before;
  cfmakeraw(&raw);
  if (tcsetattr(0, TCSADRAIN, &raw) == 0) client.raw = true;
}

struct winsize window_size(void) {
  struct winsize size = {0};
  for (int fd = 0; fd <= 2; fd++)
    if (ioctl(fd, TIOCGWINSZ, &size) == 0 && size.ws_row > 0) return size;
  return (struct winsize){0};
}

void append(struct text *text, const void *bytes, size_t length) {
  if (text->length + length > text->size) {
    text->size = (text->length + length) * 2;
    text->data = realloc(text->data, text->size);
    if (text->data == NULL) fail("E_NO_MEMORY", "there is no memory for the arguments");
  }
  memcpy(text->data + text->length, bytes, length);
  text->length += length;
}

void append_u32(struct text *text, uint32_t value) {
  uint8_t bytes[4];
  write_u32(bytes, value);
  append(text, bytes, sizeof bytes);
}

void append_words(struct text *text, char *const *words) {
  uint32_t count = 0;
  while (words[count] != NULL) count++;
  append_u32(text, count);
  for (uint32_t i = 0; i < count; i++) append(text, words[i], strlen(words[i]) + 1);
}

static void read_build_id(char *into) {
  char path[PATH_MAX + 32];
  snprintf(path, sizeof path, "%s/dist/build-id", package_folder());
  int fd = open(path, O_RDONLY | O_CLOEXEC);
  ssize_t length = fd == -1 ? -1 : read(fd, into, BUILD_ID_MAX);
  if (length <= 0) {
    const char *hint = length == -1 && errno == EACCES
                           ? "kiln lies where only its owner may read: have it installed where you may"
                           : "run scripts/quickstart, or npm run build";
    fail("E_INSTALLATION",
         "%s cannot be read: %s\n  hint: %s", path, length == 0 ? "it is empty" : strerror(errno), hint);
  }
  close(fd);
  into[length] = '\0';
  for (char *at = into; *at != '\0'; at++) {
    if (!((*at >= '0' && *at <= '9') || (*at >= 'a' && *at <= 'f'))) *at = '\0';
  }
}

/*
 * The caller's own configuration, which only this process may open: its path, an errno if it cannot be used, its
 * text. It must belong to the caller or root, and others must not be able to write it.
 */
static void append_configuration(struct text *text) {
  static char content[CONFIGURATION_MAX + 1];
  char path[PATH_MAX];
  struct stat status;
  size_t length = 0;
  uint32_t problem = 0;
  const char *folder = getenv("XDG_CONFIG_HOME"), *below = "";
  if (folder == NULL || folder[0] != '/') folder = getenv("HOME"), below = "/.config";
  int fd = -1;
  errno = ENOENT;
  if (folder != NULL && folder[0] == '/' && (size_t)snprintf(path, sizeof path, "%s%s/kiln.yaml", folder, below) < sizeof path) {
    fd = open(path, O_RDONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
  }
  if (fd == -1 && (errno == ENOENT || errno == ENOTDIR || errno == EACCES)) {
    path[0] = '\0';
  } else if (fd == -1 || fstat(fd, &status) == -1) {
    problem = errno;
  } else if (!S_ISREG(status.st_mode)) {
    problem = EINVAL;
  } else if ((status.st_uid != 0 && status.st_uid != geteuid()) || status.st_mode & (geteuid() == 0 ? 022 : 002)) {
    problem = EPERM;
  } else {
    ssize_t got;
    while (length < sizeof content && (got = read(fd, content + length, sizeof content - length)) > 0) length += got;
    if (length == sizeof content) problem = EFBIG;
    else if (memchr(content, '\0', length) != NULL) problem = EINVAL;
  }
  if (fd != -1) close(fd);
  append(text, path, strlen(path) + 1);
  append_u32(text, problem);
  if (problem == 0) append(text, content, length);
  append(text, "", 1);
}

static void write_start(struct text *text, char *const *argv, char *const *environment) {
  struct winsize size = {0};
  struct stat namespace = {0};
  uint8_t terminals = 0;
  char *directory = getcwd(NULL, 0);
  for (int fd = 0; fd <= 2; fd++) {
    if (isatty(fd)) {
      terminals |= 1 << fd;
      ioctl(fd, TIOCGWINSZ, &size);
    }
  }
  mode_t mask = umask(0);
  umask(mask);
  stat("/proc/self/ns/mnt", &namespace);
  append_u32(text, mask);
  append(text, &terminals, 1);
  append_u32(text, size.ws_row);
  append_u32(text, size.ws_col);
  append_u32(text, (uint32_t)namespace.st_ino);
  append_words(text, argv);
  append_words(text, environment);
  append(text, directory == NULL ? "" : directory, directory == NULL ? 1 : strlen(directory) + 1);
  free(directory);
  append_configuration(text);
}

/* Sends the upgrade and the start at once: no answer is waited for. */
static bool send_start(const char *build, char *const *argv, char *const *environment) {
  struct text message = {0};
  char upgrade[256];
  int length = snprintf(upgrade, sizeof upgrade,
                        "{\"method\":\"io.kiln.CommandLine\",\"parameters\":{\"build\":\"%s\"},"
                        "\"upgrade\":true}",
                        build);
  append(&message, upgrade, length + 1);
  size_t header = message.length;
  append(&message, "\0\0\0\0\0\0\0\0", FRAME_HEADER);
  write_start(&message, argv, environment);
  write_u32(message.data + header, (uint32_t)(message.length - header - FRAME_HEADER));
  message.data[header + 4] = FRAME_START;
  if (message.length - header - FRAME_HEADER > FRAME_MAX) {
    fail("E_ARGUMENT", "the arguments and the environment are too long");
  }
  /* Descriptors travel with the first byte of their own frame. */
  bool sent = connection_send_raw(&client.connection, message.data, header, NULL, 0);
  int error = errno;
  int fds[4] = {0, 1, 2, open(".", O_PATH | O_DIRECTORY | O_CLOEXEC)};
  /* Of a user the daemon takes none: it would hear no more of us. */
  uint8_t count = geteuid() != 0 ? 0 : fds[3] == -1 ? 3 : 4;
  message.data[header + 5] = count;
  if (sent) {
    sent = connection_send_raw(&client.connection, message.data + header, message.length - header, fds, count);
    error = errno;
  }
  if (fds[3] != -1) close(fds[3]);
  free(message.data);
  errno = error;
  return sent;
}

/* No failure yet, where sending fails so: what the daemon said before it closed the connection is still to be read. */
static bool has_hung_up(void) { return errno == EPIPE || errno == ECONNRESET; }

static bool send_with(uint8_t type, const void *payload, uint32_t length, const int *fds, uint8_t fd_count) {
  return connection_send(&client.connection, type, payload, length, fds, fd_count) || has_hung_up();
}

static bool send_frame(uint8_t type, const void *payload, uint32_t length) {
  return send_with(type, payload, length, NULL, 0);
}

/* Text of kiln's own for stdout or stderr: the first byte says which. */
static void write_text(const struct frame *frame) {
  if (frame->length < 1) return;
  int fd = frame->payload[0] == 1 ? 1 : 2;
  size_t done = 1;
  while (done < frame->length) {
    ssize_t written = write(fd, frame->payload + done, frame->length - done);
    if (written > 0) {
      done += written;
    } else if (written == -1 && errno == EAGAIN) {
      struct pollfd writable = {.fd = fd, .events = POLLOUT};
      poll(&writable, 1, -1);
    } else if (written == -1 && errno != EINTR) {
      if (fd == 1) client.output_error = errno == ECONNRESET ? EPIPE : errno;
      uint8_t which = fd;
      send_frame(FRAME_UNWRITABLE, &which, 1);
      return;
    }
  }
}

static bool take_stdio(const struct frame *frame) {
  if (frame->fd_count != 3 || client.draining) return false;
  lane_open(&client.input, 0, frame->fds[0], false);
  lane_open(&client.output, frame->fds[1], 1, true);
  lane_open(&client.error, frame->fds[2], 2, true);
  client.draining = true;
  return true;
}

static bool take_terminal(const struct frame *frame) {
  if (frame->fd_count != 1 || client.draining) return false;
  client.terminal = frame->fds[0];
  int copy = fcntl(client.terminal, F_DUPFD_CLOEXEC, 3);
  if (copy == -1) return false;
  if (isatty(0)) make_terminal_raw();
  lane_open(&client.input, 0, copy, false);
  lane_open(&client.output, client.terminal, 1, true);
  client.draining = true;
  return true;
}

static bool take_rest(const struct frame *frame) {
  if (frame->fd_count != 0 || frame->length != 0) return false;
  /* All may have been written meanwhile. */
  if (!client.draining) return true;
  lane_end(&client.output);
  lane_end(&client.error);
  return true;
}

static bool take_input(const struct frame *frame) {
  if (frame->fd_count != 1 || frame->length != 1) return false;
  lane_close(&client.input);
  lane_open(&client.input, 0, frame->fds[0], false);
  if (frame->payload[0] == 1 && isatty(0)) make_terminal_raw();
  return true;
}

/* Under sudo, a folder that is made is its caller's. */
static bool give_folder(int fd) {
  const char *uid = getenv("SUDO_UID"), *gid = getenv("SUDO_GID");
  if (geteuid() != 0 || uid == NULL || gid == NULL || atoi(uid) <= 0 || atoi(gid) <= 0) return true;
  return fchownat(fd, "", (uid_t)atoi(uid), (gid_t)atoi(gid), AT_EMPTY_PATH) == 0;
}

/* Opens a folder, which is made if it is missing, with those above it. What is made is opened as no link. */
static int make_folder(const char *path, int flags) {
  char above[PATH_MAX + 1];
  int fd = open(path, flags | O_DIRECTORY | O_CLOEXEC);
  if (fd != -1 || errno != ENOENT) return fd;
  const char *slash = strrchr(path, '/'), *name = slash == NULL ? path : slash + 1;
  size_t length = (size_t)(name - path);
  while (length > 1 && path[length - 1] == '/') length--;
  memcpy(above, path, length);
  above[length] = '\0';
  int parent = length == 0 ? open(".", O_PATH | O_DIRECTORY | O_CLOEXEC) : make_folder(above, O_PATH);
  if (parent == -1) return -1;
  bool made = mkdirat(parent, name, 0777) == 0;
  if (made || errno == EEXIST) fd = openat(parent, name, flags | O_NOFOLLOW | O_DIRECTORY | O_CLOEXEC);
  close_quietly(parent);
  if (fd == -1 || !made || give_folder(fd)) return fd;
  close_quietly(fd);
  return -1;
}

/*
 * Opens a folder for results. Its last part is no link (ELOOP): a command or a checkout may have put one there. Those
 * above it are followed, as the caller's rights allow.
 */
static int open_results(char *path, bool make) {
  size_t length = strlen(path);
  struct stat status;
  while (length > 1 && (path[length - 1] == '/' || (path[length - 1] == '.' && path[length - 2] == '/')))
    path[--length] = '\0';
  int fd = make ? make_folder(path, O_RDONLY | O_NOFOLLOW) : open(path, O_RDONLY | O_NOFOLLOW | O_DIRECTORY | O_CLOEXEC);
  int error = errno;
  if (fd == -1 && lstat(path, &status) == 0 && S_ISLNK(status.st_mode)) error = ELOOP;
  errno = error;
  return fd;
}

/* Opens a file that a service names, through no link: its jobs may write to the folders above. */
static int open_written(const char *path, int flags) {
  struct open_how how = {.flags = (uint64_t)(O_WRONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC | flags),
                         .mode = flags == O_CREAT ? 0666 : 0,
                         .resolve = RESOLVE_NO_SYMLINKS};
  return (int)syscall(SYS_openat2, AT_FDCWD, path, &how, sizeof how);
}

#define FILE_FLAGS (O_RDONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC)

/* A descriptor of the caller's own, as a shell writes <(command): no checkout can have put it there. */
static bool is_open_already(const char *path) {
  return strcmp(path, "/dev/stdin") == 0 || strncmp(path, "/dev/fd/", 8) == 0 || strncmp(path, "/proc/self/fd/", 14) == 0;
}

/*
 * Opens a file that errors may quote. A link that comes with a checkout could lead to any file of the caller's, so what
 * it leads to lies in the folder of the link (EXDEV).
 */
static int open_text(char *path) {
  struct open_how how = {.flags = FILE_FLAGS,
                         .resolve = RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS};
  char *slash = strrchr(path, '/');
  const char *name = slash == NULL ? path : slash + 1, *folder = slash == NULL ? "." : slash == path ? "/" : path;
  if (slash != NULL) *slash = '\0';
  int parent = open(slash == path ? "/" : folder, O_PATH | O_DIRECTORY | O_CLOEXEC), fd = -1;
  if (parent == -1) return -1;
  /* The kernel wants it tried again where something was moved meanwhile. */
  for (int tries = 0; tries < 100; tries++)
    if ((fd = (int)syscall(SYS_openat2, parent, name, &how, sizeof how)) != -1 || errno != EAGAIN) break;
  close_quietly(parent);
  return fd;
}

static bool open_file(const struct frame *frame) {
  if (frame->fd_count != 0 || frame->length < 3 || frame->length > PATH_MAX + 1) return false;
  uint8_t how = frame->payload[0];
  char path[PATH_MAX + 1];
  memcpy(path, frame->payload + 1, frame->length - 1);
  if (strnlen(path, frame->length - 1) != frame->length - 2) return false;
  int fd = -1;
  switch (how) {
    case OPEN_FILE: fd = open(path, FILE_FLAGS); break;
    case OPEN_TEXT: fd = is_open_already(path) ? open(path, FILE_FLAGS) : open_text(path); break;
    case OPEN_PLACE: fd = open(path, O_PATH | O_CLOEXEC); break;
    case OPEN_FOLDER: fd = open_results(path, false); break;
    case OPEN_MADE: fd = open_results(path, true); break;
    case OPEN_ANEW: fd = open_written(path, O_CREAT); break;
    case OPEN_MORE: fd = open_written(path, O_APPEND); break;
    default: return false;
  }
  uint8_t payload[4];
  write_u32(payload, fd != -1 ? 0 : (uint32_t)errno);
  bool sent = send_with(FRAME_OPENED, payload, sizeof payload, &fd, fd == -1 ? 0 : 1);
  if (fd != -1) close(fd);
  return sent;
}

_Noreturn static void run_elsewhere(char **argv) {
  char program[PATH_MAX + 16];
  snprintf(program, sizeof program, "%s/bin/kiln-node", package_folder());
  sigprocmask(SIG_UNBLOCK, &client.caught, NULL);
  signal(SIGPIPE, SIG_DFL);
  if (is_mock(argv[0])) snprintf(program, sizeof program, "%s/bin/kiln-mock-node", package_folder());
  execv(program, argv);
  fail("E_INSTALLATION",
       "%s cannot be started: %s\n  hint: it belongs to kiln: install kiln again", program, strerror(errno));
}

_Noreturn static void end(const struct frame *frame) {
  restore_terminal();
  if (frame->length < 5) fail("E_PROTOCOL", "the daemon sent an end that says nothing");
  uint32_t value = read_u32(frame->payload + 1);
  /* A reader that has seen enough (`| head`) is no failure. */
  if (client.output_error != 0 && client.output_error != EPIPE) {
    fail("E_OUTPUT", "standard output cannot be written: %s\n  hint: make room where it goes, or send it elsewhere",
         strerror(client.output_error));
  }
  if (frame->payload[0] == 1 && (int)value == client.told_to_end) {
    /* We were told to end by it and did: whoever started us is to see that. */
    sigset_t one;
    signal((int)value, SIG_DFL);
    sigemptyset(&one);
    sigaddset(&one, (int)value);
    sigprocmask(SIG_UNBLOCK, &one, NULL);
    raise((int)value);
  }
  if (frame->payload[0] == 2 && client.output_error == EPIPE && value == 0) exit(128 + SIGPIPE);
  exit(frame->payload[0] == 1 ? 128 + (int)value : (int)value);
}

static bool act(const struct frame *frame, char **argv) {
  switch (frame->type) {
    case FRAME_TEXT: write_text(frame); return true;
    case FRAME_STDIO: return take_stdio(frame);
    case FRAME_TERMINAL: return take_terminal(frame);
    case FRAME_REST: return take_rest(frame);
    case FRAME_INPUT: return take_input(frame);
    case FRAME_OPEN: return open_file(frame);
    case FRAME_ELSEWHERE: run_elsewhere(argv);
    case FRAME_EXIT: end(frame);
    default: return false;
  }
}

static bool pass_signal(void) {
  struct signalfd_siginfo info;
  if (read(client.signals, &info, sizeof info) != sizeof info) return true;
  int number = (int)info.ssi_signo;
  if (number == SIGINT || number == SIGTERM || number == SIGHUP) client.told_to_end = number;
  if (number == SIGINT || number == SIGTERM) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    if (now.tv_sec - client.last_interrupt.tv_sec > IMPATIENCE) client.interrupts = 0;
    client.last_interrupt = now;
    if (++client.interrupts > 2) {
      restore_terminal();
      fputs("kiln: interrupted; the daemon ends the command\n", stderr);
      _exit(128 + number);
    }
  }
  uint8_t payload[12];
  struct winsize size = window_size();
  write_u32(payload, (uint32_t)number);
  write_u32(payload + 4, size.ws_row);
  write_u32(payload + 8, size.ws_col);
  return send_frame(FRAME_SIGNAL, payload, sizeof payload);
}

static bool report_drained(void) {
  if (!client.draining || client.output.open || client.error.open) return true;
  client.draining = false;
  lane_close(&client.input);
  restore_terminal();
  uint8_t payload[4];
  write_u32(payload, client.output.error != 0 ? client.output.error : client.error.error);
  return send_frame(FRAME_DRAINED, payload, sizeof payload);
}

_Noreturn static void lost(void) {
  restore_terminal();
  fail("E_SANDBOX_GONE",
       "the daemon has ended, and the sandbox with it\n  hint: its log, kilnd.log in the state folder, "
       "may say why; `kiln gc` cleans up");
}

_Noreturn static void serve(char **argv) {
  for (;;) {
    struct frame frame;
    bool broken;
    while (connection_next(&client.connection, &frame, &broken)) {
      if (!act(&frame, argv)) lost();
    }
    if (broken) lost();
    if (!report_drained()) lost();
    struct pollfd entries[8] = {
        {.fd = client.connection.socket, .events = POLLIN},
        {.fd = client.signals, .events = POLLIN},
    };
    struct lane *const lanes[] = {&client.input, &client.output, &client.error};
    for (size_t i = 0; i < 3; i++) lane_wait(lanes[i], entries + 2 + 2 * i);
    if (poll(entries, 8, -1) == -1 && errno != EINTR) lost();
    if (entries[1].revents != 0 && !pass_signal()) lost();
    size_t moved = 0;
    for (size_t i = 0; i < 3; i++) {
      size_t bytes = lane_go(lanes[i], entries + 2 + 2 * i);
      if (i > 0) moved += bytes;
    }
    if (moved > 0 && client.draining && !send_frame(FRAME_MOVED, NULL, 0)) lost();
    if (entries[0].revents != 0 && connection_receive(&client.connection) == -1) lost();
  }
}

/* Makes sure that 0, 1 and 2 are open, so that no other descriptor gets their numbers. What is written to a closed 1
 * is lost, and so fails there. */
static void open_stdio(void) {
  for (int fd = 0; fd <= 2; fd++)
    if (fcntl(fd, F_GETFD) == -1) open("/dev/null", fd == 1 ? O_RDONLY : O_RDWR);
}

int catch_signals(void) {
  sigemptyset(&client.caught);
  for (size_t i = 0; i < sizeof forwarded / sizeof *forwarded; i++) {
    struct sigaction before;
    if (sigaction(forwarded[i], NULL, &before) == 0 && before.sa_handler == SIG_IGN) continue;
    sigaddset(&client.caught, forwarded[i]);
  }
  sigprocmask(SIG_BLOCK, &client.caught, NULL);
  signal(SIGPIPE, SIG_IGN);
  client.signals = signalfd(-1, &client.caught, SFD_CLOEXEC | SFD_NONBLOCK);
  if (client.signals == -1) fail("E_SYSCALL", "signalfd: %s", strerror(errno));
  return client.signals;
}

static void say_silent(int socket) {
  struct ucred peer;
  socklen_t length = sizeof peer;
  char path[64], state = '?';
  if (getsockopt(socket, SOL_SOCKET, SO_PEERCRED, &peer, &length) == -1) return;
  snprintf(path, sizeof path, "/proc/%d/stat", (int)peer.pid);
  FILE *file = fopen(path, "r");
  if (file != NULL) {
    if (fscanf(file, "%*d %*s %c", &state) != 1) state = '?';
    fclose(file);
  }
  if (peer.pid == 1) {
    // systemd made the socket, and starts kilnd when somebody connects.
    fputs("kiln: waiting for kilnd, which systemd is starting\n", stderr);
    return;
  }
  fprintf(stderr, "kiln: waiting for kilnd (process %d), which %s\n", (int)peer.pid,
          state == 'T' ? "is stopped: kill -CONT lets it go on" : "does not answer");
}

static void wait_for_daemon(int socket) {
  for (int waited = 0;; waited += PATIENCE) {
    struct pollfd entries[2] = {{.fd = socket, .events = POLLIN},
                                {.fd = client.signals, .events = POLLIN}};
    int ready = poll(entries, 2, PATIENCE * 1000);
    if (ready == -1 && errno == EINTR) continue;
    struct signalfd_siginfo info;
    if (ready > 0 && entries[1].revents != 0 &&
        read(client.signals, &info, sizeof info) == sizeof info &&
        (info.ssi_signo == SIGINT || info.ssi_signo == SIGTERM || info.ssi_signo == SIGHUP)) {
      fputs("kiln: interrupted\n", stderr);
      exit(128 + (int)info.ssi_signo);
    }
    if (ready > 0 && entries[0].revents != 0) return;
    if (ready != 0) continue;
    if (waited == 0) say_silent(socket);
    if (waited >= SILENCE_MAX) {
      fail("E_NO_DAEMON",
           "kilnd has not answered for %d seconds\n  hint: kill it (kill -9 ends its sandboxes, too); the "
           "next call starts another", SILENCE_MAX);
    }
  }
}

static void begin(char **argv, char **environment) {
  char build[BUILD_ID_MAX + 1];
  read_build_id(build);
  for (int attempt = 0; attempt < ATTEMPTS; attempt++) {
    const struct timespec pause = {0, PAUSE_MS * 1000000L};
    if (attempt > 0) nanosleep(&pause, NULL);
    int fd = daemon_connect();
    if (fd == -1) {
      /* A user whom no daemon serves: there is help to be had, and to be told why. */
      if (geteuid() != 0) run_elsewhere(argv);
      if (errno != ENOENT && errno != ECONNREFUSED) {
        if (errno == ENOTDIR || errno == ELOOP || errno == ENAMETOOLONG) {
          fail("E_STATE", "cannot keep kiln’s state in %s: %s\n  hint: name a folder in KILN_STATE", daemon_place(),
               errno == ENOTDIR ? "it is not a folder" : strerrorname_np(errno));
        }
        fail("E_NO_DAEMON", "the daemon of %s cannot be reached: %s\n  hint: KILN_STATE names the state folder",
             daemon_place(), strerror(errno));
      }
      daemon_start();
      continue;
    }
    client.connection = (struct connection){.socket = fd};
    const char *answer = NULL;
    if (send_start(build, argv, environment) || has_hung_up()) {
      wait_for_daemon(fd);
      answer = connection_answer(&client.connection);
    }
    if (answer != NULL && strcmp(answer, ANSWER_OK) == 0) return;
    bool again = answer == NULL || strncmp(answer, ANSWER_OTHER_BUILD, strlen(ANSWER_OTHER_BUILD)) == 0;
    if (answer != NULL && again && geteuid() != 0) {
      fail("E_NO_DAEMON",
           "kilnd runs another build of kiln\n  hint: root's next call of this kiln replaces it, and what runs in it goes on");
    }
    if (!again && geteuid() != 0) run_elsewhere(argv);
    if (!again) {
      fail("E_NO_DAEMON",
           "the daemon refused the connection: %s\n  hint: is it kilnd that listens on io.kiln? end it: the next call "
           "starts another", answer);
    }
    close(fd);
    free(client.connection.data);
  }
  fail("E_NO_DAEMON", "the daemon could not be reached within %d seconds\n  hint: its log is kilnd.log in the state "
       "directory", ATTEMPTS * PAUSE_MS / 1000);
}

int main(int argc, char **argv, char **environment) {
  open_stdio();
  if (argc == 2 && strcmp(argv[1], REMOTE_RUN) == 0) serve_far();
  run_there(argc, argv);
  if (!is_for_daemon(argc, argv)) run_elsewhere(argv);
  catch_signals();
  begin(argv, environment);
  serve(argv);
}
