// SPDX-License-Identifier: Apache-2.0
// The likes of what comes from the guest to kiln: a terminal, sockets. They are of this process's own
// devpts and network, where there is nothing else.
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <termios.h>
#include <unistd.h>

#include "port.h"
#include "relay.h"

#ifndef PTS
#define PTS "/pts" // inside.c mounts it
#endif

#define BACKLOG 128
#define DATAGRAM_MAX 2048
#define DHCP_SERVER_PORT 67
#define DHCP_CLIENT_PORT 68

static int failing(int error) {
  errno = error;
  return -1;
}

// A terminal of the host's that changes nothing: that of the guest has the line discipline.
static int open_terminal(int *master, int *slave) {
  int unlock = 0, number;
  char path[32];
  *slave = -1;
  *master = open(PTS "/ptmx", O_RDWR | O_NOCTTY | O_CLOEXEC);
  if (*master < 0) return -1;
  if (ioctl(*master, TIOCSPTLCK, &unlock) != 0 || ioctl(*master, TIOCGPTN, &number) != 0) return -1;
  snprintf(path, sizeof path, PTS "/%d", number);
  *slave = open(path, O_RDWR | O_NOCTTY | O_CLOEXEC);
  struct termios raw;
  if (*slave < 0 || tcgetattr(*slave, &raw) != 0) return -1;
  cfmakeraw(&raw);
  return tcsetattr(*slave, TCSANOW, &raw);
}

// By the stream's number: nobody else has a name in this network.
static socklen_t name_of(uint16_t id, struct sockaddr_un *out) {
  *out = (struct sockaddr_un){.sun_family = AF_UNIX};
  int length = snprintf(out->sun_path + 1, sizeof out->sun_path - 1, "%u", id);
  return (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + (size_t)length);
}

// This end keeps the carrier: kiln closes it when it listens no more.
static int open_listener(uint16_t id, const struct stream *carrier, int *theirs, int *ours) {
  struct sockaddr_un address;
  socklen_t length = name_of(id, &address);
  *theirs = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (*theirs < 0 || bind(*theirs, (struct sockaddr *)&address, length) != 0) return -1;
  *ours = carrier->fd < 0 ? -1 : fcntl(carrier->fd, F_DUPFD_CLOEXEC, 0);
  return *ours < 0 ? -1 : listen(*theirs, BACKLOG);
}

// kiln's end of one stream among others.
static struct sockaddr_in client_of(uint16_t id) {
  return (struct sockaddr_in){.sin_family = AF_INET,
                              .sin_port = htons(DHCP_CLIENT_PORT),
                              .sin_addr.s_addr = htonl(0x7f000000u + id)};
}

// kiln's end is bound as a client of DHCP is; this end gets whatever it sends, wherever to (inside.c has the route).
static int open_datagrams(uint16_t id, int *theirs, int *ours) {
  int *const fds[] = {theirs, ours}, yes = 1;
  const struct sockaddr_in names[] = {
      client_of(id), {.sin_family = AF_INET, .sin_port = htons(DHCP_SERVER_PORT)}};
  for (int i = 0; i < 2; i++) {
    *fds[i] = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (*fds[i] < 0 || setsockopt(*fds[i], SOL_SOCKET, SO_BROADCAST, &yes, sizeof yes) != 0 ||
        setsockopt(*fds[i], SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes) != 0 ||
        setsockopt(*fds[i], IPPROTO_IP, IP_PKTINFO, &yes, sizeof yes) != 0 ||
        bind(*fds[i], (const struct sockaddr *)&names[i], sizeof names[i]) != 0)
      return -1;
  }
  return 0;
}

// The guest's is connected already: this is a way to it.
static int open_socket(int *theirs, int *ours) {
  int ends[2];
  if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, ends) != 0) return -1;
  *theirs = ends[0];
  *ours = ends[1];
  return 0;
}

static int open_like(uint32_t kind, uint16_t id, const struct stream *carrier, int *theirs,
                     int *ours) {
  switch (kind) {
  case DESCRIPTOR_TERMINAL: return open_terminal(theirs, ours);
  case DESCRIPTOR_LISTENER: return open_listener(id, carrier, theirs, ours);
  case DESCRIPTOR_DATAGRAMS: return open_datagrams(id, theirs, ours);
  case DESCRIPTOR_SOCKET: return open_socket(theirs, ours);
  default: return failing(EBADMSG);
  }
}

static unsigned moves_of(uint32_t kind) {
  return kind == DESCRIPTOR_LISTENER    ? 0
         : kind == DESCRIPTOR_DATAGRAMS ? MOVES_OUT
                                        : MOVES_OUT | MOVES_IN;
}

