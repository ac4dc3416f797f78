// SPDX-License-Identifier: Apache-2.0
// Feeds the guest init's reader what comes on standard input: cases of { u32 descriptors, u32 length,
// bytes[length] }, each one connection's worth of messages. Prints a line for each. Built with sanitizers,
// which end it at the first mistake.
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "protocol.h"

#define CASE_MAX (1u << 20)

static unsigned char input[CASE_MAX];
static volatile unsigned sum;

static void look(const void *data, size_t length) {
  const unsigned char *bytes = data;
  for (size_t i = 0; i < length; i++) sum += bytes[i];
}

#include "look.h"

// Each field in memory of its own size exactly: the reader's buffer is so large that no sanitizer sees who
// reads on.
static void look_at_all(const struct message *message) {
  size_t offset = 0;
  struct field field;
  struct writer *answer = answer_begin(message->type);
  while (field_next(message, &offset, &field)) {
    unsigned char *copy = malloc(field.length == 0 ? 1 : field.length);
    if (copy == NULL) abort();
    memcpy(copy, field.data, field.length);
    size_t start = writer_field(answer, field.tag);
    writer_add(answer, copy, field.length);
    writer_end(answer, start);
    field.data = copy;
    look_at(&field);
    free(copy);
  }
}

static void send_case(int fd, uint32_t descriptors, uint32_t length) {
  union {
    struct cmsghdr header;
    char bytes[CMSG_SPACE(sizeof(int) * (FDS_MAX + 1))];
  } control = {0};
  struct iovec iov = {input, length};
  struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1};
  if (descriptors > 0) {
    msg.msg_control = control.bytes;
    msg.msg_controllen = CMSG_SPACE(sizeof(int) * descriptors);
    struct cmsghdr *c = CMSG_FIRSTHDR(&msg);
    c->cmsg_level = SOL_SOCKET;
    c->cmsg_type = SCM_RIGHTS;
    c->cmsg_len = CMSG_LEN(sizeof(int) * descriptors);
    for (uint32_t i = 0; i < descriptors; i++) memcpy(CMSG_DATA(c) + i * sizeof(int), &fd, sizeof fd);
  }
  if (sendmsg(fd, &msg, 0) != (ssize_t)length) abort();
}

int main(void) {
  uint32_t head[2];
  int room = 8 << 20; // nobody reads meanwhile
  while (fread(head, sizeof head, 1, stdin) == 1) {
    if (head[0] > FDS_MAX || head[1] > CASE_MAX || fread(input, 1, head[1], stdin) != head[1]) return 2;
    int pair[2];
    if (socketpair(AF_UNIX, SOCK_STREAM, 0, pair) != 0) return 2;
    if (setsockopt(pair[0], SOL_SOCKET, SO_SNDBUFFORCE, &room, sizeof room) != 0) return 2;
    if (head[1] > 0) send_case(pair[0], head[0], head[1]);
    shutdown(pair[0], SHUT_WR);
    struct message message;
    int more, taken = 0;
    while ((more = message_receive(pair[1], &message)) > 0) {
      taken++;
      look_at_all(&message);
      message_close_fds(&message);
    }
    message_close_fds(&message);
    printf("%d %s\n", taken, more < 0 ? "refused" : "end");
    close(pair[0]), close(pair[1]);
  }
  return 0;
}
