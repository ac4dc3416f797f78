// SPDX-License-Identifier: Apache-2.0
// probe VERB…: one line for each: verb, outcome, errno. Each runs in a child of its own.
#define _GNU_SOURCE
#include "probe.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

static const struct verb *const tables[] = {kernel_verbs, process_verbs, file_verbs, network_verbs,
                                            limit_verbs};

enum outcome by_result(long result) { return result < 0 ? STOPPED : THROUGH; }

enum outcome read_something(const char *path) {
  char bytes[4096];
  int fd = open(path, O_RDONLY);
  if (fd < 0) return STOPPED;
  ssize_t n = read(fd, bytes, sizeof bytes);
  if (n > 0) return THROUGH;
  if (n == 0) errno = ENODATA;
  return STOPPED;
}

enum outcome write_something(const char *path, const char *text) {
  int fd = open(path, O_WRONLY);
  if (fd < 0) return STOPPED;
  return by_result(write(fd, text, strlen(text)));
}

static const struct verb *find(const char *name) {
  for (size_t i = 0; i < sizeof tables / sizeof *tables; i++)
    for (const struct verb *verb = tables[i]; verb->name != NULL; verb++)
      if (strcmp(verb->name, name) == 0) return verb;
  return NULL;
}

// The outcome and errno come through a pipe: a filter may kill the child.
static void attempt(const struct verb *verb) {
  struct {
    enum outcome outcome;
    int error;
  } report = {STOPPED, 0};
  int ends[2];
  if (pipe(ends) != 0) return;
  pid_t child = fork();
  if (child == 0) {
    close(ends[0]);
    alarm(20);
    errno = 0;
    report.outcome = verb->try();
    report.error = errno;
    if (write(ends[1], &report, sizeof report) != sizeof report) _exit(1);
    _exit(0);
  }
  close(ends[1]);
  int status = 0;
  char how[64] = "killed";
  if (read(ends[0], &report, sizeof report) == sizeof report)
    snprintf(how, sizeof how, "%s", report.outcome == THROUGH ? "" : strerrorname_np(report.error));
  close(ends[0]);
  waitpid(child, &status, 0);
  static const char *const names[] = {"through", "stopped", "absent"};
  printf("%s\t%s\t%s\n", verb->name, names[report.outcome], how);
  fflush(stdout);
}

int main(int argc, char **argv) {
  if (argc == 1)
    for (size_t i = 0; i < sizeof tables / sizeof *tables; i++)
      for (const struct verb *verb = tables[i]; verb->name != NULL; verb++) puts(verb->name);
  for (int i = 1; i < argc; i++) {
    const struct verb *verb = find(argv[i]);
    if (verb == NULL) {
      fprintf(stderr, "no such verb: %s\n", argv[i]);
      return 2;
    }
    if (strncmp(argv[i], "am-i-", 5) == 0) verb->try(); // tells by its exit status
    attempt(verb);
  }
  return 0;
}
