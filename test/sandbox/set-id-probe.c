// SPDX-License-Identifier: Apache-2.0
// Tries every way to give a file in the folder argv[1] a set-id bit or capabilities, and prints each
// as "NAME TAB 0 or the symbol of errno". argv[2], if given, is a file on another file system.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <sys/xattr.h>
#include <unistd.h>

#ifndef SYS_fchmodat2
#define SYS_fchmodat2 452
#endif
#ifndef SYS_setxattrat
#define SYS_setxattrat 463
#endif
#define X32 0x40000000

static char path[4096]; // of a program that is not position-independent: below 4 GiB
static const char *folder;

static void say(const char *name, long result) {
  printf("%s\t%s\n", name, result >= 0 ? "0" : strerrorname_np(errno));
}

// A name of its own for each attempt; the file is there if `made`.
static const char *file(const char *name, int made) {
  snprintf(path, sizeof path, "%s/%s", folder, name);
  int fd = made ? open(path, O_CREAT | O_WRONLY, 0700) : -1;
  if (fd >= 0) close(fd);
  return path;
}

static int opened(const char *name) { return open(file(name, 1), O_RDWR); }

// By a child, whom a filter may kill for it.
static long by_child(long number, long a, long b, long c) {
  pid_t pid = fork();
  if (pid == 0) _exit(syscall(number, a, b, c) < 0 ? errno : 0);
  int status = 0;
  waitpid(pid, &status, 0);
  errno = WIFEXITED(status) ? WEXITSTATUS(status) : ESRCH;
  return errno == 0 ? 0 : -1;
}

#ifdef __x86_64__
// A call of the 32-bit ABI, whose arguments are small numbers.
static long old(long number, long a, long b, long c, long d) {
  long result;
  __asm__ volatile("int $0x80" : "=a"(result) : "a"(number), "b"(a), "c"(b), "d"(c), "S"(d) : "memory");
  if (result >= 0) return result;
  errno = (int)-result;
  return -1;
}
#endif

// `name` comes first: the order in which arguments are worked out is nobody's promise.
#define TRY(call, ...) (snprintf(name, sizeof name, "%s-%s", call, which), say(name, __VA_ARGS__))

static void try_mode(const char *which, mode_t mode) {
  char name[64];
  TRY("chmod", chmod(file(name, 1), mode));
  TRY("fchmod", fchmod(opened(name), mode));
  TRY("fchmodat", syscall(SYS_fchmodat, AT_FDCWD, file(name, 1), mode));
  TRY("fchmodat2", syscall(SYS_fchmodat2, AT_FDCWD, file(name, 1), mode, 0));
  TRY("fchmodat2-empty", syscall(SYS_fchmodat2, opened(name), "", mode, AT_EMPTY_PATH));
  TRY("high-bits", syscall(SYS_fchmod, opened(name), 0xabcd00000000ul | mode));
  TRY("openat", openat(AT_FDCWD, file(name, 0), O_CREAT | O_RDWR, mode));
  TRY("openat2", syscall(SYS_openat2, AT_FDCWD, file(name, 0),
                              &(struct open_how){.flags = O_CREAT | O_RDWR, .mode = mode},
                              sizeof(struct open_how)));
  int unnamed = open(folder, O_TMPFILE | O_RDWR, mode);
  TRY("tmpfile", unnamed);
  if (unnamed >= 0) {
    char from[64];
    snprintf(from, sizeof from, "/proc/self/fd/%d", unnamed);
    linkat(AT_FDCWD, from, AT_FDCWD, file(name, 0), AT_SYMLINK_FOLLOW);
  }
  TRY("mknodat", syscall(SYS_mknodat, AT_FDCWD, file(name, 0), S_IFREG | mode, 0));
  char from[64];
  snprintf(from, sizeof from, "/proc/self/fd/%d", opened("proc"));
  TRY("proc", chmod(from, mode));
#ifdef __x86_64__
  TRY("open", syscall(SYS_open, file(name, 0), O_CREAT | O_RDWR, mode));
  TRY("creat", syscall(SYS_creat, file(name, 0), mode));
  TRY("mknod", syscall(SYS_mknod, file(name, 0), S_IFREG | mode, 0));
  TRY("x32-chmod", by_child(X32 | SYS_chmod, (long)file(name, 1), mode, 0));
  TRY("x32-open", by_child(X32 | SYS_open, (long)file(name, 0), O_CREAT | O_RDWR, mode));
  TRY("32-chmod", old(15, (long)file(name, 1), mode, 0, 0));
  TRY("32-fchmod", old(94, opened(name), mode, 0, 0));
  TRY("32-fchmodat", old(306, AT_FDCWD, (long)file(name, 1), mode, 0));
  TRY("32-fchmodat2", old(452, AT_FDCWD, (long)file(name, 1), mode, 0));
  TRY("32-open", old(5, (long)file(name, 0), O_CREAT | O_RDWR, mode, 0));
  TRY("32-creat", old(8, (long)file(name, 0), mode, 0, 0));
  TRY("32-openat", old(295, AT_FDCWD, (long)file(name, 0), O_CREAT | O_RDWR, mode));
  TRY("32-mknod", old(14, (long)file(name, 0), S_IFREG | mode, 0, 0));
  TRY("32-mknodat", old(297, AT_FDCWD, (long)file(name, 0), S_IFREG | mode, 0));
#endif
}

static const struct {
  uint32_t magic, permitted, inheritable, permitted2, inheritable2, root;
} capabilities[] = {{0x02000001, 0x80, 0, 0, 0, 0}, {0x03000001, 0x80, 0, 0, 0, 0}};

struct xattr_arguments {
  uint64_t value;
  uint32_t size, flags;
};

static void try_capabilities(const char *which, const void *value, size_t size) {
  static const char attribute[] = "security.capability";
  char name[64];
  TRY("setxattr", setxattr(file(name, 1), attribute, value, size, 0));
  TRY("lsetxattr", lsetxattr(file(name, 1), attribute, value, size, 0));
  TRY("fsetxattr", fsetxattr(opened(name), attribute, value, size, 0));
  struct xattr_arguments arguments = {(uint64_t)(uintptr_t)value, (uint32_t)size, 0};
  TRY("setxattrat", syscall(SYS_setxattrat, AT_FDCWD, file(name, 1), 0, attribute, &arguments,
                                 sizeof arguments));
}

int main(int argc, char **argv) {
  if (argc < 2) return 2;
  folder = argv[1];
  umask(0);
  setvbuf(stdout, NULL, _IOLBF, 0);
  try_mode("setuid", 04755);
  try_mode("setgid", 02755);
  try_mode("both", 06777);
  try_capabilities("v2", &capabilities[0], 20);
  try_capabilities("v3", &capabilities[1], 24);
  if (argc > 2) {
    say("rename", rename(argv[2], file("rename", 0)));
    say("link", link(argv[2], file("link", 0)));
  }
  snprintf(path, sizeof path, "%s/folder", folder);
  say("mkdir", mkdir(path, 06777));
  return 0;
}
