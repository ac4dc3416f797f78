/* Writes what a layer can be made to hold: hostile-layers.test.ts runs it in a sandbox. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/un.h>
#include <sys/xattr.h>
#include <unistd.h>

static void write_file(const char *name, const char *text) {
  int fd = open(name, O_CREAT | O_WRONLY | O_TRUNC, 0644);
  if (fd < 0 || write(fd, text, strlen(text)) < 0) perror(name);
  close(fd);
}

/* What is refused is told: the kernel and the filter decide that. */
static void tried(const char *what, int result) {
  printf("%s: %s\n", what, result == 0 ? "done" : strerrorname_np(errno));
}

static void marks(const char *folder) {
  static const char *const names[] = {"opaque", "redirect", "metacopy", "origin", "whiteout", "xwhiteouts"};
  char name[64];
  for (unsigned at = 0; at < sizeof names / sizeof *names; at++) {
    snprintf(name, sizeof name, "user.overlay.%s", names[at]);
    setxattr(folder, name, at == 1 ? "/etc" : "y", at == 1 ? 4 : 1, 0);
    snprintf(name, sizeof name, "trusted.overlay.%s", names[at]);
    tried(name, setxattr(folder, name, "y", 1, 0));
  }
}

static void names(void) {
  write_file("line\nbreak", "1\n");
  write_file("\033[31mred\033]0;title\a", "2\n");
  write_file("\377\376", "3\n");
  write_file("-rf", "4\n");
  write_file("$(touch x)`;'\"\\", "5\n");
  write_file(".wh.passwd", "6\n");
  write_file(".wh..wh..opq", "7\n");
  char longest[256];
  memset(longest, 'n', 255);
  longest[255] = 0;
  write_file(longest, "8\n");
  write_file("text", "\033]0;title\a\r\033[2K\n");
}

static void specials(void) {
  tried("char", mknod("char", S_IFCHR | 0666, makedev(1, 3)));
  tried("block", mknod("block", S_IFBLK | 0666, makedev(8, 0)));
  tried("whiteout", mknod("whiteout", S_IFCHR, makedev(0, 0)));
  tried("fifo", mkfifo("fifo", 0666));
  struct sockaddr_un address = {.sun_family = AF_UNIX, .sun_path = "socket"};
  int fd = socket(AF_UNIX, SOCK_STREAM, 0);
  tried("socket", bind(fd, (struct sockaddr *)&address, sizeof address));
  tried("out", symlink("/etc/passwd", "out"));
  tried("up", symlink("../../../../../../etc/passwd", "up"));
  tried("loop", symlink("loop", "loop"));
  write_file("plain", "p\n");
  tried("hard", link("plain", "hard"));
  write_file("set-id", "s\n");
  chmod("set-id", 06755);
  struct vfs_cap_data all = {.magic_etc = VFS_CAP_REVISION_2 | VFS_CAP_FLAGS_EFFECTIVE};
  all.data[0].permitted = all.data[1].permitted = 0xffffffff;
  write_file("capable", "c\n");
  tried("capability", setxattr("capable", "security.capability", &all, sizeof all, 0));
  mkdir("sticky", 0755);
  chmod("sticky", 07777);
  mkdir("marked", 0755);
  marks("marked");
  write_file("marked/in", "i\n");
}

static void deep(int levels) {
  for (int at = 0; at < levels; at++)
    if (mkdir("d", 0755) != 0 || chdir("d") != 0) {
      perror("deep");
      exit(1);
    }
  write_file("bottom", "b\n");
}

static void many(int count) {
  char name[32];
  for (int at = 0; at < count; at++) {
    snprintf(name, sizeof name, "m%d", at);
    close(open(name, O_CREAT | O_WRONLY, 0644));
  }
}

static void sparse(void) {
  int fd = open("sparse", O_CREAT | O_WRONLY, 0644);
  tried("sparse", ftruncate(fd, 1LL << 40));
  close(fd);
}

/* Until it is killed. */
static void churn(void) {
  for (unsigned turn = 0;; turn++) {
    mkdir("c", 0755);
    write_file("c/f", "one\n");
    unlink("c/f");
    rmdir("c");
    symlink("/etc", "c");
    unlink("c");
    mkfifo("c", 0600);
    unlink("c");
    int fd = open("grows", O_CREAT | O_WRONLY | O_APPEND, 0644);
    if (turn % 1000 == 0) ftruncate(fd, 0);
    write(fd, "more\n", 5);
    close(fd);
  }
}

int main(int count, char **words) {
  umask(0);
  if (count < 3 || chdir(words[1]) != 0) return 1;
  for (int at = 2; at < count; at++) {
    const char *what = words[at];
    if (strcmp(what, "names") == 0) names();
    else if (strcmp(what, "specials") == 0) specials();
    else if (strcmp(what, "sparse") == 0) sparse();
    else if (strcmp(what, "churn") == 0) churn();
    else if (strncmp(what, "deep=", 5) == 0) deep(atoi(what + 5));
    else if (strncmp(what, "many=", 5) == 0) many(atoi(what + 5));
    else return 2;
  }
  return 0;
}
