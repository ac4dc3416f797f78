// SPDX-License-Identifier: Apache-2.0
// Pid 1 of a bare guest, which kiln's machines are held against: a virtiofs root, and shell scripts that come by the
// port. What a script writes goes to the port as it is; its status follows, one byte.
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/wait.h>
#include <unistd.h>

#include "stage0.h"

#define ROOT SHARES "/root"

void say(const char *what) { printf("bare guest: %s: %s\n", what, strerror(errno)); }

void power_off(void) {
  reboot(RB_POWER_OFF);
  for (;;) pause();
}

static _Noreturn void run_script(int port, const char *script) {
  char *argv[] = {"sh", "-c", (char *)script, NULL};
  char *environment[] = {"PATH=/usr/local/bin:/usr/bin:/bin", "HOME=/tmp", NULL};
  int null = open("/dev/null", O_RDWR);
  if (chroot(ROOT) != 0 || chdir("/tmp") != 0 || dup2(null, 0) < 0 || dup2(port, 1) < 0) _exit(126);
  execve("/bin/sh", argv, environment);
  _exit(127);
}

int main(void) {
  static char script[4096];
  size_t have = 0;
  int port = boot();
  fcntl(port, F_SETFL, fcntl(port, F_GETFL) & ~O_NONBLOCK);
  if (mount("/dev", ROOT "/dev", NULL, MS_BIND, NULL) != 0 || mount("proc", ROOT "/proc", "proc", 0, NULL) != 0 ||
      mount(SHARES "/bind", ROOT "/mnt", NULL, MS_BIND, NULL) != 0 ||
      mount("tmpfs", ROOT "/tmp", "tmpfs", 0, "mode=1777") != 0)
    say("mount");
  if (write(port, "", 1) != 1) power_off();
  for (;;) {
    ssize_t n = read(port, script + have, sizeof script - have);
    if (n <= 0) power_off(); // the bench has ended
    have += (size_t)n;
    if (script[have - 1] != '\0') continue;
    have = 0;
    int status = 0;
    pid_t pid = fork();
    if (pid == 0) run_script(port, script);
    if (pid > 0) waitpid(pid, &status, 0);
    unsigned char word = (unsigned char)WEXITSTATUS(status);
    if (write(port, &word, 1) != 1) power_off();
  }
}
