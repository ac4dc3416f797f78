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

// Processes that do what takes longer.
static struct job {
  pid_t pid;
  uint32_t id;
} jobs[16];

static struct job *job_of(pid_t pid) {
  for (size_t i = 0; i < sizeof jobs / sizeof *jobs; i++)
    if (jobs[i].pid == pid) return &jobs[i];
  return NULL;
}

static int tell_done(uint32_t id, int why) {
  struct writer *answer = answer_begin(MSG_DONE);
  wire_put_id(answer, id);
  wire_put_value(answer, (uint32_t)why);
  return send_answer(answer);
}

static int pass_inside(uint32_t id, const struct message *message, int (*make)(pid_t, uint16_t)) {
  struct field field;
  int carrier = passing_made(), why = 0;
  if (carrier < 0 || !field_find(message, FIELD_PORT, &field)) return closing(carrier, failing(EBADMSG));
  int made = make(orders_init, (uint16_t)wire_get_port(&field));
  if (made < 0 || send_descriptor(carrier, made) != 0) why = errno;
  if (made >= 0) close(made);
  close(carrier);
  // kiln has it when it is told that it is there.
  carriers_take();
  return tell_done(id, why);
}

static int begin_job(struct job *job, uint32_t id, pid_t pid) {
  if (pid < 0) return -1;
  *job = (struct job){pid, id};
  return 0;
}

static int pack(uint32_t id, const struct message *message) {
  struct field field;
  int fd = passing_made();
  struct job *job = job_of(0);
  if (fd < 0 || !field_find(message, FIELD_PATTERNS, &field)) return closing(fd, failing(EBADMSG));
  if (job == NULL) return closing(fd, tell_done(id, EAGAIN));
  return closing(fd, begin_job(job, id, pack_start(orders_init, field.data, field.length, fd)));
}

static int read_inside(uint32_t id, const struct message *message) {
  struct field field;
  int fd = passing_made();
  struct job *job = job_of(0);
  if (fd < 0 || !field_find(message, FIELD_READ_FILE, &field)) return closing(fd, failing(EBADMSG));
  if (job == NULL) return closing(fd, tell_done(id, EAGAIN));
  struct wire_read_file wanted = wire_get_read_file(&field);
  return closing(fd, begin_job(job, id, look_read(orders_init, &wanted, fd)));
}

static int list_processes(uint32_t id, const struct message *message) {
  struct field field;
  int fd = passing_made();
  struct job *job = job_of(0);
  if (fd < 0 || !field_find(message, FIELD_LISTING, &field)) return closing(fd, failing(EBADMSG));
  if (job == NULL) return closing(fd, tell_done(id, EAGAIN));
  return closing(fd, begin_job(job, id, look_processes(orders_init, wire_get_listing(&field) != 0, fd)));
}

static int full(uint32_t id, const struct message *message) {
  struct field field;
  if (!field_find(message, FIELD_PATTERNS, &field)) return failing(EBADMSG);
  return tell_done(id, look_full(orders_init, field.data, field.length));
}

static int set_card(uint32_t id, const struct message *message) {
  struct field field;
  if (!field_find(message, FIELD_CARD, &field)) return failing(EBADMSG);
  struct wire_card card = wire_get_card(&field);
  return tell_done(id, network_set(orders_init, &card) == 0 ? 0 : errno);
}

static int mount_image(uint32_t id, const struct message *message) {
  struct field field;
  int share = passing_made();
  if (share < 0 || !field_find(message, FIELD_PLACE, &field)) return closing(share, failing(EBADMSG));
  int why = image_mount(share, wire_get_place(&field)) == 0 ? 0 : errno;
  return closing(share, tell_done(id, why));
}

// An overlay keeps what it has found below, and gives ESTALE for a file that has been replaced there.
static int forget_names(uint32_t id) {
  int fd = open("/proc/sys/vm/drop_caches", O_WRONLY | O_CLOEXEC);
  int why = fd >= 0 && write(fd, "2", 1) == 1 ? 0 : errno;
  return closing(fd, tell_done(id, why));
}

void order_ended(pid_t pid, int status) {
  struct job *job = job_of(pid);
  if (job == NULL) return;
  job->pid = 0;
  if (tell_done(job->id, WIFEXITED(status) ? WEXITSTATUS(status) : EPIPE) != 0)
    say("tell of what has ended");
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
  case MSG_LISTEN: return pass_inside(wire_get_id(&id), &message, network_listen);
  case MSG_CONNECT: return pass_inside(wire_get_id(&id), &message, network_connect);
  case MSG_SET_CARD: return set_card(wire_get_id(&id), &message);
  case MSG_PACK: return pack(wire_get_id(&id), &message);
  case MSG_READ: return read_inside(wire_get_id(&id), &message);
  case MSG_MOUNT_IMAGE: return mount_image(wire_get_id(&id), &message);
  case MSG_PROCESSES: return list_processes(wire_get_id(&id), &message);
  case MSG_FORGET_NAMES: return forget_names(wire_get_id(&id));
  case MSG_FULL: return full(wire_get_id(&id), &message);
  default: return failing(EBADMSG);
  }
}
