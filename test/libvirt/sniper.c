// SPDX-License-Identifier: Apache-2.0
// Kills controllers of libvirt's (libvirt_lxc) in the moment they have made their container's first
// process, as the kernel may when memory is short: `sniper COUNT PREFIX`, of domains called PREFIX….
// Nothing slower hits that moment. Prints a line for each.
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static int read_file(const char *path, char *text, size_t size) {
  int fd = open(path, O_RDONLY);
  ssize_t n = fd < 0 ? -1 : read(fd, text, size - 1);
  if (fd >= 0) close(fd);
  text[n > 0 ? n : 0] = 0;
  return (int)n;
}

static int is_controller(int pid, const char *prefix) {
  char path[64], command[256];
  snprintf(path, sizeof path, "/proc/%d/cmdline", pid);
  int length = read_file(path, command, sizeof command);
  const char *name = command + strlen(command) + 1; // --name
  if (length <= 0 || strstr(command, "libvirt_lxc") == NULL || name >= command + length) return 0;
  name += strlen(name) + 1;
  return name < command + length && strncmp(name, prefix, strlen(prefix)) == 0;
}

// A process that is new is given this many looks to become a controller, or to make its child.
#define LOOKS 20000

static int shoot(int pid, const char *prefix) {
  char path[96], children[64];
  snprintf(path, sizeof path, "/proc/%d/task/%d/children", pid, pid);
  for (int look = 0; look < LOOKS; look++) {
    if (read_file(path, children, sizeof children) < 0) return 0;
    if (children[0] != 0 && is_controller(pid, prefix)) return kill(pid, SIGKILL) == 0;
    if (look > 200 && look % 50 == 0 && !is_controller(pid, prefix)) return 0;
  }
  return 0;
}

int main(int argc, char **argv) {
  int left = argc == 3 ? atoi(argv[1]) : 0, last = getpid();
  while (left > 0) {
    char text[128];
    read_file("/proc/loadavg", text, sizeof text); // the last pid given is its last word
    const char *word = strrchr(text, ' ');
    int newest = word == NULL ? last : atoi(word + 1);
    for (int pid = last + 1; pid <= newest && left > 0; pid++)
      if (shoot(pid, argv[2])) {
        printf("%d\n", pid);
        fflush(stdout);
        left--;
      }
    last = newest;
  }
  return 0;
}
