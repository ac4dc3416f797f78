// SPDX-License-Identifier: Apache-2.0
#include "measure.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <linux/nsfs.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/statvfs.h>
#include <sys/sysmacros.h>
#include <time.h>
#include <unistd.h>

#include "mounts.h"

#define MARKS_MAX 16

void facts_add(char *facts, size_t size, const char *format, ...) {
  size_t used = strlen(facts);
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(facts + used, size - used, format, arguments);
  va_end(arguments);
}

static struct {
  const char *name;
  int64_t at;
} marks[MARKS_MAX];
static unsigned marked;

void mark(const char *name) {
  // The monotonic clock differs here: the sandbox has a time namespace of its own.
  struct timespec t;
  if (marked == MARKS_MAX || clock_gettime(CLOCK_REALTIME, &t) != 0) return;
  marks[marked].name = name;
  marks[marked++].at = (int64_t)t.tv_sec * 1000000 + t.tv_nsec / 1000;
}

void marks_begin(void) {
  marked = 0;
  mark("begin");
}

void marks_append(char *facts, size_t size) {
  for (unsigned i = 0; i < marked; i++)
    facts_add(facts, size, "mark=%s %lld\n", marks[i].name, (long long)marks[i].at);
}

static char text[64 << 10];

static int load(const char *path) {
  int fd = open(path, O_RDONLY | O_CLOEXEC);
  if (fd < 0) return -1;
  size_t length = 0;
  ssize_t n;
  while (length < sizeof text - 1 && (n = read(fd, text + length, sizeof text - 1 - length)) > 0)
    length += (size_t)n;
  text[length] = 0;
  close(fd);
  return length == sizeof text - 1 ? -1 : 0;
}

static int measure_ids(const char *map, char *facts, size_t size) {
  char path[32];
  unsigned inside, outside, count;
  snprintf(path, sizeof path, "/proc/self/%s", map);
  if (load(path) != 0 || sscanf(text, "%u %u %u", &inside, &outside, &count) != 3) return -1;
  facts_add(facts, size, "%s=%u %u %u\n", map, inside, outside, count);
  return inside == 0 && outside == 0 ? -1 : 0;
}

static int measure_network(int expected, char *facts, size_t size) {
  if (load("/proc/self/net/dev") != 0) return -1;
  int foreign = 0;
  char *rest = text, *line;
  for (int row = 0; (line = strsep(&rest, "\n")) != NULL; row++) {
    char *colon = strchr(line, ':');
    if (row < 2 || colon == NULL) continue;
    *colon = 0;
    while (*line == ' ') line++;
    facts_add(facts, size, "interface=%s\n", line);
    if (strcmp(line, "lo") != 0) foreign = 1;
  }
  return foreign && !expected ? -1 : 0;
}

// A mask is /dev/null or an empty read-only directory.
int measure_masked(const char *path) {
  struct stat st;
  struct statvfs fs;
  if (stat(path, &st) != 0) return errno == ENOENT;
  if (S_ISCHR(st.st_mode)) return st.st_rdev == makedev(1, 3);
  return S_ISDIR(st.st_mode) && st.st_nlink == 2 && statvfs(path, &fs) == 0 &&
         (fs.f_flag & ST_RDONLY);
}

// No mount may show the host's cgroups, devices or /sys: only types that the init mounted or was handed.
static int measure_mounts(char *facts, size_t size) {
  static const char *const forbidden[] = {"cgroup", "cgroup2", "sysfs", "devtmpfs", "securityfs",
                                          "debugfs", "tracefs", "bpf", "fuse.libvirt_lxc"};
  if (load("/proc/self/mountinfo") != 0) return -1;
  int result = 0;
  char *rest = text, *line;
  while ((line = strsep(&rest, "\n")) != NULL) {
    char point[4096], options[256], type[64];
    char *tail = strstr(line, " - ");
    if (tail == NULL || sscanf(tail, " - %63s", type) != 1 ||
        sscanf(line, "%*s %*s %*s %*s %4095s %255s", point, options) != 2)
      continue;
    facts_add(facts, size, "mount=%s %s %s\n", type, options, point);
    for (size_t i = 0; i < sizeof forbidden / sizeof *forbidden; i++)
      if (strcmp(type, forbidden[i]) == 0) result = -1;
    if (strcmp(type, "devpts") == 0 && strstr(tail, ",max=" TERMINALS) == NULL) result = -1;
    if (fault("nosuid-unchecked")) continue;
    if (strstr(options, "nosuid") == NULL) result = -1;
    if (strstr(options, "nodev") == NULL && strncmp(point, "/dev/", 5) != 0 &&
        !(strncmp(point, "/proc/", 6) == 0 && measure_masked(point)))
      result = -1;
  }
  return result;
}

