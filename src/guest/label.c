// SPDX-License-Identifier: Apache-2.0
#include "label.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "measure.h"

#define LABEL_MAX 1024

static struct labels {
  uint32_t module;
  char init[LABEL_MAX], command[LABEL_MAX], files[LABEL_MAX];
} labels;

static int attribute(const char *name, int flags) {
  // If several modules are active, `attr/current` belongs to the first.
  char path[64];
  snprintf(path, sizeof path, "/proc/self/attr/apparmor/%s", name);
  int fd = labels.module == LABEL_APPARMOR ? open(path, flags | O_CLOEXEC) : -1;
  if (fd >= 0) return fd;
  snprintf(path, sizeof path, "/proc/self/attr/%s", name);
  return open(path, flags | O_CLOEXEC);
}

// selinux(8): the context itself; apparmor: a command of aa_change_profile(2).
static int become(const char *label) {
  char text[LABEL_MAX + 16];
  snprintf(text, sizeof text, "%s%s", labels.module == LABEL_APPARMOR ? "changeprofile " : "", label);
  int fd = attribute("current", O_WRONLY);
  if (fd < 0) return -1;
  return closing(fd, write(fd, text, strlen(text)) == (ssize_t)strlen(text) ? 0 : -1);
}

int label_setup(const struct message *message) {
  static int prepared;
  struct labels wanted = {0};
  struct field field;
  if (field_find(message, FIELD_LABEL, &field)) {
    struct wire_label label = wire_get_label(&field);
    wanted.module = label.module;
    snprintf(wanted.init, sizeof wanted.init, "%s", label.init);
    snprintf(wanted.command, sizeof wanted.command, "%s", label.command);
    snprintf(wanted.files, sizeof wanted.files, "%s", label.files);
  }
  // The init's own label and that of its files must not change any more.
  if (prepared && (wanted.module != labels.module || strcmp(wanted.init, labels.init) != 0 ||
                   strcmp(wanted.files, labels.files) != 0))
    return failing(EBADMSG);
  labels = wanted;
  int becomes = !prepared && labels.module == LABEL_APPARMOR && !fault("init-label");
  prepared = 1;
  return becomes ? become(labels.init) : 0;
}

const char *label_files(void) { return labels.files[0] == 0 ? NULL : labels.files; }

int label_enter(void) {
  if (labels.command[0] == 0 || fault("label")) return 0;
  return become(labels.command);
}

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

uint32_t label_missing(void) {
  char label[LABEL_MAX] = "";
  size_t length = strlen(labels.command);
  if (length == 0 || fault("rights-unchecked")) return 0;
  // AppArmor appends its mode, `NAME (enforce)`, which kiln checks.
  if (current(label) == 0 && strncmp(label, labels.command, length) == 0 &&
      (label[length] == 0 ||
       (labels.module == LABEL_APPARMOR && strncmp(label + length, " (", 2) == 0)))
    return 0;
  return labels.module == LABEL_APPARMOR ? FAIL_HAS_APPARMOR : FAIL_HAS_SELINUX;
}
