// SPDX-License-Identifier: Apache-2.0
// Tries what stands around it, and prints what it found as one line of JSON behind "kiln-probe ".
// Nothing it tries does harm where nothing stands in the way: the tests run it on the host, too.
//
//   kiln-probe DOOR SOCKET PORT DIRECTORY
//
// DOOR names what is measured; SOCKET is an abstract unix socket of the host's, PORT one of its
// loopback; files are made and removed in DIRECTORY.
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/capability.h>
#include <net/if.h>
#include <netinet/in.h>
#include <sched.h>
#include <stdarg.h>
#include <signal.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/fsuid.h>
#include <sys/inotify.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

// Of newer kernels than some headers know; the numbers are those of all architectures.
#define NR_open_tree 428
#define NR_clone3 435
#define NR_openat2 437
#define NR_pidfd_getfd 438
#define NR_mount_setattr 442
#define NR_futex_waitv 449

// A process that nobody has: beyond PID_MAX_LIMIT.
#define NO_PROCESS 0x7ffffff0
// How many processes are tried beside this one.
#define PROCESSES 300

static char text[1 << 18]; // the line, written at once
static size_t used;

static void say(const char *format, ...) {
  va_list arguments;
  va_start(arguments, format);
  int length = vsnprintf(text + used, sizeof text - used, format, arguments);
  va_end(arguments);
  if (length < 0 || (size_t)length >= sizeof text - used) exit(3);
  used += (size_t)length;
}

static void quoted(const char *value) {
  say("\"");
  for (const char *c = value; *c != '\0'; c++) {
    if (*c == '"' || *c == '\\') say("\\%c", *c);
    else say((unsigned char)*c < ' ' ? "\\u%04x" : "%c", (unsigned char)*c);
  }
  say("\"");
}

static const char *separator = "";

// The next member of an object.
static void name(const char *key) {
  say("%s", separator);
  quoted(key);
  say(":");
  separator = ",";
}

static void begin(const char *key) {
  name(key);
  say("{");
  separator = "";
}

static void end(void) {
  say("}");
  separator = ",";
}

// What a call came to: the name of its errno, or "done".
static void outcome(const char *key, long result) {
  int error = errno;
  name(key);
  quoted(result >= 0 ? "done" : strerrorname_np(error));
}

static void capabilities(void) {
  struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
  struct __user_cap_data_struct data[2];
  if (syscall(SYS_capget, &header, data) != 0) exit(3);
  unsigned long long bounding = 0, ambient = 0;
  for (int n = 0; n < 64; n++) {
    if (prctl(PR_CAPBSET_READ, n, 0, 0, 0) == 1) bounding |= 1ULL << n;
    if (prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_IS_SET, n, 0, 0) == 1) ambient |= 1ULL << n;
  }
#define SET(member) ((unsigned long long)data[1].member << 32 | data[0].member)
  begin("capabilities");
  name("effective"), say("\"%llx\"", SET(effective));
  name("permitted"), say("\"%llx\"", SET(permitted));
  name("inheritable"), say("\"%llx\"", SET(inheritable));
  name("bounding"), say("\"%llx\"", bounding);
  name("ambient"), say("\"%llx\"", ambient);
  end();
}

static void id_map(const char *kind) {
  char path[64];
  snprintf(path, sizeof path, "/proc/self/%s_map", kind);
  FILE *file = fopen(path, "re");
  unsigned long inside, outside, count;
  name(strcmp(kind, "uid") == 0 ? "uidMap" : "gidMap"), say("[");
  for (int n = 0; file != NULL && fscanf(file, "%lu %lu %lu", &inside, &outside, &count) == 3; n++)
    say("%s[%lu,%lu,%lu]", n == 0 ? "" : ",", inside, outside, count);
  say("]");
  if (file != NULL) fclose(file);
}

static void ids(void) {
  unsigned real, effective, saved;
  gid_t groups[256];
  int count = getgroups(256, groups);
  getresuid(&real, &effective, &saved);
  begin("ids");
  name("uid"), say("[%u,%u,%u,%u]", real, effective, saved, (unsigned)setfsuid((uid_t)-1));
  getresgid(&real, &effective, &saved);
  name("gid"), say("[%u,%u,%u,%u]", real, effective, saved, (unsigned)setfsgid((gid_t)-1));
  name("groups"), say("[");
  for (int n = 0; n < count; n++) say("%s%u", n == 0 ? "" : ",", groups[n]);
  say("]");
  id_map("uid");
  id_map("gid");
  end();
}