int likes_take(const struct frame *frame) {
  struct port_passed passed;
  memcpy(&passed, frame->bytes, sizeof passed);
  struct stream *carrier = passed.carrier < PORT_GUEST ? stream_find((uint16_t)passed.carrier) : NULL;
  if (carrier == NULL || carrier == &connection || carrier->kind != DESCRIPTOR_CARRIER ||
      frame->stream < PORT_GUEST)
    return failing(EBADMSG);
  int theirs = -1, ours = -1;
  struct stream *stream = NULL;
  int made = open_like(passed.kind, frame->stream, carrier, &theirs, &ours);
  if (made == 0) stream = stream_open(frame->stream, (uint8_t)passed.kind, ours, moves_of(passed.kind));
  if (stream != NULL) {
    stream->command = carrier->command;
    // Who waits for it may be gone, which the end of the stream tells the guest.
    if (carrier->fd < 0 || send_descriptor(carrier->fd, 0, theirs) != 0) stream_drop(stream);
  } else if (ours >= 0) {
    close(ours);
  }
  if (theirs >= 0) close(theirs);
  return stream == NULL ? failing(EBADMSG) : 0;
}

int likes_open(const struct frame *frame) {
  struct port_open open;
  memcpy(&open, frame->bytes, sizeof open);
  struct stream *listener =
      open.listener >= PORT_GUEST && open.listener <= UINT16_MAX ? stream_find((uint16_t)open.listener) : NULL;
  if (listener == NULL || listener->kind != DESCRIPTOR_LISTENER || frame->stream < PORT_GUEST)
    return failing(EBADMSG);
  struct sockaddr_un address;
  socklen_t length = name_of(listener->id, &address);
  int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (fd < 0) return -1;
  struct stream *stream = stream_open(frame->stream, DESCRIPTOR_SOCKET, fd, MOVES_OUT | MOVES_IN);
  if (stream == NULL) {
    close(fd);
    return failing(EBADMSG);
  }
  if (connect(fd, (struct sockaddr *)&address, length) == 0) return 0;
  // Nobody listens any more, or too many wait to be accepted.
  if (errno == ECONNREFUSED) stream_drop(listener);
  stream_drop(stream);
  return 0;
}

int likes_send(const struct frame *frame) {
  struct stream *stream = stream_find(frame->stream);
  if (stream == NULL || stream->kind != DESCRIPTOR_DATAGRAMS) return failing(EBADMSG);
  struct sockaddr_in to = client_of(stream->id);
  size_t head = sizeof(struct port_datagram);
  if (stream->fd >= 0)
    sendto(stream->fd, frame->bytes + head, frame->length - head, MSG_DONTWAIT, (struct sockaddr *)&to,
           sizeof to);
  return 0;
}

void likes_receive(struct stream *stream) {
  unsigned char bytes[DATAGRAM_MAX];
  union {
    struct cmsghdr header;
    char bytes[CMSG_SPACE(sizeof(struct in_pktinfo))];
  } control;
  struct sockaddr_in from = {0};
  struct iovec iov = {bytes, sizeof bytes};
  struct msghdr msg = {.msg_name = &from,
                       .msg_namelen = sizeof from,
                       .msg_iov = &iov,
                       .msg_iovlen = 1,
                       .msg_control = control.bytes,
                       .msg_controllen = sizeof control.bytes};
  if (stream->kind == DESCRIPTOR_LISTENER) stream_drop(stream);
  if (stream->kind != DESCRIPTOR_DATAGRAMS || port_room() == 0) return;
  ssize_t n = recvmsg(stream->fd, &msg, MSG_DONTWAIT);
  struct cmsghdr *c = n > 0 ? CMSG_FIRSTHDR(&msg) : NULL;
  if (c == NULL || c->cmsg_level != IPPROTO_IP || c->cmsg_type != IP_PKTINFO) return;
  struct in_pktinfo info;
  memcpy(&info, CMSG_DATA(c), sizeof info);
  // All such streams listen on one port: each gets what is sent to everybody, one of them what is sent to a server.
  struct stream *whose = stream_find((uint16_t)ntohl(from.sin_addr.s_addr));
  int to_all = info.ipi_addr.s_addr == htonl(INADDR_BROADCAST);
  if (whose == NULL || whose->kind != DESCRIPTOR_DATAGRAMS || (to_all && whose != stream)) return;
  struct port_datagram datagram = {info.ipi_addr.s_addr, DHCP_SERVER_PORT};
  port_send_bytes(FRAME_DATAGRAM, whose->id, &datagram, sizeof datagram, bytes, (size_t)n);
}
