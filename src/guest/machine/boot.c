// SPDX-License-Identifier: Apache-2.0
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "stage0.h"

#define MODULES "/modules"
#define COMPRESSED 4 // MODULE_INIT_COMPRESSED_FILE
#define PORT_MS 10000

static void mount_at(const char *type, const char *path, unsigned long flags, const char *options) {
  if (mkdir(path, 0755) != 0 && errno != EEXIST) say(path);
  if (mount(type, path, type, flags, options) != 0) say(path);
}

static void load(const char *folder, const char *name) {
  char path[512];
  snprintf(path, sizeof path, "%s/%s", folder, name);
  const char *end = strrchr(name, '.');
  int flags = end != NULL && strcmp(end, ".ko") != 0 ? COMPRESSED : 0;
  int fd = open(path, O_RDONLY | O_CLOEXEC);
  if (fd < 0 || (syscall(SYS_finit_module, fd, "", flags) != 0 && errno != EEXIST)) say(path);
  if (fd >= 0) close(fd);
  unlink(path);
}

// Their names begin with the order in which they are to be loaded.
void load_modules(const char *folder) {
  struct dirent **found;
  int count = scandir(folder, &found, NULL, alphasort);
  for (int i = 0; i < count; i++) {
    if (found[i]->d_name[0] != '.') load(folder, found[i]->d_name);
    free(found[i]);
  }
  if (count >= 0) free(found);
}

static int is_ours(const char *device) {
  char path[300], name[64] = {0};
  snprintf(path, sizeof path, "/sys/class/virtio-ports/%s/name", device);
  int fd = open(path, O_RDONLY | O_CLOEXEC);
  if (fd < 0) return 0;
  ssize_t n = read(fd, name, sizeof name - 1);
  close(fd);
  return n > 0 && strncmp(name, PORT_NAME "\n", sizeof PORT_NAME) == 0;
}

static int find_port(void) {
  DIR *ports = opendir("/sys/class/virtio-ports");
  int fd = -1;
  struct dirent *entry;
  while (fd < 0 && ports != NULL && (entry = readdir(ports)) != NULL) {
    char path[300];
    if (entry->d_name[0] == '.' || !is_ours(entry->d_name)) continue;
    snprintf(path, sizeof path, "/dev/%s", entry->d_name);
    fd = open(path, O_RDWR | O_CLOEXEC | O_NONBLOCK);
  }
  if (ports != NULL) closedir(ports);
  return fd;
}

int boot(void) {
  unsigned long closed = MS_NOSUID | MS_NODEV | MS_NOEXEC;
  mount_at("proc", "/proc", closed, NULL);
  mount_at("sysfs", "/sys", closed, NULL);
  mount_at("devtmpfs", "/dev", MS_NOSUID | MS_NOEXEC, NULL);
  mount_at("cgroup2", CGROUPS, closed, NULL);
  load_modules(MODULES);
  int port = -1;
  for (int i = 0; port < 0 && i < PORT_MS; i++) {
    if (i > 0) nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
    port = find_port();
  }
  if (port < 0) {
    say("there is no port " PORT_NAME);
    power_off();
  }
  if (mkdir(SHARES, 0755) != 0 || mount(PORT_TAG, SHARES, "virtiofs", MS_NOSUID | MS_NODEV, NULL) != 0)
    say(SHARES);
  return port;
}