static const char *const kinds[] = {"cgroup", "ipc", "mnt", "net", "pid", "time", "user", "uts"};

static void namespaces(void) {
  begin("namespaces");
  for (size_t n = 0; n < sizeof kinds / sizeof *kinds; n++) {
    char path[64];
    struct stat status;
    snprintf(path, sizeof path, "/proc/self/ns/%s", kinds[n]);
    if (stat(path, &status) != 0) continue;
    name(kinds[n]), say("%lu", (unsigned long)status.st_ino);
  }
  end();
}

// Calls that tell from their arguments that they fail: the kernel's answer is not that of a filter.
static void calls(const char *directory) {
  char path[4096], *away = "/nowhere/at/all";
  snprintf(path, sizeof path, "%s/allocated", directory);
  int file = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600), fd;
  unlink(path);
  begin("calls");
#define TRY(key, ...) outcome(key, syscall(__VA_ARGS__))
  TRY("mount", SYS_mount, "none", away, "tmpfs", 0, NULL);
  TRY("umount2", SYS_umount2, away, 0);
  TRY("open_tree", NR_open_tree, -1, "", 0x40000000);
  TRY("mount_setattr", NR_mount_setattr, -1, "", 0x40000000, NULL, 0);
  TRY("unshare", SYS_unshare, CLONE_NEWUSER | 1);
  TRY("setns", SYS_setns, -1, 0);
  TRY("clone", SYS_clone, CLONE_NEWUSER | CLONE_FS | SIGCHLD, NULL, NULL, NULL, 0);
  TRY("clone3", NR_clone3, NULL, 0);
  TRY("ptrace", SYS_ptrace, 3, NO_PROCESS, NULL, NULL);
  TRY("process_vm_readv", SYS_process_vm_readv, NO_PROCESS, NULL, 0, NULL, 0, 1);
  TRY("kcmp", SYS_kcmp, NO_PROCESS, NO_PROCESS, 0, 0, 0);
  TRY("pidfd_getfd", NR_pidfd_getfd, -1, -1, 1);
  TRY("add_key", SYS_add_key, NULL, NULL, NULL, 0, 0);
  TRY("request_key", SYS_request_key, NULL, NULL, NULL, 0);
  TRY("keyctl", SYS_keyctl, 999);
  TRY("io_uring_setup", SYS_io_uring_setup, 0, NULL);
  TRY("userfaultfd", SYS_userfaultfd, 0x40000001);
  TRY("bpf", SYS_bpf, 999, path, 1 << 20);
  TRY("perf_event_open", SYS_perf_event_open, path, 0, 0, -1, ~0UL);
  TRY("name_to_handle_at", SYS_name_to_handle_at, -1, "", path, path, 0x40000000);
  TRY("fanotify_init", SYS_fanotify_init, 0x40000000, 0);
  TRY("futex_waitv", NR_futex_waitv, NULL, 0, 1, NULL, 0);
  TRY("openat2", NR_openat2, -1, "", NULL, 0);
  TRY("fallocate", SYS_fallocate, file, 0, 0, 4096);
  const struct {
    const char *key;
    int family, type;
  } sockets[] = {{"AF_VSOCK", AF_VSOCK, SOCK_STREAM}, {"AF_ALG", AF_ALG, SOCK_SEQPACKET},
                 {"AF_PACKET", AF_PACKET, SOCK_RAW}};
  for (size_t n = 0; n < sizeof sockets / sizeof *sockets; n++) {
    outcome(sockets[n].key, fd = socket(sockets[n].family, sockets[n].type | SOCK_CLOEXEC, 0));
    if (fd >= 0) close(fd);
  }
  end();
  if (file >= 0) close(file);
}

