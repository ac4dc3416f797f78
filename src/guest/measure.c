// SPDX-License-Identifier: Apache-2.0
#define _GNU_SOURCE
#include "measure.h"

#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static char text[64 << 10];

static int load(int fd) {
  size_t length = 0;
  ssize_t n;
  while (length < sizeof text - 1 && (n = read(fd, text + length, sizeof text - 1 - length)) > 0)
    length += (size_t)n;
  text[length] = 0;
  return length == sizeof text - 1 ? -1 : 0;
}

static int load_path(const char *path) {
  int fd = open(path, O_RDONLY | O_CLOEXEC);
  if (fd < 0) return -1;
  int result = load(fd);
  close(fd);
  return result;
}

__attribute__((format(printf, 3, 4))) static void add(char *facts, size_t size, const char *format,
                                                      ...) {
  size_t used = strlen(facts);
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(facts + used, size - used, format, arguments);
  va_end(arguments);
}

static int measure_ids(char *facts, size_t size) {
  unsigned inside, outside, count;
  if (load_path("/proc/self/uid_map") != 0 ||
      sscanf(text, "%u %u %u", &inside, &outside, &count) != 3)
    return -1;
  add(facts, size, "uid_map=%u %u %u\n", inside, outside, count);
  return inside == 0 && outside == 0 ? -1 : 0; // container root must not be the host's root
}

static int measure_network(int expected, char *facts, size_t size) {
  if (load_path("/proc/self/net/dev") != 0) return -1;
  int foreign = 0;
  char *rest = text, *line;
  for (int row = 0; (line = strsep(&rest, "\n")) != NULL; row++) {
    char *colon = strchr(line, ':');
    if (row < 2 || colon == NULL) continue;
    *colon = 0;
    while (*line == ' ') line++;
    add(facts, size, "interface=%s\n", line);
    if (strcmp(line, "lo") != 0) foreign = 1;
  }
  return foreign && !expected ? -1 : 0;
}

// No mount may show the host's cgroup tree, its devices or its /sys: only types we mount or were
// handed. Every mount is reported.
static int measure_mounts(char *facts, size_t size) {
  static const char *const forbidden[] = {"cgroup", "cgroup2", "sysfs", "devtmpfs", "securityfs",
                                          "debugfs", "tracefs", "bpf", "fuse.libvirt_lxc"};
  if (load_path("/proc/self/mountinfo") != 0) return -1;
  int result = 0;
  char *rest = text, *line;
  while ((line = strsep(&rest, "\n")) != NULL) {
    char point[4096], options[256], type[64];
    char *tail = strstr(line, " - ");
    if (tail == NULL || sscanf(tail, " - %63s", type) != 1 ||
        sscanf(line, "%*s %*s %*s %*s %4095s %255s", point, options) != 2)
      continue;
    add(facts, size, "mount=%s %s %s\n", type, options, point);
    for (size_t i = 0; i < sizeof forbidden / sizeof *forbidden; i++)
      if (strcmp(type, forbidden[i]) == 0) result = -1;
  }
  return result;
}

static void measure_namespaces(char *facts, size_t size) {
  static const char *const names[] = {"cgroup", "ipc", "mnt", "net", "pid", "time", "user", "uts"};
  for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
    char path[64], link[64];
    snprintf(path, sizeof path, "/proc/self/ns/%s", names[i]);
    ssize_t n = readlink(path, link, sizeof link - 1);
    if (n < 0) continue;
    link[n] = 0;
    add(facts, size, "ns=%s\n", link);
  }
}

int measure_box(int network_expected, char *facts, size_t size, const char **problem) {
  measure_namespaces(facts, size);
  *problem = "user namespace: container root is the host's root";
  if (measure_ids(facts, size) != 0) return -1;
  *problem = "network: an interface that was not asked for is in the box";
  if (measure_network(network_expected, facts, size) != 0) return -1;
  *problem = "pid namespace: the init is not pid 1 of a nested one";
  if (getpid() != 1) return -1;
  *problem = "mounts: a file system of the host's (cgroup, sysfs, devices) is visible";
  if (measure_mounts(facts, size) != 0) return -1;
  *problem = NULL;
  return 0;
}

void measure_process(int status_fd, char *facts, size_t size) {
  static const char *const wanted[] = {"Uid:",    "Gid:",    "Groups:", "CapInh:",     "CapPrm:",
                                       "CapEff:", "CapBnd:", "CapAmb:", "NoNewPrivs:", "Seccomp:"};
  if (lseek(status_fd, 0, SEEK_SET) != 0 || load(status_fd) != 0) return;
  char *rest = text, *line;
  while ((line = strsep(&rest, "\n")) != NULL)
    for (size_t i = 0; i < sizeof wanted / sizeof *wanted; i++) {
      size_t length = strlen(wanted[i]);
      if (strncmp(line, wanted[i], length) != 0) continue;
      const char *value = line + length;
      while (*value == '\t' || *value == ' ') value++;
      add(facts, size, "%.*s=%s\n", (int)length - 1, wanted[i], value);
    }
}
