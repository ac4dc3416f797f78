// SPDX-License-Identifier: Apache-2.0
// What kiln sends to the init, message by message: its descriptors are told to the guest before it.
#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "port.h"
#include "relay.h"
#include "wire.h"

#define HEAD 8
#define EXEC_HEAD (HEAD + 12) // its first field is the command's id
#define ORDER_MAX 4096

// The message of kiln's that is being read: its head and descriptors, then the rest.
static struct {
  unsigned char head[ORDER_MAX];
  size_t have;
  uint32_t left; // of the body, beyond the head
  int fds[FDS_MAX];
  unsigned nfds, described;
  int passes;
} incoming;

static uint32_t word_at(size_t at) {
  uint32_t word;
  memcpy(&word, incoming.head + at, sizeof word);
  return word;
}

static int is_order(void) { return incoming.have >= HEAD && word_at(4) >= MSG_MACHINE; }

static size_t head_length(void) {
  if (incoming.have < HEAD) return HEAD;
  uint32_t length = word_at(0);
  if (is_order()) return HEAD + length;
  return word_at(4) == MSG_EXEC && length >= EXEC_HEAD - HEAD ? EXEC_HEAD : HEAD;
}

void kiln_forget(void) {
  for (unsigned i = incoming.described; i < incoming.nfds; i++) close(incoming.fds[i]);
  incoming.nfds = incoming.described = 0;
  incoming.have = incoming.left = 0;
  incoming.passes = 0;
}

// 1 when there was something, 0 when there is nothing yet, -1 at the end.
static int receive_head(void) {
  union {
    struct cmsghdr header;
    char bytes[CMSG_SPACE(sizeof(int) * FDS_MAX)];
  } control;
  size_t wanted = head_length() - incoming.have;
  struct iovec iov = {incoming.head + incoming.have, wanted};
  struct msghdr msg = {.msg_iov = &iov,
                       .msg_iovlen = 1,
                       .msg_control = control.bytes,
                       .msg_controllen = sizeof control.bytes};
  ssize_t n = recvmsg(connection.fd, &msg, MSG_CMSG_CLOEXEC | MSG_DONTWAIT);
  if (n < 0) return errno == EAGAIN || errno == EINTR ? 0 : -1;
  for (struct cmsghdr *c = CMSG_FIRSTHDR(&msg); c != NULL; c = CMSG_NXTHDR(&msg, c)) {
    if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS) continue;
    size_t count = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    for (size_t i = 0; i < count && incoming.nfds < FDS_MAX; i++)
      memcpy(&incoming.fds[incoming.nfds++], CMSG_DATA(c) + i * sizeof(int), sizeof(int));
  }
  if (n == 0 || msg.msg_flags & MSG_CTRUNC) return -1;
  incoming.have += (size_t)n;
  if (incoming.have == HEAD) {
    if (word_at(0) > REQUEST_MAX || (is_order() && word_at(0) > ORDER_MAX - HEAD)) return -1;
  }
  return 1;
}

static int describe(void) {
  uint32_t command = word_at(4) == MSG_EXEC && incoming.have == EXEC_HEAD && word_at(8) == FIELD_ID
                         ? word_at(16)
                         : 0;
  while (incoming.described < incoming.nfds) {
    struct port_descriptor descriptor;
    uint16_t id;
    if (port_room() == 0) return 0;
    int fd = incoming.fds[incoming.described];
    if (passing_describe(fd, incoming.described, command, &id, &descriptor) != 0) die("a descriptor");
    incoming.described++;
    port_send(FRAME_DESCRIPTOR, id, &descriptor, sizeof descriptor);
  }
  return 1;
}

static int pass_head(void) {
  struct port_message message = {0};
  size_t length = incoming.have;
  if (port_room() == 0 || connection.credit < length) return 0;
  if (is_order()) {
    port_send_bytes(FRAME_ORDER, 0, NULL, 0, incoming.head, length);
    kiln_forget();
    return 1;
  }
  port_send_bytes(FRAME_MESSAGE, 0, &message, sizeof message, incoming.head, length);
  connection.credit -= (uint32_t)length;
  incoming.left = word_at(0) - (uint32_t)(length - HEAD);
  incoming.passes = 1;
  return 1;
}

static int pass_body(void) {
  struct port_message message = {0};
  size_t room = port_room();
  if (room == 0 || connection.credit == 0) return 0;
  room -= sizeof message;
  if (room > incoming.left) room = incoming.left;
  if (room > connection.credit) room = connection.credit;
  unsigned char *to = port_begin();
  memcpy(to, &message, sizeof message);
  ssize_t n = read(connection.fd, to + sizeof message, room);
  if (n < 0) return errno == EAGAIN || errno == EINTR ? 0 : -1;
  if (n == 0) return -1;
  port_end(FRAME_MESSAGE, 0, sizeof message + (size_t)n);
  connection.credit -= (uint32_t)n;
  incoming.left -= (uint32_t)n;
  return 1;
}

static int advance(void) {
  if (incoming.passes && incoming.left > 0) return pass_body();
  if (incoming.passes) kiln_forget();
  if (incoming.have < head_length()) return receive_head();
  int described = describe();
  return described == 1 ? pass_head() : described;
}

int kiln_waits(void) { return connection.fd >= 0 && incoming.have > 0; }

int kiln_read(void) {
  int more;
  do more = advance();
  while (more == 1);
  return more;
}
