// SPDX-License-Identifier: Apache-2.0
#include <errno.h>
#include <fcntl.h>
#include <linux/mount.h>
#include <linux/rtnetlink.h>
#include <net/if.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "port-wire.h"
#include "relay.h"

// glibc's <sys/mount.h> clashes with <linux/mount.h>, so declare only what is needed.
int mount(const char *, const char *, const char *, unsigned long, const void *);
int umount2(const char *, int);
#define MNT_DETACH 2

#define WORDS_MAX 8192
// What a guest could use for a file that gives rights on the host: capabilities of a file, set-gid bits, devices.
#define WITHOUT "--modcaps=-setfcap:-fsetid:-mknod"
// As many terminals as a sandbox may have (src/guest/mounts.h): the host has few for all together.
#define TERMINALS "newinstance,ptmxmode=0600,max=64"

int inside_words = -1;
int setgroups(size_t, const gid_t *);

static void become_root(int link) {
  char go;
  if (recv(link, &go, 1, 0) != 1) _exit(1);
  if (setgroups(0, NULL) != 0 || setresgid(0, 0, 0) != 0 || setresuid(0, 0, 0) != 0)
    die("become root of the sandbox");
  // After the ids, which forget it.
  if (prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0) != 0) die("parent death signal");
  prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);
}

static void show(const char *path) {
  struct stat st;
  char link[4096];
  ssize_t n;
  if (lstat(path, &st) != 0) return;
  const char *name = path + 1;
  if (S_ISLNK(st.st_mode) && (n = readlink(path, link, sizeof link - 1)) > 0) {
    link[n] = 0;
    if (symlink(link, name) != 0) die(path);
    return;
  }
  if (mkdir(name, 0755) != 0) die(path);
  struct mount_attr closed = {.attr_set = MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV};
  if (mount(path, name, NULL, MS_BIND | MS_REC, NULL) != 0 ||
      syscall(SYS_mount_setattr, AT_FDCWD, name, AT_RECURSIVE, &closed, sizeof closed) != 0)
    die(path);
}

// A masked /proc, as in most containers, allows no other to be mounted; then that one is shown.
static void show_proc(void) {
  unsigned long flags = MS_NOSUID | MS_NODEV | MS_NOEXEC;
  if (mkdir("proc", 0755) != 0) die("proc");
  if (mount("proc", "proc", "proc", flags, NULL) == 0) return;
  if (mount("/proc", "proc", NULL, MS_BIND | MS_REC, NULL) != 0) die("mount /proc");
}

// Nothing of the host but what virtiofsd's program consists of; virtiofsd shuts itself in `shares`.
static void make_root(const char *work) {
  if (mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) != 0 ||
      mount("tmpfs", work, "tmpfs", MS_NOSUID | MS_NODEV, "mode=755,size=1m,nr_inodes=8k") != 0 ||
      chdir(work) != 0)
    die("make a root");
  static const char *const shown[] = {"/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64"};
  for (size_t i = 0; i < sizeof shown / sizeof *shown; i++) show(shown[i]);
  show_proc();
  if (mkdir("shares", 0755) != 0 || mkdir("pts", 0755) != 0 ||
      mount("devpts", "pts", "devpts", MS_NOSUID | MS_NOEXEC, TERMINALS) != 0)
    die("make a root");
  if (syscall(SYS_pivot_root, ".", ".") != 0 || umount2(".", MNT_DETACH) != 0 || chdir("/") != 0)
    die("change the root");
}

// The guest numbers the sandbox's ids in its own way.
static void become_virtiofsd(const struct inner *inner, int words, int null) {
  char users[64], groups[64], fd[16];
  snprintf(users, sizeof users, "--translate-uid=map:%u:0:%u", PORT_IDS, PORT_IDS_COUNT);
  snprintf(groups, sizeof groups, "--translate-gid=map:%u:0:%u", PORT_IDS, PORT_IDS_COUNT);
  snprintf(fd, sizeof fd, "--fd=%d", inner->files);
  filter_files();
  if (dup2(null, 0) < 0 || dup2(null, 1) < 0 || dup2(words, 2) < 0 ||
      fcntl(inner->files, F_SETFD, 0) != 0)
    _exit(126);
  char *argv[] = {"virtiofsd",      fd,
                  "--shared-dir=/shares", "--sandbox=chroot",
                  "--cache=auto",   "--xattr",
                  "--inode-file-handles=never", "--rlimit-nofile=0",
                  "--log-level=error", users,
                  groups,           WITHOUT, NULL};
  char *environment[] = {"PATH=/usr/bin:/bin", "RUST_BACKTRACE=0", NULL};
  execve(inner->virtiofsd, argv, environment);
  dprintf(2, "%s: %s\n", inner->virtiofsd, strerror(errno));
  _exit(127);
}

// Every address is this network's own: what kiln sends, wherever to, comes to likes.c.
static void make_network(void) {
  struct ifreq lo = {.ifr_name = "lo", .ifr_flags = IFF_UP};
  struct {
    struct nlmsghdr head;
    struct rtmsg route;
    struct rtattr out;
    uint32_t index;
    struct rtattr from;
    uint32_t address;
  } add = {{sizeof add, RTM_NEWROUTE, NLM_F_REQUEST | NLM_F_CREATE, 1, 0},
           {.rtm_family = AF_INET,
            .rtm_table = RT_TABLE_LOCAL,
            .rtm_protocol = RTPROT_BOOT,
            .rtm_scope = RT_SCOPE_HOST,
            .rtm_type = RTN_LOCAL},
           {RTA_LENGTH(4), RTA_OIF},
           0,
           {RTA_LENGTH(4), RTA_PREFSRC},
           htonl(INADDR_LOOPBACK)};
  int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  int route = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE);
  if (fd < 0 || route < 0 || ioctl(fd, SIOCSIFFLAGS, &lo) != 0 || ioctl(fd, SIOCGIFINDEX, &lo) != 0)
    die("make a network");
  add.index = (uint32_t)lo.ifr_ifindex;
  if (send(route, &add, sizeof add, 0) != sizeof add) die("make a route");
  close(fd), close(route);
}

void inside_enter(const struct inner *inner) {
  become_root(inner->link);
  umask(022);
  int null = open("/dev/null", O_RDWR | O_CLOEXEC), words[2];
  if (null < 0 || pipe2(words, O_CLOEXEC | O_NONBLOCK) != 0) die("pipe");
  make_network();
  make_root(inner->work);
  pid_t child = fork();
  if (child < 0) die("fork");
  if (child == 0) become_virtiofsd(inner, words[1], null);
  close(words[1]), close(inner->files);
  for (int i = 0; i < 2; i++) dup2(null, i);
  close(null);
  inside_words = words[0];
}

int inside_forward(void) {
  static size_t said;
  char text[512];
  ssize_t n = read(inside_words, text, sizeof text);
  if (n < 0 && (errno == EAGAIN || errno == EINTR)) return 0;
  if (n <= 0) return -1;
  // The guest can make virtiofsd say as much as it likes.
  if (said < WORDS_MAX && write(2, text, (size_t)n) > 0) said += (size_t)n;
  return 0;
}
