#include <stdio.h>
#include <unistd.h>

// Prints what a compiler saw and what a running program sees: the quickstart compiles this in one
// sandbox and runs the result in another.
int main(void) {
  char host[65] = "?";
  gethostname(host, sizeof host - 1);
  printf("Hello from %s: compiled by gcc %s, running as uid %d, pid %d\n", host, __VERSION__,
         (int)getuid(), (int)getpid());
  return 0;
}