// Of the internet and netlink each kind that a kernel may have, of other families one of each type; those that open.
static void sockets(void) {
  static const int internet[] = {0, 2, 4, 6, 17, 33, 41, 47, 50, 51, 108, 115, 132, 136, 262};
  static const int types[] = {SOCK_STREAM, SOCK_DGRAM, SOCK_RDM, SOCK_SEQPACKET, SOCK_RAW};
  name("sockets"), say("[");
  separator = "";
  for (int family = 1; family < 46; family++)
    for (size_t t = 0; t < sizeof types / sizeof *types; t++) {
      int is_internet = family == AF_INET || family == AF_INET6;
      int count = is_internet ? (int)(sizeof internet / sizeof *internet) : family == AF_NETLINK ? 32 : 1;
      for (int n = 0; n < count; n++) {
        int protocol = is_internet ? internet[n] : n;
        int fd = socket(family, types[t] | SOCK_CLOEXEC | SOCK_NONBLOCK, protocol);
        if (fd < 0) continue;
        close(fd);
        say("%s\"%d %d %d\"", separator, family, types[t], protocol);
        separator = ",";
      }
    }
  say("]");
  separator = ",";
}

// Runs in a child, so that this process stays as it is; 0 or an errno comes back.
static int in_child(int (*attempt)(void)) {
  pid_t child = fork();
  if (child == 0) _exit(attempt());
  int status = 0;
  if (child < 0 || waitpid(child, &status, 0) != child) exit(3);
  return WIFEXITED(status) ? WEXITSTATUS(status) : EINTR;
}

static int new_user(void) { return unshare(CLONE_NEWUSER) == 0 ? 0 : errno; }
static int new_mount(void) { return unshare(CLONE_NEWNS) == 0 ? 0 : errno; }
static int new_net_below(void) {
  return unshare(CLONE_NEWUSER | CLONE_NEWNET) == 0 ? 0 : errno;
}

static void fresh_namespaces(void) {
  begin("made");
  errno = in_child(new_user), outcome("user", errno == 0 ? 0 : -1);
  errno = in_child(new_mount), outcome("mnt", errno == 0 ? 0 : -1);
  errno = in_child(new_net_below), outcome("net below user", errno == 0 ? 0 : -1);
  end();
}

static void descriptors(void) {
  DIR *directory = opendir("/proc/self/fd");
  if (directory == NULL) exit(3);
  begin("descriptors");
  for (struct dirent *entry; (entry = readdir(directory)) != NULL;) {
    char target[512];
    if (entry->d_name[0] == '.' || atoi(entry->d_name) == dirfd(directory)) continue;
    ssize_t length = readlinkat(dirfd(directory), entry->d_name, target, sizeof target - 1);
    target[length < 0 ? 0 : length] = '\0';
    name(entry->d_name), quoted(target);
  }
  closedir(directory);
  end();
}

static void mounts(void) {
  FILE *file = fopen("/proc/self/mountinfo", "re");
  char line[16384];
  name("mounts"), say("[");
  separator = "";
  while (file != NULL && fgets(line, sizeof line, file) != NULL) {
    char *fields = strstr(line, " - "), *save, *part[6] = {0};
    if (fields == NULL) exit(3);
    *fields = '\0';
    char *type = strtok_r(fields + 3, " ", &save);
    int n = 0;
    for (char *word = strtok_r(line, " ", &save); word != NULL && n < 6; word = strtok_r(NULL, " ", &save))
      part[n++] = word;
    if (n < 6) exit(3);
    // Masks of /proc are tried one by one: see host_files().
    if (strncmp(part[4], "/proc/", 6) == 0) continue;
    char options[4096];
    snprintf(options, sizeof options, ",%s,", part[5]);
    say("%s[", separator);
    quoted(part[4]);
    say(",");
    quoted(type);
    say(",\"%s%s%s\"]", strstr(options, ",ro,") != NULL ? "r" : "", strstr(options, ",nosuid,") != NULL ? "s" : "",
        strstr(options, ",nodev,") != NULL ? "d" : "");
    separator = ",";
  }
  say("]");
  separator = ",";
  if (file != NULL) fclose(file);
}

