// SPDX-License-Identifier: Apache-2.0
// Artifacts: the files of the sandbox that patterns match, as a tar archive with pax headers (pax(1)). A process of its
// own reads them, from the init's root: the tree is hostile, so no link is followed, and no file system of the kernel's
// own is entered. The host looks at everything once more: what matches here may be too much, never too little.
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <linux/openat2.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "protocol.h"
#include "stage0.h"
#include "tar.h"

#define PARTS_MAX 63
#define DEPTH_MAX 256
#define ROOT_FD 3

// Of a pattern: `*` stands for any characters, `**` for any folders.
static const char *parts[PARTS_MAX];
static unsigned part_count;

struct folder {
  struct folder *above;
  size_t length; // of its path
  struct stat st;
  int told;
};

static int matches(const char *part, const char *name) {
  const char *star = NULL, *from = NULL;
  while (*name != 0) {
    if (*part == '*') {
      star = ++part;
      from = name;
    } else if (*part == *name) {
      part++;
      name++;
    } else if (star != NULL) {
      part = star;
      name = ++from;
    } else {
      return 0;
    }
  }
  while (*part == '*') part++;
  return *part == 0;
}

// `states` are the parts that a name may be of; `below` those of what lies in it.
static int step(uint64_t states, const char *name, uint64_t *below) {
  int matched = 0;
  *below = 0;
  for (unsigned i = 0; i < part_count; i++) {
    if ((states >> i & 1) == 0) continue;
    int is_last = i + 1 == part_count;
    if (strcmp(parts[i], "**") == 0) {
      if (is_last) matched = 1;
      else states |= 1ULL << (i + 1);
      *below |= 1ULL << i;
    } else if (matches(parts[i], name)) {
      if (is_last) matched = 1;
      else *below |= 1ULL << (i + 1);
    }
  }
  return matched;
}

int pack_is_kernels(int fd) {
  static const long kinds[] = {PROC_SUPER_MAGIC, SYSFS_MAGIC,   DEVPTS_SUPER_MAGIC, CGROUP_SUPER_MAGIC,
                               CGROUP2_SUPER_MAGIC, DEBUGFS_MAGIC, TRACEFS_MAGIC,  SECURITYFS_MAGIC,
                               BPF_FS_MAGIC,     NSFS_MAGIC,    0x19800202 /* mqueue */};
  struct statfs fs;
  if (fstatfs(fd, &fs) != 0) tar_fail(errno);
  for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++)
    if (fs.f_type == kinds[i]) return 1;
  return 0;
}

// What the tree may become while it is read: such an entry is gone, and the host says so if it was asked for.
static int may_be_gone(int error) { return error == ENOENT || error == ENOTDIR || error == ELOOP; }