int measure_mounts_again(void) {
  char unread[1] = "";
  return measure_mounts(unread, sizeof unread) == 0 || fault("mounts-unchecked");
}

int measure_readonly(const char *path) {
  struct statvfs fs;
  return statvfs(path, &fs) == 0 ? (fs.f_flag & ST_RDONLY) != 0 : errno == ENOENT;
}

static int measure_limit(const struct wire_user_limit *limit, char *facts, size_t size) {
  char path[96];
  unsigned found;
  snprintf(path, sizeof path, "/proc/sys/user/%s", limit->name);
  if (load(path) != 0 || sscanf(text, "%u", &found) != 1) return -1;
  facts_add(facts, size, "user_limit=%s %u\n", limit->name, found);
  return found <= limit->most ? 0 : -1;
}

static int is_host_network = 1, has_host_files = 1;

int measure_host_network(void) { return is_host_network; }
int measure_host_files(void) { return has_host_files; }

// The sandbox's own network namespace belongs to its user namespace (ioctl_ns(2)); the host's does not.
static int owns_network(void) {
  int net = open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC), owner = -1;
  struct stat ours, its;
  if (net >= 0) owner = ioctl(net, NS_GET_USERNS);
  int owns = owner >= 0 && stat("/proc/self/ns/user", &ours) == 0 && fstat(owner, &its) == 0 &&
             ours.st_ino == its.st_ino && ours.st_dev == its.st_dev;
  if (owner >= 0) close(owner);
  if (net >= 0) close(net);
  return owns;
}

void measure_surroundings(const struct message *setup) {
  struct field field;
  size_t offset = 0;
  is_host_network = !owns_network();
  has_host_files = 0;
  while (field_next(setup, &offset, &field))
    if (field.tag == FIELD_BIND && wire_get_bind(&field).access == BIND_HOST) has_host_files = 1;
}

static int is_overlay(const char *path) {
  struct statfs fs;
  return statfs(path, &fs) == 0 && fs.f_type == OVERLAYFS_SUPER_MAGIC;
}

static int measure_setup(const struct message *setup, char *facts, size_t size,
                         struct failure *failure) {
  struct field field;
  size_t offset = 0;
  while (field_next(setup, &offset, &field)) {
    if (field.tag == FIELD_MASK) {
      const char *path = wire_get_mask(&field);
      if (!measure_masked(path)) return fail(failure, FAIL_UNMASKED, path);
      facts_add(facts, size, "mask=%s\n", path);
    } else if (field.tag == FIELD_READONLY) {
      const char *path = wire_get_readonly(&field);
      if (!measure_readonly(path)) return fail(failure, FAIL_WRITABLE, path);
      facts_add(facts, size, "readonly=%s\n", path);
    } else if (field.tag == FIELD_BIND) {
      struct wire_bind bind = wire_get_bind(&field);
      if (bind.access == BIND_COW) {
        int layered = is_overlay(bind.path);
        if (!layered && !fault("binds-unchecked")) return fail(failure, FAIL_WRITABLE_BIND, bind.path);
        if (layered) facts_add(facts, size, "layer=%s\n", bind.path);
      }
      if (bind.access != BIND_READONLY) continue;
      int closed = measure_readonly(bind.path);
      if (!closed && !fault("binds-unchecked")) return fail(failure, FAIL_WRITABLE_BIND, bind.path);
      if (closed) facts_add(facts, size, "bind_readonly=%s\n", bind.path);
    } else if (field.tag == FIELD_GUEST_BIND) {
      struct wire_guest_bind bind = wire_get_guest_bind(&field);
      int closed = measure_readonly(bind.path);
      // It is never more open than what it shows.
      if (!closed && (bind.readonly || measure_readonly(bind.source)) && !fault("binds-unchecked"))
        return fail(failure, FAIL_WRITABLE_BIND, bind.path);
      if (closed) facts_add(facts, size, "bind_readonly=%s\n", bind.path);
    } else if (field.tag == FIELD_USER_LIMIT) {
      struct wire_user_limit limit = wire_get_user_limit(&field);
      if (measure_limit(&limit, facts, size) != 0 && !fault("limits-unchecked"))
        return fail(failure, FAIL_NO_USER_LIMIT, limit.name);
    }
  }
  return 0;
}

