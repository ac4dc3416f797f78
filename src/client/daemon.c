#include "client.h"

#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

/* The exit status of a failure of kiln's own, as podman and docker have it. */
#define KILN_FAILED 125
/* How long a daemon may take until it listens, milliseconds. */
#define START_DEADLINE 60000
#define SOCKET_NAME "io.kiln"
#define DEFAULT_SOCKET "/run/kiln/" SOCKET_NAME
#define READY_FD 3

void fail(const char *code, const char *format, ...) {
  char text[2 * PATH_MAX];
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(text, sizeof text, format, arguments);
  va_end(arguments);
  int first = (int)strcspn(text, "\n");
  fprintf(stderr, "kiln: %.*s", first, text);
  if (code != NULL) fprintf(stderr, " [%s]", code);
  fprintf(stderr, "%s\n", text + first);
  exit(KILN_FAILED);
}

const char *package_folder(void) {
  static char path[PATH_MAX];
  static const char *folder;
  if (folder != NULL) return folder;
  ssize_t length = readlink("/proc/self/exe", path, sizeof path - 1);
  if (length <= 0) {
    fail("E_NO_PROC", "/proc/self/exe cannot be read: %s\n  hint: mount it: mount -t proc proc /proc", strerror(errno));
  }
  path[length] = '\0';
  folder = dirname(dirname(path));
  return folder;
}

static const char *state_directory(void) {
  const char *state = getenv("KILN_STATE");
  return state != NULL && state[0] != '\0' ? state : NULL;
}

const char *daemon_place(void) {
  const char *state = state_directory();
  return state == NULL ? "/var/lib/kiln" : state;
}

static bool place_serves(void) {
  struct stat found;
  const char *place = daemon_place();
  return stat(place, &found) == 0 && S_ISDIR(found.st_mode) && access(place, W_OK) == 0;
}

bool is_mock(const char *name) {
  const char *slash = strrchr(name, '/');
  return strcmp(slash == NULL ? name : slash + 1, "kiln-mock") == 0;
}

/* Whether a command talks to a pool of machines as its user: a step alone is for the daemon. */
static bool is_for_pool(int argc, char **argv) {
  if (strcmp(argv[1], "farm") == 0) {
    return argc < 3 || (strcmp(argv[2], "step") != 0 && strcmp(argv[2], "advertise") != 0);
  }
  if (strcmp(argv[1], "build") != 0) return false;
  for (int i = 2; i < argc && strcmp(argv[i], "--") != 0; i++) {
    if (strcmp(argv[i], "--farm") == 0) return true;
  }
  return false;
}

bool is_for_daemon(int argc, char **argv) {
  const char *from_source = getenv("KILN_FROM_SOURCE"), *host = getenv("KILN_HOST");
  if (from_source != NULL && from_source[0] != '\0') return false;
  if (is_mock(argv[0])) return true;
  if (argc < 2) return false;
  if (host != NULL && host[0] != '\0') return false;
  if (strncmp(argv[1], "--host", 6) == 0 || strcmp(argv[1], "remote-stdio") == 0) return false;
  static const char *const own[] = {"doctor", "completion", "mcp", "version", "help", "--help", "-h", "--version", "-V"};
  for (size_t i = 0; i < sizeof own / sizeof *own; i++) {
    if (strcmp(argv[1], own[i]) == 0) return false;
  }
  if (is_for_pool(argc, argv)) return false;
  // Of users, these read and write what their own rights reach, and need nothing else.
  if (geteuid() != 0) return strcmp(argv[1], "rpm") != 0 && strcmp(argv[1], "report") != 0;
  if (argc > 2 && strcmp(argv[1], "service") == 0 && strcmp(argv[2], "supervise") == 0) return false;
  bool makes = strcmp(argv[1], "run") == 0 || strcmp(argv[1], "build") == 0 || strcmp(argv[1], "park") == 0;
  return makes || place_serves();
}

static int connect_to(const char *path) {
  struct sockaddr_un address = {.sun_family = AF_UNIX};
  size_t length = strlen(path);
  if (length >= sizeof address.sun_path) {
    errno = ENAMETOOLONG;
    return -1;
  }
  memcpy(address.sun_path, path, length + 1);
  int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (fd == -1) return -1;
  if (connect(fd, (const struct sockaddr *)&address, sizeof address) == 0) return fd;
  close_quietly(fd);
  return -1;
}