static int enter(int at, const char *name) {
  int fd = openat(at, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
  if (fd < 0 && !may_be_gone(errno)) tar_fail(errno);
  if (fd >= 0 && pack_is_kernels(fd)) {
    close(fd);
    return -1;
  }
  return fd;
}

static void tell(struct folder *folder) {
  if (folder == NULL || folder->told) return;
  tell(folder->above);
  char after = tar_path[folder->length];
  tar_path[folder->length] = 0;
  tar_header('5', &folder->st, 0, NULL);
  tar_path[folder->length] = after;
  folder->told = 1;
}

static void walk(int fd, struct folder *folder, uint64_t states, unsigned depth);

static void take_file(int at, const char *name) {
  struct stat st;
  int fd = openat(at, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
  if (fd < 0 && may_be_gone(errno)) return;
  if (fd < 0 || fstat(fd, &st) != 0) tar_fail(errno);
  if (S_ISREG(st.st_mode)) {
    const char *first = tar_first_name(&st);
    uint64_t size = first == NULL ? (uint64_t)st.st_size : 0;
    tar_header(first == NULL ? '0' : '1', &st, size, first);
    if (first == NULL) tar_content(fd, size);
  }
  close(fd);
}

// A folder with all that is in it, if `states` are all.
static void take(int at, struct folder *above, const char *name, uint64_t states, unsigned depth) {
  size_t length = strlen(tar_path);
  struct stat st;
  if (fstatat(at, name, &st, AT_SYMLINK_NOFOLLOW) != 0) {
    if (!may_be_gone(errno)) tar_fail(errno);
    return;
  }
  tar_append(name);
  if (S_ISDIR(st.st_mode)) {
    int fd = enter(at, name);
    struct folder folder = {above, strlen(tar_path), st, 0};
    if (fd >= 0 && states == ~0ULL) tell(&folder);
    if (fd >= 0) walk(fd, &folder, states, depth + 1);
  } else if (states == ~0ULL) {
    char target[PATH_MAX];
    tell(above);
    ssize_t bytes = S_ISLNK(st.st_mode) ? readlinkat(at, name, target, sizeof target - 1) : 0;
    if (bytes > 0) target[bytes] = 0;
    if (bytes > 0) tar_header('2', &st, 0, target);
    else if (S_ISREG(st.st_mode)) take_file(at, name);
    else if (bytes == 0) tar_header('6', &st, 0, NULL); // the host says that it is left out
  }
  tar_path[length] = 0;
}

// Closes `fd`.
static void walk(int fd, struct folder *folder, uint64_t states, unsigned depth) {
  if (depth > DEPTH_MAX) tar_fail(ENAMETOOLONG);
  DIR *entries = fdopendir(fd);
  if (entries == NULL) tar_fail(errno);
  for (struct dirent *entry; (entry = readdir(entries)) != NULL;) {
    uint64_t below = ~0ULL;
    if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0) continue;
    int matched = states == ~0ULL || step(states, entry->d_name, &below);
    if (matched || below != 0) take(fd, folder, entry->d_name, matched ? ~0ULL : below, depth);
  }
  closedir(entries);
}

static void pack_pattern(const char *number, const char *base) {
  struct open_how how = {.flags = O_RDONLY | O_DIRECTORY | O_CLOEXEC,
                         .resolve = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS};
  int fd = (int)syscall(SYS_openat2, ROOT_FD, base, &how, sizeof how);
  struct folder folder = {.told = 0};
  if (fd < 0 || pack_is_kernels(fd) || fstat(fd, &folder.st) != 0) return;
  snprintf(tar_path, sizeof tar_path, "%s", number);
  folder.length = strlen(tar_path);
  walk(fd, &folder, 1, 0);
}

// Of each pattern: a folder's name for what it matches, where it begins, its parts, and an empty text.
static void pack_all(const char *text, const char *end) {
  while (text < end) {
    const char *number = text, *base = number + strlen(number) + 1;
    if (base >= end) tar_fail(EBADMSG);
    const char *part = base + strlen(base) + 1;
    for (part_count = 0; part < end && *part != 0; part += strlen(part) + 1) {
      if (part_count == PARTS_MAX) tar_fail(E2BIG);
      parts[part_count++] = part;
    }
    if (part_count > 0) pack_pattern(number, base);
    text = part + 1;
  }
}

pid_t pack_start(pid_t init, const unsigned char *patterns, size_t length, int fd) {
  static char text[4096];
  char root[32];
  if (length == 0 || length >= sizeof text) return failing(EBADMSG);
  memcpy(text, patterns, length);
  text[length] = 0;
  pid_t pid = fork();
  if (pid != 0) return pid;
  sigset_t none;
  sigemptyset(&none);
  sigprocmask(SIG_SETMASK, &none, NULL);
  signal(SIGPIPE, SIG_DFL);
  snprintf(root, sizeof root, "/proc/%d/root", init);
  int opened = open(root, O_PATH | O_DIRECTORY);
  if (opened < 0 || dup2(fd, 1) < 0 || dup2(opened, ROOT_FD) < 0) tar_fail(errno);
  syscall(SYS_close_range, ROOT_FD + 1, ~0U, 0);
  pack_all(text, text + length);
  tar_end();
  _exit(0);
}