// Whether there is something to read or to list, or it could be written to; nothing is written.
static int is_open(const char *path, int flags) {
  char byte;
  int fd = open(path, flags | O_CLOEXEC | O_NONBLOCK);
  if (fd < 0) return 0;
  if ((flags & O_ACCMODE) == O_WRONLY) return close(fd), 1;
  struct stat status;
  int found = 0;
  if (fstat(fd, &status) == 0 && S_ISDIR(status.st_mode)) {
    DIR *directory = fdopendir(fd);
    for (struct dirent *entry; directory != NULL && (entry = readdir(directory)) != NULL;)
      found |= entry->d_name[0] != '.';
    if (directory != NULL) closedir(directory);
    return found;
  }
  // A character device (/dev/null) is what a mask shows.
  found = !S_ISCHR(status.st_mode) && read(fd, &byte, 1) == 1;
  close(fd);
  return found;
}

static void host_files(void) {
  static const struct {
    const char *path;
    int flags;
  } files[] = {
      {"/proc/kcore", O_RDONLY},
      {"/proc/keys", O_RDONLY},
      {"/proc/key-users", O_RDONLY},
      {"/proc/timer_list", O_RDONLY},
      {"/proc/sched_debug", O_RDONLY},
      {"/proc/latency_stats", O_RDONLY},
      {"/proc/kpagecount", O_RDONLY},
      {"/proc/kmsg", O_RDONLY},
      {"/proc/scsi", O_RDONLY},
      {"/proc/acpi", O_RDONLY},
      {"/proc/sysrq-trigger", O_WRONLY},
      {"/proc/irq/default_smp_affinity", O_WRONLY},
      {"/proc/sys/kernel/core_pattern", O_WRONLY},
      {"/proc/sys/kernel/modprobe", O_WRONLY},
      {"/proc/sys/kernel/hostname", O_WRONLY},
      {"/proc/sys/vm/drop_caches", O_WRONLY},
      {"/proc/sys/net/ipv4/ip_forward", O_WRONLY},
      {"/sys/kernel", O_RDONLY},
      {"/sys/fs/cgroup", O_RDONLY},
      {"/sys/firmware", O_RDONLY},
      {"/dev/mem", O_RDONLY},
      {"/dev/kmsg", O_WRONLY},
  };
  name("hostFiles"), say("[");
  separator = "";
  for (size_t n = 0; n < sizeof files / sizeof *files; n++) {
    if (!is_open(files[n].path, files[n].flags)) continue;
    say("%s", separator), quoted(files[n].path);
    separator = ",";
  }
  say("]");
  separator = ",";
  DIR *directory = opendir("/dev");
  name("devices"), say("[");
  separator = "";
  for (struct dirent *entry; directory != NULL && (entry = readdir(directory)) != NULL;) {
    struct stat status;
    if (fstatat(dirfd(directory), entry->d_name, &status, AT_SYMLINK_NOFOLLOW) != 0) continue;
    if (!S_ISCHR(status.st_mode) && !S_ISBLK(status.st_mode)) continue;
    say("%s", separator), quoted(entry->d_name);
    separator = ",";
  }
  say("]");
  separator = ",";
  if (directory != NULL) closedir(directory);
}

static struct sockaddr_un abstract_address = {.sun_family = AF_UNIX};

static socklen_t abstract_name(const char *of) {
  strncpy(abstract_address.sun_path + 1, of, sizeof abstract_address.sun_path - 2);
  return (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + strlen(of));
}

static struct sockaddr_un own_address;
static socklen_t own_length;

static int own_socket(void) {
  int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  return connect(fd, (struct sockaddr *)&own_address, own_length) == 0 ? 0 : errno;
}

static void network(const char *socket_name, int port) {
  begin("network");
  socklen_t length = abstract_name(socket_name);
  int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  outcome("abstract", fd < 0 ? -1 : connect(fd, (struct sockaddr *)&abstract_address, length));
  if (fd >= 0) close(fd);
  // One of its own, from another process: that works everywhere.
  fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  // The kernel chooses a name: sandboxes with the host's network share all names (unix(7), autobind).
  own_address.sun_family = AF_UNIX;
  own_length = sizeof own_address;
  if (bind(fd, (struct sockaddr *)&own_address, sizeof(sa_family_t)) != 0 ||
      getsockname(fd, (struct sockaddr *)&own_address, &own_length) != 0 || listen(fd, 1) != 0)
    exit(3);
  errno = in_child(own_socket);
  outcome("own abstract", errno == 0 ? 0 : -1);
  close(fd);
  struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  outcome("loopback", fd < 0 ? -1 : connect(fd, (struct sockaddr *)&address, sizeof address));
  if (fd >= 0) close(fd);
  end();
}

