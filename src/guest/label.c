// SPDX-License-Identifier: Apache-2.0
#define _GNU_SOURCE
#include "label.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "facts.h"
#include "faults.h"

#define LABEL_MAX 1024

static struct labels {
  uint32_t model;
  char init[LABEL_MAX], command[LABEL_MAX], files[LABEL_MAX];
} labels;

static int attribute(const char *name, int flags) {
  // Where several modules are active, `attr/current` is the first one's.
  char path[64];
  snprintf(path, sizeof path, "/proc/self/attr/apparmor/%s", name);
  int fd = labels.model == LABEL_APPARMOR ? open(path, flags | O_CLOEXEC) : -1;
  if (fd >= 0) return fd;
  snprintf(path, sizeof path, "/proc/self/attr/%s", name);
  return open(path, flags | O_CLOEXEC);
}

// selinux(8): the context itself; apparmor: a command of aa_change_profile(2).
static int become(const char *label) {
  char text[LABEL_MAX + 16];
  snprintf(text, sizeof text, "%s%s", labels.model == LABEL_APPARMOR ? "changeprofile " : "", label);
  int fd = attribute("current", O_WRONLY);
  if (fd < 0) return -1;
  ssize_t written = write(fd, text, strlen(text));
  int error = errno;
  close(fd);
  errno = error;
  return written == (ssize_t)strlen(text) ? 0 : -1;
}

static int copy(char *out, const struct field *field, size_t *at) {
  const char *string = field_string(field, *at);
  if (string == NULL || strlen(string) >= LABEL_MAX) {
    errno = EBADMSG;
    return -1;
  }
  strcpy(out, string);
  *at += strlen(string) + 1;
  return 0;
}

int label_setup(const struct message *message) {
  static int prepared;
  static struct labels wanted;
  struct field field;
  size_t offset = 0, at = 4;
  while (field_next(message, &offset, &field) > 0) {
    if (field.tag != SETUP_LABEL) continue;
    if (field_u32(&field, 0, &wanted.model) != 0 || copy(wanted.init, &field, &at) != 0 ||
        copy(wanted.command, &field, &at) != 0 || copy(wanted.files, &field, &at) != 0)
      return -1;
    break;
  }
  // What the init is, and what it has made, is not to be changed any more.
  if (prepared && (wanted.model != labels.model || strcmp(wanted.init, labels.init) != 0 ||
                   strcmp(wanted.files, labels.files) != 0)) {
    errno = EBADMSG;
    return -1;
  }
  labels = wanted;
  int becomes = !prepared && labels.model == LABEL_APPARMOR && !fault("init-label");
  prepared = 1;
  memset(&wanted, 0, sizeof wanted);
  return becomes ? become(labels.init) : 0;
}

const char *label_files(void) { return labels.files[0] == 0 ? NULL : labels.files; }

int label_enter(void) {
  if (labels.command[0] == 0 || fault("label")) return 0;
  return become(labels.command);
}

// Into `label`, of LABEL_MAX bytes: 0, or -1 where there is none.
static int current(char *label) {
  int fd = attribute("current", O_RDONLY);
  if (fd < 0) return -1;
  ssize_t length = read(fd, label, LABEL_MAX - 1);
  close(fd);
  if (length <= 0) return -1;
  label[length] = 0;
  label[strcspn(label, "\n")] = 0;
  return 0;
}

void label_measure(const char *name, char *facts, size_t size) {
  char label[LABEL_MAX];
  if (current(label) == 0) facts_add(facts, size, "%s=%s\n", name, label);
}

const char *label_missing(void) {
  char label[LABEL_MAX] = "";
  size_t length = strlen(labels.command);
  if (length == 0 || fault("rights-unchecked")) return NULL;
  // AppArmor adds its mode: `NAME (enforce)`, which kiln looks at.
  if (current(label) == 0 && strncmp(label, labels.command, length) == 0 &&
      (label[length] == 0 ||
       (labels.model == LABEL_APPARMOR && strncmp(label + length, " (", 2) == 0)))
    return NULL;
  return labels.model == LABEL_APPARMOR ? "apparmor" : "selinux";
}
