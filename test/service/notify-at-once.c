// SPDX-License-Identifier: Apache-2.0
// Tells its service manager that it is ready before it does anything else, and stays.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

int main(void) {
  static const char ready[] = "READY=1";
  const char *path = getenv("NOTIFY_SOCKET");
  struct sockaddr_un address = {.sun_family = AF_UNIX};
  if (path == NULL || strlen(path) >= sizeof address.sun_path) return 2;
  strcpy(address.sun_path, path);
  int fd = socket(AF_UNIX, SOCK_DGRAM, 0);
  if (sendto(fd, ready, strlen(ready), 0, (struct sockaddr *)&address, sizeof address) < 0) {
    perror(path);
    return 1;
  }
  for (;;) pause();
}
