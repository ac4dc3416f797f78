// SPDX-License-Identifier: Apache-2.0
// Makes files in the sandbox of what comes on stdin: src/artifacts/copy-in.ts sends it. It is a process of the
// sandbox's, with the rights of the files' owner there: whatever others do to the tree meanwhile, no path leads out,
// and what is written counts as the sandbox's own.
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/capability.h>
#include <linux/magic.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "init.h"

enum { PLACE = 1, DIRECTORY, LEAVE, REGULAR, SYMLINK, HARD_LINK, WRITE };
enum { INTO = 1 << 16, CONTENT = 1 << 17, APPEND = 1 << 18 }; // of a mode
#define KEPT_BITS 01777
#define DEPTH_MAX 256
#define LINKS_MAX 40

struct step {
  uint32_t op, mode;
  struct timespec times[2]; // of access and change
  uint32_t name, more; // bytes of the two texts that follow
};

struct piece {
  uint64_t offset, length; // no length: the end, and the file's size
};

static struct level {
  int fd, made, behind;
  size_t path;
  struct step step;
} levels[DEPTH_MAX];
static unsigned depth;

// Whether what comes next lies behind a link of this process's own user's. The command may have made that link, so
// only the user's rights count there; all else is the caller's to write to.
static int behind;

static char path[3 * PATH_MAX], placed[PATH_MAX], name_text[PATH_MAX], more_text[PATH_MAX];
static unsigned char buffer[256 << 10];

static _Noreturn void give_up_for(int32_t error, const char *name) {
  if (write(2, &error, sizeof error) > 0 && write(2, path, strlen(path)) >= 0 &&
      write(2, "/", 1) > 0 && write(2, name, strlen(name)) >= 0)
    _exit(1);
  _exit(2);
}

static _Noreturn void give_up(const char *name) { give_up_for(errno, name); }

// 0 at the end, which is no failure only between two steps.
static int take(void *to, size_t length) {
  for (size_t at = 0; at < length;) {
    ssize_t n = read(0, (char *)to + at, length - at);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0 && at == 0) return 0;
    if (n <= 0) _exit(2);
    at += (size_t)n;
  }
  return 1;
}

static void take_text(char *text, uint32_t length) {
  if (length >= PATH_MAX) _exit(2);
  if (length > 0 && !take(text, length)) _exit(2);
  text[length] = 0;
}

static void append(const char *name) {
  size_t length = strlen(path);
  if (length + strlen(name) + 2 > sizeof path) give_up_for(ENAMETOOLONG, "");
  path[length] = '/';
  strcpy(path + length + 1, name);
}

static void set_behind(int now) {
  static struct __user_cap_data_struct all[_LINUX_CAPABILITY_U32S_3];
  struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
  if (now == behind) return;
  if (now && syscall(SYS_capget, &header, all) != 0) _exit(2);
  struct __user_cap_data_struct some[_LINUX_CAPABILITY_U32S_3];
  memcpy(some, all, sizeof some);
  for (int i = 0; now && i < _LINUX_CAPABILITY_U32S_3; i++) some[i].effective = 0;
  if (syscall(SYS_capset, &header, some) != 0) _exit(2);
  behind = now;
}

