// SPDX-License-Identifier: Apache-2.0
// What kiln wants to know of the sandbox's files: of a container it looks by itself. The tree is hostile.
#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <linux/openat2.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "protocol.h"
#include "stage0.h"

#define READ_MAX (1 << 20)
#define STAT_MAX 2048
#define COMMAND_MAX 4096
#define LISTING_SECONDS 20

int setgroups(size_t, const gid_t *);

static int open_root(pid_t init) {
  char root[32];
  snprintf(root, sizeof root, "/proc/%d/root", init);
  return open(root, O_PATH | O_DIRECTORY | O_CLOEXEC);
}

static int open_in(int root, const char *path, unsigned long long resolve) {
  struct open_how how = {.flags = O_PATH | O_CLOEXEC,
                         .resolve = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS | resolve};
  return (int)syscall(SYS_openat2, root, path, &how, sizeof how);
}

static _Noreturn void give_up(int error) { _exit(error > 0 && error < 255 ? error : 255); }

// A link on the way may be the command's: then only the rights of the command's user count, and none leads out.
static int open_file(int root, const struct wire_read_file *wanted) {
  int found = open_in(root, wanted->path, RESOLVE_NO_SYMLINKS);
  if (found < 0 && errno == ELOOP) {
    if (setgroups(0, NULL) != 0 || setresgid(wanted->gid, wanted->gid, wanted->gid) != 0 ||
        setresuid(wanted->uid, wanted->uid, wanted->uid) != 0)
      give_up(errno);
    found = open_in(root, wanted->path, 0);
  }
  struct stat st;
  char self[32];
  if (found < 0 || fstat(found, &st) != 0) give_up(errno);
  // What the kernel only shows as a file would be read with the rights of the machine's root.
  if (!S_ISREG(st.st_mode) || pack_is_kernels(found)) give_up(EISDIR);
  snprintf(self, sizeof self, "/proc/self/fd/%d", found);
  int fd = open(self, O_RDONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
  if (fd < 0) give_up(errno);
  return fd;
}

static void put(int fd, const void *bytes, size_t length) {
  for (size_t at = 0; at < length;) {
    ssize_t n = write(fd, (const char *)bytes + at, length - at);
    if (n < 0 && errno != EINTR) give_up(errno);
    if (n > 0) at += (size_t)n;
  }
}

// A process of its own: 0 in it.
static pid_t begin(void) {
  pid_t pid = fork();
  if (pid != 0) return pid;
  sigset_t none;
  sigemptyset(&none);
  sigprocmask(SIG_SETMASK, &none, NULL);
  signal(SIGPIPE, SIG_DFL);
  return 0;
}

pid_t look_read(pid_t init, const struct wire_read_file *wanted, int to) {
  static char piece[64 << 10];
  pid_t pid = begin();
  if (pid != 0) return pid;
  int root = open_root(init);
  if (root < 0) give_up(errno);
  int fd = open_file(root, wanted);
  struct stat st;
  if (fstat(fd, &st) != 0) give_up(errno);
  uint64_t size = (uint64_t)st.st_size, at = wanted->offset;
  put(to, &size, sizeof size);
  for (size_t left = READ_MAX; left > 0;) {
    ssize_t n = pread(fd, piece, left < sizeof piece ? left : sizeof piece, (off_t)at);
    if (n < 0) give_up(errno);
    if (n == 0) break;
    put(to, piece, (size_t)n);
    at += (uint64_t)n;
    left -= (size_t)n;
  }
  _exit(0);
}

static size_t read_of(int process, const char *name, char *to, size_t most) {
  int fd = openat(process, name, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
  if (fd < 0) return 0;
  ssize_t n = read(fd, to, most);
  close(fd);
  return n < 0 ? 0 : (size_t)n;
}

// In proc_pid_status(5) no name of a process has a line of its own.
static uint32_t user_of(int process) {
  static char status[4096];
  static const char name[] = "\nUid:\t";
  status[read_of(process, "status", status, sizeof status - 1)] = 0;
  const char *line = strstr(status, name);
  return line == NULL ? 0 : (uint32_t)strtoul(line + sizeof name - 1, NULL, 10);
}

static void tell_process(int process, int commands, int to) {
  static struct {
    uint32_t length;
    char bytes[STAT_MAX];
  } stat;
  static struct {
    uint32_t user, length;
    char command[COMMAND_MAX];
  } rest;
  stat.length = (uint32_t)read_of(process, "stat", stat.bytes, sizeof stat.bytes);
  if (stat.length == 0) return; // it has ended
  rest.user = user_of(process);
  rest.length = commands ? (uint32_t)read_of(process, "cmdline", rest.command, sizeof rest.command) : 0;
  put(to, &stat, sizeof stat.length + stat.length);
  put(to, &rest, sizeof rest.user + sizeof rest.length + rest.length);
}

pid_t look_processes(pid_t init, int commands, int to) {
  pid_t pid = begin();
  if (pid != 0) return pid;
  // A command line may not come.
  signal(SIGALRM, SIG_DFL);
  alarm(LISTING_SECONDS);
  struct statfs fs;
  int root = open_root(init);
  if (root < 0) give_up(errno);
  int proc = open_in(root, "proc", RESOLVE_NO_SYMLINKS);
  int fd = proc < 0 ? -1 : openat(proc, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd < 0 || fstatfs(fd, &fs) != 0) give_up(errno);
  if (fs.f_type != PROC_SUPER_MAGIC) give_up(ENOENT);
  DIR *entries = fdopendir(fd);
  if (entries == NULL) give_up(errno);
  for (struct dirent *entry; (entry = readdir(entries)) != NULL;) {
    if (!isdigit((unsigned char)entry->d_name[0]) || strcmp(entry->d_name, "1") == 0) continue;
    int process = openat(fd, entry->d_name, O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (process >= 0) tell_process(process, commands, to);
    if (process >= 0) close(process);
  }
  _exit(0);
}

static int is_full(int root, const char *path) {
  struct statfs fs;
  int fd = open_in(root, path, 0);
  if (fd < 0) return 0;
  int full = fstatfs(fd, &fs) == 0 && fs.f_bavail == 0;
  close(fd);
  return full;
}

int look_full(pid_t init, const unsigned char *paths, size_t length) {
  static char text[4096];
  int root = open_root(init), full = 0;
  if (length >= sizeof text || root < 0) return closing(root, 0);
  memcpy(text, paths, length);
  text[length] = 0;
  for (const char *path = text; path < text + length; path += strlen(path) + 1)
    full |= is_full(root, path);
  close(root);
  return full;
}
