// SPDX-License-Identifier: Apache-2.0
// Descriptors: the likes of the host's, and what those are that the init passes.
#include <errno.h>
#include <fcntl.h>
#include <linux/mount.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "stage0.h"

// Made for a message whose first byte they travel with.
struct attached {
  struct attached *next;
  uint64_t position; // in the bytes of the connection
  unsigned count;
  int fds[FDS_MAX];
};

#define DATAGRAM_MAX 2048
#define PIPE_BYTES (1 << 20) // as kiln makes them

static struct attached *queue, making;

static int failing(int error) {
  errno = error;
  return -1;
}

static int add(int fd) {
  if (making.count == FDS_MAX) {
    close(fd);
    return failing(EBADMSG);
  }
  making.fds[making.count++] = fd;
  return 0;
}

static void close_all(struct attached *attached) {
  for (unsigned i = 0; i < attached->count; i++) close(attached->fds[i]);
  attached->count = 0;
}

void passing_forget(void) {
  close_all(&making);
  while (queue != NULL) {
    struct attached *next = queue->next;
    close_all(queue);
    free(queue);
    queue = next;
  }
}

int passing_made(void) {
  if (making.count != 1) {
    close_all(&making);
    return failing(EBADMSG);
  }
  making.count = 0;
  return making.fds[0];
}

void passing_attach(void) {
  if (making.count == 0) return;
  struct attached *one = malloc(sizeof *one), **last = &queue;
  if (one == NULL) {
    close_all(&making);
    return;
  }
  *one = making;
  one->next = NULL;
  one->position = connection.moved_in + connection.length;
  making.count = 0;
  while (*last != NULL) last = &(*last)->next;
  *last = one;
}

ssize_t passing_put(struct stream *stream, const void *bytes, size_t length) {
  union {
    struct cmsghdr header;
    char bytes[CMSG_SPACE(sizeof(int) * FDS_MAX)];
  } control = {0};
  struct iovec iov = {(void *)bytes, length};
  struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1};
  struct attached *first = queue;
  if (first != NULL && first->position > stream->moved_in) {
    if (length > first->position - stream->moved_in) iov.iov_len = first->position - stream->moved_in;
    first = NULL;
  } else if (first != NULL) {
    struct attached *next = first->next;
    if (next != NULL && length > next->position - stream->moved_in)
      iov.iov_len = next->position - stream->moved_in;
    msg.msg_control = control.bytes;
    msg.msg_controllen = CMSG_SPACE(sizeof(int) * first->count);
    struct cmsghdr *c = CMSG_FIRSTHDR(&msg);
    c->cmsg_level = SOL_SOCKET;
    c->cmsg_type = SCM_RIGHTS;
    c->cmsg_len = CMSG_LEN(sizeof(int) * first->count);
    memcpy(CMSG_DATA(c), first->fds, sizeof(int) * first->count);
  }
  ssize_t n = sendmsg(stream->fd, &msg, MSG_NOSIGNAL | MSG_DONTWAIT);
  if (n > 0 && first != NULL) {
    queue = first->next;
    close_all(first);
    free(first);
  }
  return n;
}

// A clone, as kiln sends it to a container: the init attaches it where it belongs.
static int make_share(const struct port_descriptor *wanted) {
  char path[64];
  int image = making.count < FDS_MAX ? image_take(making.count) : -1;
  if (image >= 0) return add(image);
  snprintf(path, sizeof path, SHARES "/%u", wanted->value);
  int fd = (int)syscall(SYS_open_tree, AT_FDCWD, path, OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC);
  if (fd < 0) return -1;
  struct mount_attr attributes = {.attr_set = MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV};
  if (wanted->flags & SHARE_READONLY) attributes.attr_set |= MOUNT_ATTR_RDONLY;
  if (syscall(SYS_mount_setattr, fd, "", AT_EMPTY_PATH, &attributes, sizeof attributes) != 0) {
    int error = errno;
    close(fd);
    return failing(error);
  }
  return add(fd);
}

int passing_make(const struct frame *frame) {
  struct port_descriptor wanted;
  memcpy(&wanted, frame->bytes, sizeof wanted);
  if (wanted.kind == DESCRIPTOR_SHARE) return make_share(&wanted);
  int ends[2], input = wanted.kind == DESCRIPTOR_INPUT, carrier = wanted.kind == DESCRIPTOR_CARRIER;
  if (!input && !carrier && wanted.kind != DESCRIPTOR_OUTPUT) return failing(EBADMSG);
  if (carrier ? socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) != 0
              : pipe2(ends, O_CLOEXEC) != 0)
    return -1;
  if (!carrier) fcntl(ends[1], F_SETPIPE_SZ, PIPE_BYTES);
  // The init gives a pipe to the command's user, so it must be root's of the sandbox.
  if (!carrier && fchown(ends[0], PORT_IDS, PORT_IDS) != 0) return -1;
  int ours = input ? ends[1] : ends[0], theirs = input ? ends[0] : ends[1];
  struct stream *stream = stream_open(frame->stream, (uint8_t)wanted.kind, ours,
                                      input ? MOVES_IN : MOVES_OUT);
  if (stream == NULL) return -1;
  stream->command = wanted.command;
  return add(theirs);
}