// How many of what all sandboxes and the host share, up to one more than a sandbox may have. Takes them in a child.
static int one_terminal(void) { return posix_openpt(O_RDWR | O_NOCTTY); }
static int one_signal(void) { return sigqueue(getpid(), SIGRTMIN, (union sigval){0}); }
static int one_netlink(void) { return socket(AF_NETLINK, SOCK_RAW, 0); }
static int one_inotify(void) { return inotify_init1(0); }
static int inotify_limit(void) {
  char line[32] = "";
  int fd = open("/proc/sys/fs/inotify/max_user_instances", O_RDONLY | O_CLOEXEC);
  if (fd >= 0 && read(fd, line, sizeof line - 1) < 0) line[0] = '\0';
  if (fd >= 0) close(fd);
  return atoi(line) / 8;
}
static void count_of(const char *key, int (*one)(void), int most) {
  int ends[2], count = 0;
  if (pipe(ends) != 0) exit(3);
  pid_t child = fork();
  if (child == 0) {
    sigset_t all;
    sigfillset(&all);
    sigprocmask(SIG_BLOCK, &all, NULL);
    while (count <= most && one() >= 0) count++;
    _exit(write(ends[1], &count, sizeof count) == sizeof count ? 0 : 1);
  }
  close(ends[1]);
  if (child < 0 || read(ends[0], &count, sizeof count) != sizeof count) exit(3);
  close(ends[0]);
  waitpid(child, NULL, 0);
  name(key), say("%d", count);
}
static void shares(void) {
  unsigned long context = 0;
  begin("shares");
  count_of("terminals", one_terminal, 64);
  count_of("signals", one_signal, 1024);
  count_of("netlink", one_netlink, 32);
  count_of("inotify", one_inotify, inotify_limit());
  name("inotifyShare"), say("%d", inotify_limit());
  outcome("aio", syscall(SYS_io_setup, 1, &context));
  end();
}

static const char *directory_of_child;

static int set_id_bits(void) {
  char path[4096];
  snprintf(path, sizeof path, "%s/set-id-%d", directory_of_child, (int)getpid());
  int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0700);
  if (fd < 0) return EIO;
  int user = fchmod(fd, 04700) == 0 ? 0 : errno, group = chmod(path, 02700) == 0 ? 0 : errno;
  struct stat status;
  if (user == 0 && group == 0 && stat(path, &status) == 0 && !(status.st_mode & S_ISGID)) group = EILSEQ;
  close(fd);
  unlink(path);
  return user != 0 ? user : group;
}

// A whiteout, which takes no capability: Landlock's rules for files refuse it.
static int make_device(void) {
  char path[4096];
  snprintf(path, sizeof path, "%s/whiteout-%d", directory_of_child, (int)getpid());
  int result = mknod(path, S_IFCHR | 0600, 0) == 0 ? 0 : errno;
  unlink(path);
  return result;
}

static void files(void) {
  errno = in_child(set_id_bits), outcome("setId", errno == 0 ? 0 : -1);
  errno = in_child(make_device), outcome("whiteout", errno == 0 ? 0 : -1);
}

#if defined(__x86_64__)
// As a 32-bit program does it. The argument lies below 4 GiB: the probe is linked so.
static int lower_as_32_bit(void) {
  static const uint32_t none[2];
  long result;
  __asm__ volatile("int $0x80"
                   : "=a"(result)
                   : "a"(75), "b"(RLIMIT_CORE), "c"((unsigned long)none)
                   : "memory", "r8", "r9", "r10", "r11");
  return (int)result;
}
#else
static int lower_as_32_bit(void) { return 0; }
#endif

