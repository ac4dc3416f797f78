// SPDX-License-Identifier: Apache-2.0
// What kiln asks the machine itself: requests and answers as the init's, src/sandbox/wire/table.ts.
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <unistd.h>

#include "protocol.h"
#include "stage0.h"

static char facts[16 << 10];

static void add(const char *format, ...) {
  size_t used = strlen(facts);
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(facts + used, sizeof facts - used, format, arguments);
  va_end(arguments);
}

static void add_namespaces(void) {
  static const char *const names[] = {"cgroup", "ipc", "mnt", "net", "pid", "time", "user", "uts"};
  for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
    char path[64], link[64];
    snprintf(path, sizeof path, "/proc/self/ns/%s", names[i]);
    ssize_t n = readlink(path, link, sizeof link - 1);
    if (n < 0) continue;
    link[n] = 0;
    add("ns=%s\n", link);
  }
}

static void add_file(const char *name, const char *path) {
  char text[2048];
  int fd = open(path, O_RDONLY | O_CLOEXEC);
  if (fd < 0) return;
  ssize_t n = read(fd, text, sizeof text - 1);
  close(fd);
  if (n <= 0) return;
  text[n] = 0;
  text[strcspn(text, "\n")] = 0;
  add("%s=%s\n", name, text);
}

static void measure_machine(void) {
  struct utsname kernel;
  facts[0] = 0;
  add_namespaces();
  if (uname(&kernel) == 0) add("kernel=%s\nversion=%s\n", kernel.release, kernel.version);
  add_file("command_line", "/proc/cmdline");
  add_file("clock", "/sys/devices/system/clocksource/clocksource0/current_clocksource");
  add_file("random", "/sys/class/misc/hw_random/rng_current");
}

static int send_answer(struct writer *answer) {
  uint32_t length = (uint32_t)(answer->length - 8);
  memcpy(answer->data, &length, sizeof length);
  return message_hold(0, answer->data, answer->length);
}

static int tell_machine(uint32_t id) {
  measure_machine();
  struct writer *answer = answer_begin(MSG_MACHINE_FACTS);
  wire_put_id(answer, id);
  wire_put_facts(answer, facts);
  return send_answer(answer);
}

static int limit(uint32_t id, const struct message *message) {
  struct field field;
  struct writer *answer;
  if (!field_find(message, FIELD_MACHINE_LIMITS, &field)) return failing(EBADMSG);
  struct wire_machine_limits wanted = wire_get_machine_limits(&field);
  const char *failed = group_limit(&wanted);
  if (failed != NULL) {
    answer = answer_begin(MSG_FAILED);
    wire_put_id(answer, id);
    wire_put_failure(answer, (struct wire_failure){FAIL_MACHINE_LIMIT, (uint32_t)errno, 0, failed});
    return send_answer(answer);
  }
  answer = answer_begin(MSG_LIMITED);
  wire_put_id(answer, id);
  wire_put_machine_limits(answer, group_limits());
  return send_answer(answer);
}

pid_t orders_init;
static pid_t packer;
static uint32_t packer_id;

static int pack(uint32_t id, const struct message *message) {
  struct field field;
  if (!field_find(message, FIELD_PATTERNS, &field)) return failing(EBADMSG);
  int fd = passing_made();
  if (fd < 0 || packer != 0) return closing(fd, failing(EBADMSG));
  packer = pack_start(orders_init, field.data, field.length, fd);
  close(fd);
  packer_id = id;
  if (packer < 0) say("pack");
  return packer < 0 ? -1 : 0;
}

void order_ended(pid_t pid, int status) {
  if (pid != packer) return;
  packer = 0;
  struct writer *answer = answer_begin(MSG_DONE);
  wire_put_id(answer, packer_id);
  wire_put_value(answer, WIFEXITED(status) ? (uint32_t)WEXITSTATUS(status) : EPIPE);
  if (send_answer(answer) != 0) say("tell what was packed");
}

int tell_usage(void) {
  struct writer *answer = answer_begin(MSG_USED);
  wire_put_machine_usage(answer, group_usage());
  return send_answer(answer);
}

int order_obey(const struct frame *frame) {
  struct message message;
  if (message_take(frame->bytes, frame->length, &message) != 0) return failing(EBADMSG);
  struct field id;
  if (!field_find(&message, FIELD_ID, &id)) return failing(EBADMSG);
  switch (message.type) {
  case MSG_MACHINE: return tell_machine(wire_get_id(&id));
  case MSG_LIMIT: return limit(wire_get_id(&id), &message);
  case MSG_PACK: return pack(wire_get_id(&id), &message);
  default: return failing(EBADMSG);
  }
}
