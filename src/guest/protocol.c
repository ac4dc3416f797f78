// SPDX-License-Identifier: Apache-2.0
#include "protocol.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

static unsigned char requests[2][REQUEST_MAX]; // untouched pages cost nothing
static unsigned current;
static unsigned char answer_data[8 + ANSWER_MAX];
static struct writer answer = {.data = answer_data, .size = sizeof answer_data};

static int read_whole(int fd, unsigned char *to, size_t length) {
  while (length > 0) {
    ssize_t n = read(fd, to, length);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return (int)n;
    to += n;
    length -= (size_t)n;
  }
  return 1;
}

static ssize_t check_part(const struct part_spec *part, const struct message *message,
                          const unsigned char *data, size_t left) {
  const unsigned char *end;
  uint32_t number;
  uint64_t size;
  switch (part->kind) {
  case PART_U64: return left < 8 ? -1 : 8;
  case PART_SIZE:
    if (left < 8) return -1;
    memcpy(&size, data, 8);
    return size == 0 || size > 1ull << 53 ? -1 : 8;
  case PART_BYTES:
    if (left > part->most || left % part->unit != 0 || (left == 0 && part->unit > 1)) return -1;
    return (ssize_t)left;
  case PART_TEXT:
  case PART_PATH:
  case PART_NAME:
    end = memchr(data, 0, left);
    if (end == NULL || (size_t)(end - data) > part->most) return -1;
    if (part->kind == PART_PATH && data[0] != '/') return -1;
    if (part->kind == PART_NAME &&
        (data[0] == 0 || data[0] == '.' || memchr(data, '/', (size_t)(end - data)) != NULL))
      return -1;
    return end - data + 1;
  default: break;
  }
  if (left < 4) return -1;
  memcpy(&number, data, 4);
  int good = part->kind == PART_U32      ? number <= part->most
             : part->kind == PART_CHOICE ? number < 64 && (part->most >> number & 1)
             : part->kind == PART_SET    ? (number & ~part->most) == 0
                                         : number < message->nfds || message->refused;
  return good ? 4 : -1;
}

static int check_field(const struct field_spec *spec, const struct message *message,
                       const struct field *field) {
  size_t at = 0;
  for (unsigned i = 0; i < spec->count; i++) {
    ssize_t length = check_part(&spec->parts[i], message, field->data + at, field->length - at);
    if (length < 0) return -1;
    at += (size_t)length;
  }
  return at == field->length ? 0 : -1;
}

static int check_bounds(const struct message *message, size_t offset) {
  uint32_t length;
  if (offset == message->length) return 0;
  if (message->length - offset < 8) return -1;
  memcpy(&length, message->payload + offset + 4, 4);
  return length <= message->length - offset - 8 ? 0 : -1;
}

static int check(const struct message *message) {
  const struct message_spec *spec = NULL;
  for (size_t i = 0; i < request_spec_count; i++)
    if (request_specs[i].type == message->type) spec = &request_specs[i];
  if (spec == NULL || message->nfds > spec->most_fds) return -1;
  if (message->nfds < spec->least_fds && !message->refused) return -1;
  uint32_t times[32] = {0};
  struct field field;
  size_t offset = 0;
  for (;;) {
    if (check_bounds(message, offset) != 0) return -1;
    if (!field_next(message, &offset, &field)) break;
    unsigned i = 0;
    while (i < spec->count && spec->fields[i].tag != field.tag) i++;
    if (i == spec->count || ++times[i] > spec->fields[i].most ||
        check_field(&spec->fields[i], message, &field) != 0)
      return -1;
  }
  for (unsigned i = 0; i < spec->count; i++)
    if (times[i] < spec->fields[i].least) return -1;
  return 0;
}

int message_receive(int fd, struct message *out) {
  uint32_t head[2];
  union {
    struct cmsghdr header;
    char bytes[CMSG_SPACE(sizeof(int) * FDS_MAX)];
  } control;
  struct iovec iov = {.iov_base = head, .iov_len = sizeof head};
  struct msghdr msg = {.msg_iov = &iov,
                       .msg_iovlen = 1,
                       .msg_control = control.bytes,
                       .msg_controllen = sizeof control.bytes};
  out->nfds = 0;
  out->refused = 0;
  ssize_t n;
  do n = recvmsg(fd, &msg, MSG_CMSG_CLOEXEC);
  while (n < 0 && errno == EINTR);
  if (n <= 0) return (int)n;
  for (struct cmsghdr *c = CMSG_FIRSTHDR(&msg); c != NULL; c = CMSG_NXTHDR(&msg, c)) {
    if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS) continue;
    size_t count = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    for (size_t i = 0; i < count && out->nfds < FDS_MAX; i++) {
      memcpy(&out->fds[out->nfds], CMSG_DATA(c) + i * sizeof(int), sizeof(int));
      out->nfds++;
    }
  }
  // The kernel stops at the first descriptor that a security module withholds: it is number `nfds`.
  out->refused = (msg.msg_flags & MSG_CTRUNC) != 0;
  if ((size_t)n < sizeof head) {
    int more = read_whole(fd, (unsigned char *)head + n, sizeof head - (size_t)n);
    if (more <= 0) return more;
  }
  out->length = head[0];
  out->type = head[1];
  current = !current;
  out->payload = requests[current];
  if (out->length > REQUEST_MAX) return failing(EBADMSG);
  int more = read_whole(fd, out->payload, out->length);
  return more > 0 && check(out) != 0 ? failing(EBADMSG) : more;
}

