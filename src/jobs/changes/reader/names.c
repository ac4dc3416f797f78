// SPDX-License-Identifier: Apache-2.0
// Folders that somebody hostile made.
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sysmacros.h>
#include <sys/syscall.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "reader.h"

static unsigned long visited;

static void add(struct names *names, const char *name) {
  if (strcmp(name, ".") == 0 || strcmp(name, "..") == 0) return;
  if (++visited > VISITED_MAX) fail_limit(VISITED_TEXT);
  if (names->count == names->room) {
    names->room = names->room == 0 ? 64 : names->room * 2;
    names->at = realloc(names->at, names->room * sizeof *names->at);
    if (names->at == NULL) fail("realloc");
  }
  if ((names->at[names->count++] = strdup(name)) == NULL) fail("strdup");
}

void names_add(struct names *names, int folder) {
  _Alignas(struct dirent64) static char piece[64 << 10];
  int fd = openat(folder, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd < 0 && errno == ENOENT) return;
  if (fd < 0) fail("openat");
  long got;
  while ((got = syscall(SYS_getdents64, fd, piece, sizeof piece)) > 0)
    for (long at = 0; at < got;) {
      const struct dirent64 *entry = (const struct dirent64 *)(piece + at);
      add(names, entry->d_name);
      at += entry->d_reclen;
    }
  if (got < 0 && errno != ENOENT) fail("getdents64");
  close(fd);
}

static int order(const void *a, const void *b) {
  return strcmp(*(const char *const *)a, *(const char *const *)b);
}

void names_sort(struct names *names) {
  if (names->count == 0) return;
  qsort(names->at, names->count, sizeof *names->at, order);
  size_t kept = 1;
  for (size_t i = 1; i < names->count; i++)
    if (strcmp(names->at[kept - 1], names->at[i]) == 0) free(names->at[i]);
    else names->at[kept++] = names->at[i];
  names->count = kept;
}

void names_free(struct names *names) {
  for (size_t i = 0; i < names->count; i++) free(names->at[i]);
  free(names->at);
}

int is_whiteout(const struct stat *st) { return S_ISCHR(st->st_mode) && st->st_rdev == 0; }

int has_mark(int fd, const char *name, char value) {
  char found[256];
  ssize_t length = fgetxattr(fd, name, found, sizeof found);
  return value == 0 ? length >= 0 : length == 1 && found[0] == value;
}

int is_absent(void) {
  return errno == ENOENT || errno == ENOTDIR || errno == ELOOP || errno == ENXIO || errno == ENAMETOOLONG;
}

// -1 where something else lies there by now.
int open_same(int folder, const char *name, const struct stat *st) {
  struct stat now;
  int fd = openat(folder, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
  if (fd >= 0 && fstat(fd, &now) == 0 && now.st_ino == st->st_ino && now.st_dev == st->st_dev &&
      S_ISREG(now.st_mode) == S_ISREG(st->st_mode))
    return fd;
  if (fd < 0 && !is_absent()) fail("openat");
  if (fd >= 0) close(fd);
  return -1;
}