// Follows links of root's and of this process's user; others' could send what is copied to where they may not write.
// Returns the folder of what `name` leads to, and puts its name there into `last`.
static int settle(int at, const char *name, char *last) {
  char rest[2 * PATH_MAX], target[PATH_MAX];
  int here = dup(at);
  strcpy(rest, name);
  for (int links = 0; here >= 0;) {
    char *part = rest + strspn(rest, "/"), *more = part + strcspn(part, "/");
    size_t length = (size_t)(more - part);
    more += strspn(more, "/");
    memcpy(last, length == 0 ? "." : part, length == 0 ? 1 : length);
    last[length == 0 ? 1 : length] = 0;
    int next = openat(here, last, O_PATH | O_NOFOLLOW | O_CLOEXEC);
    struct stat st;
    if (next >= 0 && fstat(next, &st) == 0 && S_ISLNK(st.st_mode)) {
      ssize_t bytes = readlinkat(next, "", target, sizeof target - 1);
      close(next);
      if (bytes < 0 || ++links > LINKS_MAX || (st.st_uid != 0 && st.st_uid != geteuid()))
        return closing(here, failing(ELOOP));
      if (st.st_uid != 0) set_behind(1);
      target[bytes] = 0;
      // Each link of a chain may add a whole path to what is left.
      if ((size_t)bytes + 2 + strlen(more) > sizeof rest)
        return closing(here, failing(ENAMETOOLONG));
      memmove(rest + bytes + 1, more, strlen(more) + 1);
      memcpy(rest, target, (size_t)bytes);
      rest[bytes] = '/';
      if (target[0] == '/') {
        close(here);
        here = open("/", O_PATH | O_DIRECTORY | O_CLOEXEC);
      }
      continue;
    }
    if (*more == 0) {
      if (next >= 0) close(next);
      return here;
    }
    here = closing(here, next);
    memmove(rest, more, strlen(more) + 1);
  }
  return -1;
}

// Leaves `behind` as what was opened has it.
static int open_at(int at, const char *name, int flags, mode_t mode) {
  char last[PATH_MAX];
  int folder = settle(at, name, last);
  if (folder < 0) return -1;
  return closing(folder, openat(folder, last, flags | O_NOFOLLOW | O_CLOEXEC, mode));
}

static int is_directory(int at, const char *name) {
  int before = behind, fd = open_at(at, name, O_PATH | O_DIRECTORY, 0);
  if (fd < 0 && (errno == ELOOP || errno == EACCES)) give_up(name);
  set_behind(before);
  if (fd >= 0) close(fd);
  return fd >= 0;
}

static void leave(void) {
  struct level *level = &levels[--depth];
  if (level->made && (fchmod(level->fd, level->step.mode & KEPT_BITS) != 0 ||
                      futimens(level->fd, level->step.times) != 0))
    give_up("");
  path[level->path] = 0;
  close(level->fd);
}

// As docker cp: a target that is a folder, or ends in a slash, takes the source under its own name.
static void place(const struct step *step, char *target, const char *own) {
  while (depth > 0) leave();
  set_behind(0);
  path[0] = 0;
  int at = open("/", O_PATH | O_DIRECTORY | O_CLOEXEC);
  int content = (step->mode & CONTENT) != 0, into = (step->mode & INTO) != 0, whole = 1;
  char *rest = NULL, *part = strtok_r(target, "/", &rest);
  while (part != NULL) {
    char *next = strtok_r(NULL, "/", &rest);
    if (next == NULL && (content || !(into || is_directory(at, part)))) {
      strcpy(placed, part);
      whole = 0;
      break;
    }
    if (mkdirat(at, part, 0755) != 0 && errno != EEXIST) give_up(part);
    int entered = open_at(at, part, O_PATH | O_DIRECTORY, 0);
    if (entered < 0) give_up(part);
    close(at);
    at = entered;
    append(part);
    part = next;
  }
  if (whole) strcpy(placed, content ? "." : own);
  levels[0] = (struct level){.fd = at, .behind = behind};
  depth = 1;
}

static void enter(const struct step *step, int at, const char *name) {
  int made = mkdirat(at, name, 0700) == 0;
  if (!made && errno != EEXIST) give_up(name);
  // An image's own links to folders (/lib) are followed; what was just made is no link.
  int flags = O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC;
  int fd = made ? openat(at, name, flags) : open_at(at, name, flags, 0);
  if (fd < 0) give_up(name);
  struct stat st;
  if (made && (fstat(fd, &st) != 0 || st.st_uid != geteuid() || (st.st_mode & 0777) != 0700))
    give_up_for(EBUSY, name); // somebody has put another in its place
  if (depth == DEPTH_MAX) give_up_for(ENAMETOOLONG, name);
  levels[depth++] = (struct level){
      .fd = fd, .made = made, .behind = behind, .path = strlen(path), .step = *step};
  append(name);
}

static void vacate(int at, const char *name) {
  if (unlinkat(at, name, 0) != 0 && errno != ENOENT) give_up(name);
}