int message_take(const unsigned char *bytes, size_t length, struct message *out) {
  uint32_t head[2];
  if (length < sizeof head || length > sizeof head + REQUEST_MAX) return failing(EBADMSG);
  memcpy(head, bytes, sizeof head);
  *out = (struct message){.type = head[1], .length = head[0], .payload = requests[current]};
  if (out->length != length - sizeof head) return failing(EBADMSG);
  memcpy(out->payload, bytes + sizeof head, out->length);
  return check(out) == 0 ? 0 : failing(EBADMSG);
}

void message_close_fds(struct message *message) {
  for (unsigned i = 0; i < message->nfds; i++)
    if (message->fds[i] >= 0) close(message->fds[i]);
  message->nfds = 0;
}

int field_next(const struct message *message, size_t *offset, struct field *out) {
  if (*offset == message->length) return 0;
  memcpy(&out->tag, message->payload + *offset, 4);
  memcpy(&out->length, message->payload + *offset + 4, 4);
  out->data = message->payload + *offset + 8;
  *offset += 8 + out->length;
  return 1;
}

int field_find(const struct message *message, uint32_t tag, struct field *out) {
  for (size_t offset = 0; field_next(message, &offset, out);)
    if (out->tag == tag) return 1;
  return 0;
}

size_t writer_field(struct writer *out, uint32_t tag) {
  size_t start = out->length;
  uint32_t head[2] = {tag, 0};
  writer_add(out, head, sizeof head);
  return start;
}

void writer_add(struct writer *out, const void *data, size_t length) {
  if (out->length > out->size || length > out->size - out->length) {
    out->length = out->size + 1;
    return;
  }
  memcpy(out->data + out->length, data, length);
  out->length += length;
}

void writer_end(struct writer *out, size_t start) {
  if (out->length > out->size) {
    out->length = start;
    return;
  }
  uint32_t length = (uint32_t)(out->length - start - 8);
  memcpy(out->data + start + 4, &length, 4);
}

struct writer *answer_begin(uint32_t type) {
  memcpy(answer.data + 4, &type, 4);
  answer.length = 8;
  return &answer;
}

void answer_send(int fd) {
  uint32_t length = (uint32_t)(answer.length - 8);
  memcpy(answer.data, &length, 4);
  for (size_t done = 0; done < answer.length;) {
    ssize_t n = send(fd, answer.data + done, answer.length - done, MSG_NOSIGNAL);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return; // the runner is gone: the main loop sees the end of file
    done += (size_t)n;
  }
}

int closing(int fd, int result) {
  int error = errno;
  close(fd);
  errno = error;
  return result;
}

int failing(int error) {
  errno = error;
  return -1;
}

int send_descriptor(int socket_fd, int fd) {
  union {
    struct cmsghdr header;
    char bytes[CMSG_SPACE(sizeof(int))];
  } control = {0};
  char byte = 0;
  struct iovec iov = {&byte, 1};
  struct msghdr msg = {.msg_iov = &iov,
                       .msg_iovlen = 1,
                       .msg_control = control.bytes,
                       .msg_controllen = sizeof control.bytes};
  struct cmsghdr *c = CMSG_FIRSTHDR(&msg);
  c->cmsg_level = SOL_SOCKET;
  c->cmsg_type = SCM_RIGHTS;
  c->cmsg_len = CMSG_LEN(sizeof(int));
  memcpy(CMSG_DATA(c), &fd, sizeof(int));
  return sendmsg(socket_fd, &msg, MSG_NOSIGNAL) == 1 ? 0 : -1;
}

int fail(struct failure *failure, uint32_t code, const char *text) {
  failure->code = code;
  failure->error = errno;
  failure->number = 0;
  snprintf(failure->text, sizeof failure->text, "%s", text == NULL ? "" : text);
  return -1;
}

void answer_failed(int fd, uint32_t id, const struct failure *failure) {
  struct writer *out = answer_begin(MSG_FAILED);
  wire_put_id(out, id);
  wire_put_failure(out, (struct wire_failure){failure->code, (uint32_t)failure->error,
                                              failure->number, failure->text});
  answer_send(fd);
}

int answer_refused(int fd, uint32_t id, int error, uint32_t code, const char *text) {
  struct failure failure;
  errno = error;
  fail(&failure, code, text);
  answer_failed(fd, id, &failure);
  return -1;
}

void answer_done(int fd, uint32_t id, uint32_t value) {
  struct writer *out = answer_begin(MSG_DONE);
  wire_put_id(out, id);
  wire_put_value(out, value);
  answer_send(fd);
}
