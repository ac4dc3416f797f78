// SPDX-License-Identifier: Apache-2.0
// Connects to the abstract socket argv[1], which is the host's, and to one of its own. Prints
// "host=ERRNO own=ERRNO", 0 for no error.
#define _GNU_SOURCE
#include <errno.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

static struct sockaddr_un address = {.sun_family = AF_UNIX};

static int reach(socklen_t length) {
  int fd = socket(AF_UNIX, SOCK_STREAM, 0);
  return fd >= 0 && connect(fd, (struct sockaddr *)&address, length) == 0 ? 0 : errno;
}

int main(int argc, char **argv) {
  if (argc != 2) return 2;
  strncpy(address.sun_path + 1, argv[1], sizeof address.sun_path - 2);
  int host = reach((socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + strlen(argv[1])));
  int listener = socket(AF_UNIX, SOCK_STREAM, 0), status = 0;
  // The kernel chooses a name: sandboxes with the host's network share all names (unix(7), autobind).
  socklen_t length = sizeof address;
  if (bind(listener, (struct sockaddr *)&address, sizeof address.sun_family) != 0 ||
      listen(listener, 1) != 0 || getsockname(listener, (struct sockaddr *)&address, &length) != 0) {
    return 1;
  }
  pid_t child = fork(); // another process of the sandbox
  if (child == 0) _exit(reach(length));
  waitpid(child, &status, 0);
  printf("host=%s own=%s\n", host == 0 ? "0" : strerrorname_np(host),
         WEXITSTATUS(status) == 0 ? "0" : strerrorname_np(WEXITSTATUS(status)));
  return 0;
}