static void take_content(int fd, const char *name, int sized) {
  for (;;) {
    struct piece piece;
    if (!take(&piece, sizeof piece)) _exit(2);
    if (piece.length == 0) {
      if (sized && ftruncate(fd, (off_t)piece.offset) != 0) give_up(name);
      return;
    }
    while (piece.length > 0) {
      size_t most = piece.length < sizeof buffer ? (size_t)piece.length : sizeof buffer;
      ssize_t got = read(0, buffer, most);
      if (got < 0 && errno == EINTR) continue;
      if (got <= 0) _exit(2);
      for (ssize_t at = 0; at < got;) {
        ssize_t n = pwrite(fd, buffer + at, (size_t)(got - at), (off_t)piece.offset);
        if (n < 0) give_up(name);
        at += n;
        piece.offset += (uint64_t)n;
        piece.length -= (uint64_t)n;
      }
    }
  }
}

static void make_file(const struct step *step, int at, const char *name) {
  vacate(at, name);
  int fd = openat(at, name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
  if (fd < 0) give_up(name);
  take_content(fd, name, 1);
  // A folder may give its group to what is made in it.
  if (fchown(fd, (uid_t)-1, getegid()) != 0 || fchmod(fd, step->mode & KEPT_BITS) != 0 ||
      futimens(fd, step->times) != 0 || close(fd) != 0)
    give_up(name);
}

static void make_link(const struct step *step, int at, const char *name, const char *target) {
  vacate(at, name);
  if (symlinkat(target, at, name) != 0 || utimensat(at, name, step->times, AT_SYMLINK_NOFOLLOW) != 0)
    give_up(name);
}

// `old` is a path below the folder that is copied.
static void make_hard_link(int at, const char *name, const char *old) {
  if (depth < 2) _exit(2);
  vacate(at, name);
  if (linkat(levels[1].fd, old, at, name, 0) != 0) give_up(name);
}

static int is_plain(int at, const char *name) {
  int before = behind, fd = open_at(at, name, O_PATH, 0), absent = fd < 0 && errno == ENOENT;
  if (fd < 0 && errno == EACCES) give_up(name);
  set_behind(before);
  if (fd < 0) return absent;
  struct stat st;
  struct statfs fs;
  int known = fstat(fd, &st) == 0 && fstatfs(fd, &fs) == 0;
  close(fd);
  return known && S_ISREG(st.st_mode) && fs.f_type != PROC_SUPER_MAGIC &&
         fs.f_type != SYSFS_MAGIC && fs.f_type != CGROUP2_SUPER_MAGIC;
}

// Through links, into what is there.
static void write_file(const struct step *step, int at, const char *name) {
  int more = (step->mode & APPEND) != 0;
  if (!is_plain(at, name)) give_up_for(EBADF, name);
  // Others may have put something in its place, or hold a lease on it (fcntl(2)): no wait for that.
  int flags = O_WRONLY | O_CREAT | O_NONBLOCK | O_NOCTTY | (more ? O_APPEND : O_TRUNC);
  int fd = open_at(at, name, flags, step->mode & 0777);
  if (fd < 0) give_up(name);
  take_content(fd, name, 0);
  if (close(fd) != 0) give_up(name);
}

int unpack(void) {
  struct step step;
  while (take(&step, sizeof step)) {
    take_text(name_text, step.name);
    take_text(more_text, step.more);
    if (step.op == PLACE) {
      place(&step, name_text, more_text);
      continue;
    }
    if (depth == 0) _exit(2);
    // The first name is where it was placed.
    const char *name = depth == 1 ? placed : name_text;
    int at = levels[depth - 1].fd;
    set_behind(levels[depth - 1].behind);
    switch (step.op) {
    case DIRECTORY: enter(&step, at, name); break;
    case LEAVE: leave(); break;
    case REGULAR: make_file(&step, at, name); break;
    case SYMLINK: make_link(&step, at, name, more_text); break;
    case HARD_LINK: make_hard_link(at, name, more_text); break;
    case WRITE: write_file(&step, at, name); break;
    default: _exit(2);
    }
  }
  return 0;
}