// With 0, and in whatever way, a program in core_pattern gets to see a dump; with 1 it does not (core(5)).
static int changed_limit(void) {
  struct rlimit before, after, values[] = {{0, 1}, {0, 0}, {RLIM_INFINITY, RLIM_INFINITY}};
  getrlimit(RLIMIT_CORE, &before);
  for (size_t n = 0; n < sizeof values / sizeof *values; n++) {
    syscall(SYS_setrlimit, RLIMIT_CORE, &values[n]);
    prlimit(0, RLIMIT_CORE, &values[n], NULL);
    prlimit(getpid(), RLIMIT_CORE, &values[n], &after);
    lower_as_32_bit();
    getrlimit(RLIMIT_CORE, &after);
    if (after.rlim_cur != before.rlim_cur || after.rlim_max != before.rlim_max) return 0;
  }
  return EPERM;
}

static void no_limit(void) {
  struct rlimit all = {RLIM_INFINITY, RLIM_INFINITY};
  setrlimit(RLIMIT_CORE, &all);
}

static void core_dump(void) {
  struct rlimit limit;
  getrlimit(RLIMIT_CORE, &limit);
  begin("core");
  name("limit"), say("[%lld,%lld]", (long long)limit.rlim_cur, (long long)limit.rlim_max);
  errno = in_child(changed_limit), outcome("changed", errno == 0 ? 0 : -1);
  pid_t child = fork();
  if (child == 0) {
    no_limit();
    prctl(PR_SET_DUMPABLE, 1, 0, 0, 0);
    if (chdir(directory_of_child) != 0) _exit(1);
    signal(SIGABRT, SIG_DFL);
    abort();
  }
  int status = 0;
  waitpid(child, &status, 0);
  name("dumped"), say(WIFSIGNALED(status) && WCOREDUMP(status) ? "true" : "false");
  end();
  char path[4096];
  snprintf(path, sizeof path, "%s/core", directory_of_child);
  unlink(path);
  snprintf(path, sizeof path, "%s/core.%d", directory_of_child, (int)child);
  unlink(path);
}

static int asleep(void *unused) {
  (void)unused;
  pause();
  return 0;
}

// How many processes can be made, up to PROCESSES. They share this one's memory, so they cost little.
static void processes(void) {
  static char stacks[PROCESSES][4096] __attribute__((aligned(16)));
  pid_t made[PROCESSES];
  int count = 0;
  while (count < PROCESSES) {
    made[count] = clone(asleep, stacks[count] + sizeof stacks[count], CLONE_VM | SIGCHLD, NULL);
    if (made[count] < 0) break;
    count++;
  }
  for (int n = 0; n < count; n++) kill(made[n], SIGKILL);
  for (int n = 0; n < count; n++) waitpid(made[n], NULL, __WALL);
  name("processes"), say("%d", count);
}

/* SIGUSR1 is waited for, never delivered; to catch it is how the test knows that it may send it. */
static void take(int number) { (void)number; }

int main(int argc, char **argv) {
  // The kernel gives an emulator the path of its program before the words.
  if (argc > 1 && argv[1][0] == '/') argv++, argc--;
  if (argc != 5 && argc != 6) return 2;
  directory_of_child = argv[4];
  sigset_t seen;
  sigemptyset(&seen);
  sigaddset(&seen, SIGUSR1);
  sigprocmask(SIG_BLOCK, &seen, NULL);
  signal(SIGUSR1, take);
  say("kiln-probe {");
  name("door"), quoted(argv[1]);
  descriptors();
  capabilities();
  name("noNewPrivileges"), say("%d", prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0));
  name("seccomp"), say("%d", prctl(PR_GET_SECCOMP, 0, 0, 0, 0));
  ids();
  name("environment"), say(getenv("KILN_TEST_CALLER") == NULL ? "\"\"" : "\"KILN_TEST_CALLER\"");
  namespaces();
  fresh_namespaces();
  calls(argv[4]);
  sockets();
  mounts();
  host_files();
  network(argv[2], atoi(argv[3]));
  files();
  core_dump();
  processes();
  shares();
  end();
  // The test has seen its control groups from the host. It sees none of a machine, and says not to wait.
  const struct timespec patience = {.tv_sec = argc == 6 ? atoi(argv[5]) : 30};
  sigtimedwait(&seen, NULL, &patience);
  say("\n");
  for (size_t written = 0; written < used;) {
    ssize_t n = write(1, text + written, used - written);
    if (n < 0) return 1;
    written += (size_t)n;
  }
  return 0;
}
