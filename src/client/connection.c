#include "client.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define FIRST_SIZE 65536

uint32_t read_u32(const uint8_t *at) {
  return (uint32_t)at[0] | (uint32_t)at[1] << 8 | (uint32_t)at[2] << 16 | (uint32_t)at[3] << 24;
}

void write_u32(uint8_t *at, uint32_t value) {
  at[0] = value & 0xff;
  at[1] = value >> 8 & 0xff;
  at[2] = value >> 16 & 0xff;
  at[3] = value >> 24 & 0xff;
}

void close_quietly(int fd) {
  int error = errno;
  close(fd);
  errno = error;
}

static void forget(struct connection *connection) {
  if (connection->given == 0) return;
  connection->used -= connection->given;
  memmove(connection->data, connection->data + connection->given, connection->used);
  connection->given = 0;
}

static bool grow(struct connection *connection, size_t wanted) {
  if (connection->size >= wanted) return true;
  size_t size = connection->size == 0 ? FIRST_SIZE : connection->size;
  while (size < wanted) size *= 2;
  uint8_t *data = realloc(connection->data, size);
  if (data == NULL) return false;
  connection->data = data;
  connection->size = size;
  return true;
}

static ssize_t receive_once(struct connection *connection, int flags) {
  union {
    struct cmsghdr align;
    char bytes[CMSG_SPACE(sizeof(int) * FRAME_DESCRIPTORS)];
  } control;
  struct iovec part = {connection->data + connection->used, connection->size - connection->used};
  struct msghdr message = {
      .msg_iov = &part, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control};
  ssize_t received = recvmsg(connection->socket, &message, flags | MSG_CMSG_CLOEXEC);
  /* ssh can have pipes. Whoever does not want to wait has looked whether there is something. */
  if (received < 0 && errno == ENOTSOCK) {
    received = read(connection->socket, part.iov_base, part.iov_len);
    if (received > 0) connection->used += received;
    return received;
  }
  if (received < 0) return received;
  for (struct cmsghdr *header = CMSG_FIRSTHDR(&message); header != NULL;
       header = CMSG_NXTHDR(&message, header)) {
    if (header->cmsg_level != SOL_SOCKET || header->cmsg_type != SCM_RIGHTS) continue;
    size_t count = (header->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    for (size_t i = 0; i < count; i++) {
      int fd;
      memcpy(&fd, CMSG_DATA(header) + i * sizeof fd, sizeof fd);
      if (connection->fd_count < sizeof connection->fds / sizeof *connection->fds) {
        connection->fds[connection->fd_count++] = fd;
      } else {
        /* The frame they belong to will miss them, and count as broken. */
        close(fd);
      }
    }
  }
  connection->used += received;
  return received;
}

const char *connection_answer(struct connection *connection) {
  for (;;) {
    const uint8_t *end =
        connection->used == 0 ? NULL : memchr(connection->data, '\0', connection->used);
    if (end != NULL) {
      connection->given = end + 1 - connection->data;
      return (const char *)connection->data;
    }
    if (connection->used > FIRST_SIZE / 2 || !grow(connection, FIRST_SIZE)) return NULL;
    ssize_t received = receive_once(connection, 0);
    if (received == 0 || (received < 0 && errno != EINTR)) return NULL;
  }
}

int connection_receive(struct connection *connection) {
  forget(connection);
  size_t wanted = FIRST_SIZE;
  if (connection->used >= FRAME_HEADER) {
    uint32_t length = read_u32(connection->data);
    if (length > FRAME_MAX) return -1;
    if (wanted < FRAME_HEADER + (size_t)length) wanted = FRAME_HEADER + (size_t)length;
  }
  if (!grow(connection, wanted)) return -1;
  if (connection->used == connection->size) return 1;
  ssize_t received = receive_once(connection, MSG_DONTWAIT);
  if (received > 0) return 1;
  if (received < 0 && (errno == EAGAIN || errno == EINTR)) return 0;
  return -1;
}

bool connection_next(struct connection *connection, struct frame *frame, bool *broken) {
  *broken = false;
  forget(connection);
  if (connection->used < FRAME_HEADER) return false;
  uint32_t length = read_u32(connection->data);
  uint8_t fd_count = connection->data[5];
  /* Descriptors come with the first byte of their frame, so missing ones never will. */
  if (length > FRAME_MAX || fd_count > FRAME_DESCRIPTORS || fd_count > connection->fd_count) {
    *broken = true;
    return false;
  }
  if (connection->used < FRAME_HEADER + (size_t)length) return false;
  frame->type = connection->data[4];
  frame->payload = connection->data + FRAME_HEADER;
  frame->length = length;
  frame->fd_count = fd_count;
  memcpy(frame->fds, connection->fds, fd_count * sizeof *frame->fds);
  connection->fd_count -= fd_count;
  memmove(connection->fds, connection->fds + fd_count, connection->fd_count * sizeof *connection->fds);
  connection->given = FRAME_HEADER + (size_t)length;
  return true;
}

bool connection_send_raw(struct connection *connection, const void *bytes, size_t length, const int *fds,
                         uint8_t fd_count) {
  union {
    struct cmsghdr align;
    char bytes[CMSG_SPACE(sizeof(int) * FRAME_DESCRIPTORS)];
  } control;
  const uint8_t *at = bytes;
  while (length > 0) {
    struct iovec part = {(void *)at, length};
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1};
    if (fd_count > 0) {
      memset(&control, 0, sizeof control);
      message.msg_control = &control;
      message.msg_controllen = CMSG_SPACE(sizeof(int) * fd_count);
      struct cmsghdr *header = CMSG_FIRSTHDR(&message);
      header->cmsg_level = SOL_SOCKET;
      header->cmsg_type = SCM_RIGHTS;
      header->cmsg_len = CMSG_LEN(sizeof(int) * fd_count);
      memcpy(CMSG_DATA(header), fds, fd_count * sizeof *fds);
    }
    ssize_t sent = sendmsg(connection->socket, &message, MSG_NOSIGNAL);
    if (sent < 0) {
      if (errno == EINTR) continue;
      if (errno != EAGAIN) return false;
      struct pollfd writable = {.fd = connection->socket, .events = POLLOUT};
      poll(&writable, 1, -1);
      continue;
    }
    at += sent;
    length -= sent;
    fd_count = 0;
  }
  return true;
}

bool connection_send(struct connection *connection, uint8_t type, const void *payload, uint32_t length,
                     const int *fds, uint8_t fd_count) {
  uint8_t *bytes = malloc(FRAME_HEADER + (size_t)length);
  if (bytes == NULL) return false;
  write_u32(bytes, length);
  bytes[4] = type;
  bytes[5] = fd_count;
  bytes[6] = bytes[7] = 0;
  if (length > 0) memcpy(bytes + FRAME_HEADER, payload, length);
  bool sent = connection_send_raw(connection, bytes, FRAME_HEADER + (size_t)length, fds, fd_count);
  free(bytes);
  return sent;
}