int daemon_connect(void) {
  const char *state = state_directory();
  if (state == NULL) return connect_to(DEFAULT_SOCKET);
  /* By descriptor: a socket's path may have 107 bytes, a directory's many more. */
  int directory = open(state, O_PATH | O_DIRECTORY | O_CLOEXEC);
  if (directory == -1) return -1;
  char path[64];
  snprintf(path, sizeof path, "/proc/self/fd/%d/" SOCKET_NAME, directory);
  int fd = connect_to(path);
  close_quietly(directory);
  return fd;
}

_Noreturn static void become_daemon(int ready) {
  char program[PATH_MAX + 16];
  const char *path = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
  static const char *const kept[] = {"KILN_STATE", "KILN_IDLE", "KILN_PARKED", "KILN_PARKED_VMS",
                                      "KILN_NODE",   "KILN_CONFIG", "KILN_LOG"};
  char *environment[sizeof kept / sizeof *kept + 2] = {(char *)path};
  size_t count = 1;
  for (size_t i = 0; i < sizeof kept / sizeof *kept; i++) {
    const char *value = getenv(kept[i]);
    if (value == NULL || value[0] == '\0') continue;
    if (asprintf(&environment[count], "%s=%s", kept[i], value) == -1) _exit(KILN_FAILED);
    count++;
  }
  snprintf(program, sizeof program, "%s/bin/kilnd", package_folder());
  char *const arguments[] = {program, NULL};
  sigset_t none;
  sigemptyset(&none);
  sigprocmask(SIG_SETMASK, &none, NULL);
  signal(SIGPIPE, SIG_DFL);
  setsid();
  int null = open("/dev/null", O_RDWR);
  /* Until it listens, what it says on stderr (a Node that does not start) is the reason of the failure. */
  if (dup2(null, 0) == -1 || dup2(null, 1) == -1 || dup2(ready, 2) == -1) _exit(KILN_FAILED);
  if (ready != READY_FD && dup2(ready, READY_FD) == -1) _exit(KILN_FAILED);
  fcntl(READY_FD, F_SETFD, 0);
  syscall(SYS_close_range, READY_FD + 1, ~0U, 0);
  /* A relative KILN_STATE is relative to the caller's directory, which bin/kilnd leaves later. */
  execve(program, arguments, environment);
  dprintf(2, "%s cannot be started: %s", program, strerror(errno));
  _exit(KILN_FAILED);
}

void daemon_start(void) {
  int pair[2];
  if (pipe2(pair, O_CLOEXEC) == -1) fail("E_SYSCALL", "a pipe cannot be made: %s", strerror(errno));
  pid_t child = fork();
  if (child == -1) {
    fail("E_TOO_MANY_PROCESSES",
         "the daemon cannot be started: fork: %s\n  hint: end processes, or allow more: `ulimit -u`", strerror(errno));
  }
  if (child == 0) {
    /* Twice, so that the daemon is nobody's child who would have to wait for it. */
    pid_t daemon = fork();
    if (daemon == 0) become_daemon(pair[1]);
    _exit(daemon == -1 ? 1 : 0);
  }
  close(pair[1]);
  while (waitpid(child, NULL, 0) == -1 && errno == EINTR) continue;
  char text[4096];
  size_t length = 0;
  for (;;) {
    struct pollfd entry = {.fd = pair[0], .events = POLLIN};
    int count = poll(&entry, 1, START_DEADLINE);
    if (count == -1 && errno == EINTR) continue;
    if (count == 0) {
      fail("E_NO_DAEMON", "kilnd did not listen within %d seconds\n  hint: `kiln doctor` says what it waits for",
           START_DEADLINE / 1000);
    }
    ssize_t got = read(pair[0], text + length, sizeof text - 1 - length);
    if (got == -1 && errno == EINTR) continue;
    if (got <= 0) break;
    if (memchr(text + length, '\0', got) != NULL) {
      close(pair[0]);
      return;
    }
    length += got;
    if (length == sizeof text - 1) break;
  }
  close(pair[0]);
  text[length] = '\0';
  while (length > 0 && text[length - 1] == '\n') text[--length] = '\0';
  bool whole = strncmp(text, "kiln: ", 6) == 0;
  if (whole) fail(NULL, "%s", text + 6);
  fail("E_NO_DAEMON",
       "the daemon could not be started: %s\n  hint: `kiln doctor` needs no daemon, and says what this machine lacks; "
       "scripts/quickstart brings it", length > 0 ? text : "it ended without a word");
}
