// Holds a lease (fcntl(2)) on the file that it is told: whoever opens that waits for its end.
#define _GNU_SOURCE
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <unistd.h>

int main(int argc, char **argv) {
  signal(SIGIO, SIG_IGN);
  int fd = open(argv[argc - 1], O_RDONLY | O_CREAT, 0600);
  if (fd < 0 || fcntl(fd, F_SETLEASE, F_WRLCK) != 0) {
    perror(argv[argc - 1]);
    return 1;
  }
  puts("held");
  fflush(stdout);
  for (;;) pause();
}