static int receive(int socket_fd) {
  union {
    struct cmsghdr header;
    char bytes[CMSG_SPACE(sizeof(int))];
  } control = {0};
  char byte;
  struct iovec iov = {&byte, 1};
  struct msghdr msg = {.msg_iov = &iov,
                       .msg_iovlen = 1,
                       .msg_control = control.bytes,
                       .msg_controllen = sizeof control.bytes};
  ssize_t n = recvmsg(socket_fd, &msg, MSG_CMSG_CLOEXEC | MSG_DONTWAIT);
  if (n < 0) return errno == EAGAIN || errno == EINTR ? -1 : -2;
  struct cmsghdr *c = n > 0 ? CMSG_FIRSTHDR(&msg) : NULL;
  if (c == NULL || c->cmsg_type != SCM_RIGHTS) return -2;
  int fd;
  memcpy(&fd, CMSG_DATA(c), sizeof fd);
  return fd;
}

static uint32_t kind_of(int fd) {
  int value;
  socklen_t length = sizeof value;
  if (ioctl(fd, TIOCGPTN, &value) == 0) return DESCRIPTOR_TERMINAL;
  if (getsockopt(fd, SOL_SOCKET, SO_TYPE, &value, &length) != 0) return 0;
  if (value == SOCK_DGRAM) return DESCRIPTOR_DATAGRAMS;
  if (getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &value, &length) != 0) return 0;
  return value ? DESCRIPTOR_LISTENER : DESCRIPTOR_SOCKET;
}

static void take_passed(struct stream *carrier) {
  struct stat st;
  int fd = receive(carrier->fd);
  if (fd == -1) return;
  // No folder of this kernel's can be passed on: what was written in it can.
  if (fd >= 0 && fstat(fd, &st) == 0 && S_ISDIR(st.st_mode)) fd = layer_pack(fd);
  uint32_t kind = fd < 0 ? 0 : kind_of(fd);
  uint16_t id = stream_free_id();
  struct port_passed passed = {carrier->id, kind, 0};
  if (kind == 0 || id == 0) {
    if (fd >= 0) close(fd);
    stream_drop(carrier);
    return;
  }
  port_send(FRAME_PASSED, id, &passed, sizeof passed);
  int both = kind == DESCRIPTOR_TERMINAL || kind == DESCRIPTOR_SOCKET;
  struct stream *stream = stream_open(id, (uint8_t)kind, fd, both ? MOVES_OUT | MOVES_IN : MOVES_OUT);
  if (stream == NULL) power_off();
  stream->command = carrier->command;
}

static void take_connection(struct stream *listener) {
  uint16_t id = stream_free_id();
  if (id == 0) return; // it waits until another has ended
  int fd = accept4(listener->fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
  if (fd < 0) return;
  struct port_open open = {listener->id};
  port_send(FRAME_OPEN, id, &open, sizeof open);
  if (stream_open(id, DESCRIPTOR_SOCKET, fd, MOVES_OUT | MOVES_IN) == NULL) power_off();
}

static void take_datagram(struct stream *stream) {
  unsigned char bytes[DATAGRAM_MAX];
  struct sockaddr_in from = {0};
  socklen_t length = sizeof from;
  ssize_t n = recvfrom(stream->fd, bytes, sizeof bytes, MSG_DONTWAIT, (struct sockaddr *)&from, &length);
  if (n < 0) return;
  struct port_datagram datagram = {from.sin_addr.s_addr, ntohs(from.sin_port)};
  port_send_bytes(FRAME_DATAGRAM, stream->id, &datagram, sizeof datagram, bytes, (size_t)n);
}

void passing_take(struct stream *stream) {
  if (port_room() == 0 || stream->fd < 0) return;
  if (stream->kind == DESCRIPTOR_CARRIER) take_passed(stream);
  if (stream->kind == DESCRIPTOR_LISTENER) take_connection(stream);
  if (stream->kind == DESCRIPTOR_DATAGRAMS) take_datagram(stream);
}

int passing_send(const struct frame *frame) {
  struct port_datagram datagram;
  struct stream *stream = stream_find(frame->stream);
  if (stream == NULL || stream->kind != DESCRIPTOR_DATAGRAMS) return failing(EBADMSG);
  memcpy(&datagram, frame->bytes, sizeof datagram);
  struct sockaddr_in to = {.sin_family = AF_INET,
                           .sin_port = htons((uint16_t)datagram.port),
                           .sin_addr.s_addr = datagram.address};
  // A datagram may be lost: whoever sent it sends it again.
  if (stream->fd >= 0)
    sendto(stream->fd, frame->bytes + sizeof datagram, frame->length - sizeof datagram, MSG_DONTWAIT,
           (struct sockaddr *)&to, sizeof to);
  return 0;
}

void carriers_take(void) {
  for (struct stream *next, *stream = stream_after(0); stream != NULL; stream = next) {
    next = stream_after(stream->id);
    if (stream->kind == DESCRIPTOR_CARRIER && stream->fd >= 0 && !stream->read_over) passing_take(stream);
  }
}