static int is_ours(const char *name, dev_t device) {
  static const struct {
    const char *name;
    unsigned major, minor;
  } ours[] = {{"null", 1, 3},    {"zero", 1, 5}, {"full", 1, 7}, {"random", 1, 8},
              {"urandom", 1, 9}, {"tty", 5, 0}};
  for (size_t i = 0; i < sizeof ours / sizeof *ours; i++)
    if (strcmp(ours[i].name, name) == 0) return device == makedev(ours[i].major, ours[i].minor);
  return 0;
}

static int measure_devices(char *facts, size_t size) {
  DIR *directory = opendir("/dev");
  if (directory == NULL) return -1;
  int result = 0;
  struct dirent *entry;
  while ((entry = readdir(directory)) != NULL) {
    struct stat st;
    if (fstatat(dirfd(directory), entry->d_name, &st, AT_SYMLINK_NOFOLLOW) != 0 ||
        !(S_ISCHR(st.st_mode) || S_ISBLK(st.st_mode)))
      continue;
    if (!is_ours(entry->d_name, st.st_rdev) || S_ISBLK(st.st_mode)) result = -1;
    facts_add(facts, size, "device=%s\n", entry->d_name);
  }
  closedir(directory);
  return result;
}

static int is_alone(void) {
  DIR *directory = opendir("/proc");
  if (directory == NULL) return 0;
  int others = 0;
  struct dirent *entry;
  while ((entry = readdir(directory)) != NULL)
    if (entry->d_name[0] >= '1' && entry->d_name[0] <= '9' && strcmp(entry->d_name, "1") != 0)
      others++;
  closedir(directory);
  return others == 0;
}

// A process is at the root of its own cgroup namespace. That it is not the host's proves nothing.
int measure_hidden_cgroups(void) {
  if (load("/proc/self/cgroup") != 0) return access("/proc/self/cgroup", F_OK) != 0;
  char *rest = text, *line;
  while ((line = strsep(&rest, "\n")) != NULL) {
    const char *path = strrchr(line, ':');
    if (path != NULL && strcmp(path, ":/") != 0) return 0;
  }
  return 1;
}

static void measure_namespaces(char *facts, size_t size) {
  static const char *const names[] = {"cgroup", "ipc", "mnt", "net", "pid", "time", "user", "uts"};
  for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
    char path[64], link[64];
    snprintf(path, sizeof path, "/proc/self/ns/%s", names[i]);
    ssize_t n = readlink(path, link, sizeof link - 1);
    if (n < 0) continue;
    link[n] = 0;
    facts_add(facts, size, "ns=%s\n", link);
  }
}

int measure_sandbox(const struct message *setup, char *facts, size_t size, struct failure *failure) {
  measure_namespaces(facts, size);
  if (measure_ids("uid_map", facts, size) != 0 || measure_ids("gid_map", facts, size) != 0)
    return fail(failure, FAIL_OPEN_USERS, NULL);
  struct field wanted;
  if (measure_network(field_find(setup, FIELD_NETWORK, &wanted), facts, size) != 0)
    return fail(failure, FAIL_OPEN_NETWORK, NULL);
  if (getpid() != 1 || !is_alone()) return fail(failure, FAIL_OPEN_PIDS, NULL);
  if (!measure_hidden_cgroups() && !fault("cgroup-unchecked"))
    return fail(failure, FAIL_OPEN_CGROUPS, NULL);
  if (measure_mounts(facts, size) != 0 && !fault("mounts-unchecked"))
    return fail(failure, FAIL_OPEN_MOUNTS, NULL);
  if (measure_devices(facts, size) != 0) return fail(failure, FAIL_OPEN_DEVICES, NULL);
  return measure_setup(setup, facts, size, failure);
}
