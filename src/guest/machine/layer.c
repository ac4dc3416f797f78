// SPDX-License-Identifier: Apache-2.0
// What the sandbox has written above a lower layer, as a tar archive: the host cannot reach an overlay's upper folder
// here. A whiteout is a device 0:0 in it, as on the disk. The folder's own entry comes last, without a pax header, so
// what an archive begins with tells whether there are others.
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "protocol.h"
#include "stage0.h"
#include "tar.h"

#define DEPTH_MAX 900
#define HOME_FD 3
#define UPPER "upper"
#define PREFIX "SCHILY.xattr."

// The kernel's own marks are among them: user.overlay.
static void record_attributes(int fd) {
  static char names[64 << 10], value[64 << 10];
  ssize_t length = flistxattr(fd, names, sizeof names);
  if (length < 0 && errno != EOPNOTSUPP) tar_fail(errno);
  for (char *name = names; name < names + length; name += strlen(name) + 1) {
    char record[sizeof PREFIX + XATTR_NAME_MAX];
    if (strncmp(name, "user.", 5) != 0) continue;
    ssize_t n = fgetxattr(fd, name, value, sizeof value);
    if (n < 0) tar_fail(errno);
    snprintf(record, sizeof record, PREFIX "%.*s", XATTR_NAME_MAX, name);
    tar_record(record, value, (size_t)n);
  }
}

static void take_folder(int fd, unsigned depth);

static void take_file(int at, const char *name) {
  struct stat st;
  int fd = openat(at, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
  if (fd < 0 || fstat(fd, &st) != 0) tar_fail(errno);
  const char *first = tar_first_name(&st);
  if (first == NULL) record_attributes(fd);
  tar_header(first == NULL ? '0' : '1', &st, first == NULL ? (uint64_t)st.st_size : 0, first);
  if (first == NULL) tar_content(fd, (uint64_t)st.st_size);
  close(fd);
}

static void take(int at, const char *name, unsigned depth) {
  size_t length = strlen(tar_path);
  struct stat st;
  if (fstatat(at, name, &st, AT_SYMLINK_NOFOLLOW) != 0) tar_fail(errno);
  tar_append(name);
  if (S_ISDIR(st.st_mode)) {
    int fd = openat(at, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0) tar_fail(errno);
    record_attributes(fd);
    tar_header('5', &st, 0, NULL);
    take_folder(fd, depth + 1);
  } else if (S_ISREG(st.st_mode)) {
    take_file(at, name);
  } else if (S_ISLNK(st.st_mode)) {
    char target[PATH_MAX];
    ssize_t n = readlinkat(at, name, target, sizeof target - 1);
    if (n < 0) tar_fail(errno);
    target[n] = 0;
    tar_header('2', &st, 0, target);
  } else {
    // Others are left out, and the host says so.
    tar_header(S_ISCHR(st.st_mode) && st.st_rdev == 0 ? '3' : '6', &st, 0, NULL);
  }
  tar_path[length] = 0;
}

// Closes `fd`.
static void take_folder(int fd, unsigned depth) {
  if (depth > DEPTH_MAX) tar_fail(ENAMETOOLONG);
  DIR *entries = fdopendir(fd);
  if (entries == NULL) tar_fail(errno);
  errno = 0;
  for (struct dirent *entry; (entry = readdir(entries)) != NULL; errno = 0)
    if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0)
      take(fd, entry->d_name, depth);
  if (errno != 0) tar_fail(errno);
  closedir(entries);
}

static _Noreturn void pack(int home, int to) {
  struct stat st;
  sigset_t none;
  sigemptyset(&none);
  sigprocmask(SIG_SETMASK, &none, NULL);
  signal(SIGPIPE, SIG_DFL);
  if (dup2(to, 1) < 0 || dup2(home, HOME_FD) < 0) tar_fail(errno);
  syscall(SYS_close_range, HOME_FD + 1, ~0U, 0);
  int fd = openat(HOME_FD, UPPER, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
  if (fd < 0 || fstat(fd, &st) != 0) tar_fail(errno);
  tar_own(PORT_IDS);
  strcpy(tar_path, UPPER);
  take_folder(fd, 0);
  tar_last(UPPER, &st);
  tar_end();
  _exit(0);
}

int layer_pack(int home) {
  int ends[2];
  if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) != 0) return closing(home, -1);
  pid_t pid = fork();
  if (pid == 0) pack(home, ends[1]);
  close(home), close(ends[1]);
  return pid < 0 ? closing(ends[0], -1) : ends[0];
}
