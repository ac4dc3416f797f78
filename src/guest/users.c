// SPDX-License-Identifier: Apache-2.0
#include "confine.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "protocol.h"

static char text[1 << 20];

// Reads a whole file, up to the size of the buffer. A longer file is cut at its last whole line.
static int load(const char *path) {
  text[0] = 0;
  int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (fd < 0) return -1;
  struct stat st;
  size_t length = 0;
  if (fstat(fd, &st) == 0 && S_ISREG(st.st_mode)) {
    ssize_t n;
    while (length < sizeof text - 1 && (n = read(fd, text + length, sizeof text - 1 - length)) > 0)
      length += (size_t)n;
  }
  close(fd);
  text[length] = 0;
  if (length == sizeof text - 1) {
    char *last = strrchr(text, '\n');
    if (last != NULL) last[1] = 0;
  }
  return 0;
}

static int next_line(char **rest, char *columns[], int most) {
  if (*rest == NULL || **rest == 0) return -1;
  char *line = strsep(rest, "\n");
  int count = 0;
  while (count < most && (columns[count] = strsep(&line, ":")) != NULL) count++;
  return count;
}

static int number(const char *s, unsigned *out) {
  if (*s < '0' || *s > '9') return 0;
  char *end;
  errno = 0;
  unsigned long value = strtoul(s, &end, 10);
  if (*end != 0 || errno != 0 || value >= 0xffffffffUL) return 0;
  *out = (unsigned)value;
  return 1;
}

static void copy(char *to, size_t size, const char *from) { snprintf(to, size, "%s", from); }

int user_find(const char *spec, struct user *out) {
  char buffer[256];
  if (strlen(spec) >= sizeof buffer) return failing(ENAMETOOLONG);
  copy(buffer, sizeof buffer, spec);
  char *group = strchr(buffer, ':');
  if (group != NULL) *group++ = 0;
  memset(out, 0, sizeof *out);
  copy(out->home, sizeof out->home, "/");

  unsigned id = 0;
  int numeric = number(buffer, &id), found = 0;
  char *columns[8], *rest = text;
  load("/etc/passwd");
  for (int n; !found && (n = next_line(&rest, columns, 7)) >= 0;) {
    unsigned uid, gid;
    if (n < 6 || !number(columns[2], &uid) || !number(columns[3], &gid)) continue;
    if (numeric ? uid != id : strcmp(columns[0], buffer) != 0) continue;
    found = 1;
    out->uid = uid;
    out->gid = gid;
    copy(out->name, sizeof out->name, columns[0]);
    if (columns[5][0] == '/') copy(out->home, sizeof out->home, columns[5]);
  }
  if (!found) {
    // An id needs no entry. A name does, but root exists in an empty image too.
    if (!numeric && strcmp(buffer, "root") != 0) return failing(ENOENT);
    out->uid = out->gid = id;
  }

  unsigned gid;
  int group_done = group == NULL;
  if (group != NULL && number(group, &gid)) {
    out->gid = gid;
    group_done = 1;
  }
  rest = text;
  load("/etc/group");
  for (int n; (n = next_line(&rest, columns, 4)) >= 0;) {
    if (n < 3 || !number(columns[2], &gid)) continue;
    if (!group_done && strcmp(columns[0], group) == 0) {
      out->gid = gid;
      group_done = 1;
    }
    char *members = n > 3 ? columns[3] : NULL, *member;
    while (out->name[0] != 0 && (member = strsep(&members, ",")) != NULL)
      if (strcmp(member, out->name) == 0 && out->ngroups < GROUPS_MAX)
        out->groups[out->ngroups++] = gid;
  }
  return group_done ? 0 : failing(ENOENT);
}
