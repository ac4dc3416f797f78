// SPDX-License-Identifier: Apache-2.0
#define _GNU_SOURCE
#include "protocol.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

static unsigned char requests[2][MESSAGE_MAX]; // untouched pages cost nothing
static unsigned current;
static unsigned char answer[64 << 10];
static size_t answer_length;

static int read_whole(int fd, unsigned char *to, size_t length) {
  while (length > 0) {
    ssize_t n = read(fd, to, length);
    if (n == 0) return 0;
    if (n < 0) {
      if (errno == EINTR) continue;
      return -1;
    }
    to += n;
    length -= (size_t)n;
  }
  return 1;
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
  // The kernel stops at the first that a security module keeps back: it is number `nfds`.
  out->refused = (msg.msg_flags & MSG_CTRUNC) != 0;
  if ((size_t)n < sizeof head) {
    int more = read_whole(fd, (unsigned char *)head + n, sizeof head - (size_t)n);
    if (more <= 0) return more;
  }
  out->length = head[0];
  out->type = head[1];
  current = !current;
  out->payload = requests[current];
  if (out->length > MESSAGE_MAX) {
    errno = EMSGSIZE;
    return -1;
  }
  return read_whole(fd, out->payload, out->length);
}

void message_close_fds(struct message *message) {
  for (unsigned i = 0; i < message->nfds; i++)
    if (message->fds[i] >= 0) close(message->fds[i]);
  message->nfds = 0;
}

int field_next(const struct message *message, size_t *offset, struct field *out) {
  if (*offset == message->length) return 0;
  if (message->length - *offset < 8) return -1;
  memcpy(&out->tag, message->payload + *offset, 4);
  memcpy(&out->length, message->payload + *offset + 4, 4);
  *offset += 8;
  if (out->length > message->length - *offset) return -1;
  out->data = message->payload + *offset;
  *offset += out->length;
  return 1;
}

int field_u32(const struct field *field, size_t at, uint32_t *out) {
  if (at > field->length || field->length - at < 4) return -1;
  memcpy(out, field->data + at, 4);
  return 0;
}

int field_u64(const struct field *field, size_t at, uint64_t *out) {
  if (at > field->length || field->length - at < 8) return -1;
  memcpy(out, field->data + at, 8);
  return 0;
}

const char *field_string(const struct field *field, size_t at) {
  if (at >= field->length) return NULL;
  if (memchr(field->data + at, 0, field->length - at) == NULL) return NULL;
  return (const char *)field->data + at;
}

void answer_begin(uint32_t type) {
  memcpy(answer + 4, &type, 4);
  answer_length = 8;
}

void answer_bytes(uint32_t tag, const void *data, size_t length) {
  if (length > sizeof answer - answer_length - 8) length = sizeof answer - answer_length - 8;
  uint32_t head[2] = {tag, (uint32_t)length};
  memcpy(answer + answer_length, head, 8);
  memcpy(answer + answer_length + 8, data, length);
  answer_length += 8 + length;
}

void answer_u32(uint32_t tag, uint32_t value) { answer_bytes(tag, &value, sizeof value); }
void answer_u64(uint32_t tag, uint64_t value) { answer_bytes(tag, &value, sizeof value); }

void answer_send(int fd) {
  uint32_t length = (uint32_t)(answer_length - 8);
  memcpy(answer, &length, 4);
  for (size_t done = 0; done < answer_length;) {
    ssize_t n = send(fd, answer + done, answer_length - done, MSG_NOSIGNAL);
    if (n < 0) {
      if (errno == EINTR) continue;
      return; // the runner is gone: the main loop sees the end of file
    }
    done += (size_t)n;
  }
}

void answer_failed(int fd, uint32_t id, int error, const char *what, const char *detail) {
  char text[1024];
  int n = snprintf(text, sizeof text, "%s%s%s", what, detail == NULL ? "" : " ",
                   detail == NULL ? "" : detail);
  if (n < 0) n = 0;
  if ((size_t)n >= sizeof text) n = sizeof text - 1;
  answer_begin(MSG_FAILED);
  answer_u32(OUT_ID, id);
  answer_u32(OUT_ERRNO, (uint32_t)error);
  answer_bytes(OUT_WHAT, text, (size_t)n);
  answer_send(fd);
}
