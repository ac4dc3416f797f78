// SPDX-License-Identifier: Apache-2.0
// Descriptors: how they are passed, and what kiln's are to the guest.
#include <errno.h>
#include <fcntl.h>
#include <linux/mount.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "port.h"
#include "relay.h"

static int failing(int error) {
  errno = error;
  return -1;
}

int send_descriptor(int socket_fd, char byte, int fd) {
  union {
    struct cmsghdr header;
    char bytes[CMSG_SPACE(sizeof(int))];
  } control = {0};
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
  return sendmsg(socket_fd, &msg, MSG_NOSIGNAL | MSG_DONTWAIT) == 1 ? 0 : -1;
}

int receive_descriptor(int socket_fd, char *byte) {
  union {
    struct cmsghdr header;
    char bytes[CMSG_SPACE(sizeof(int))];
  } control = {0};
  struct iovec iov = {byte, 1};
  struct msghdr msg = {.msg_iov = &iov,
                       .msg_iovlen = 1,
                       .msg_control = control.bytes,
                       .msg_controllen = sizeof control.bytes};
  ssize_t n;
  do n = recvmsg(socket_fd, &msg, MSG_CMSG_CLOEXEC);
  while (n < 0 && errno == EINTR);
  struct cmsghdr *c = n > 0 ? CMSG_FIRSTHDR(&msg) : NULL;
  if (c == NULL || c->cmsg_type != SCM_RIGHTS) return -1;
  int fd;
  memcpy(&fd, CMSG_DATA(c), sizeof fd);
  return fd;
}

static int attach(int mount_fd, int directory, uint32_t *share) {
  static uint32_t shares;
  char name[16];
  snprintf(name, sizeof name, "%u", ++shares);
  int folder = open("/shares", O_PATH | O_DIRECTORY | O_CLOEXEC), target = -1;
  if (folder < 0) return -1;
  if (directory && mkdirat(folder, name, 0755) == 0)
    target = openat(folder, name, O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
  if (!directory)
    target = openat(folder, name, O_RDONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
  close(folder);
  if (target < 0) return -1;
  long moved = syscall(SYS_move_mount, mount_fd, "", target, "",
                       MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH);
  int error = errno;
  close(target);
  if (moved != 0) return failing(error);
  *share = shares;
  return 0;
}

static int describe_share(int fd, const struct stat *st, struct port_descriptor *out) {
  struct statvfs fs;
  if (fstatvfs(fd, &fs) != 0) return -1;
  out->kind = DESCRIPTOR_SHARE;
  out->flags = (S_ISDIR(st->st_mode) ? SHARE_DIRECTORY : 0) |
               (fs.f_flag & ST_RDONLY ? SHARE_READONLY : 0);
  uint32_t share = 0;
  int result = attach(fd, S_ISDIR(st->st_mode), &share);
  close(fd);
  out->value = share;
  return result;
}

int passing_describe(int fd, unsigned place, uint32_t command, uint16_t *id,
                     struct port_descriptor *out) {
  struct stat st;
  int flags = fcntl(fd, F_GETFL);
  *out = (struct port_descriptor){.command = command};
  *id = 0;
  if (flags < 0 || fstat(fd, &st) != 0) return -1;
  if (flags & O_PATH) return describe_share(fd, &st, out);
  int access = flags & O_ACCMODE;
  out->kind = S_ISSOCK(st.st_mode)                                        ? DESCRIPTOR_CARRIER
              : access == O_RDONLY || (access == O_RDWR && place == 0) ? DESCRIPTOR_INPUT
                                                                          : DESCRIPTOR_OUTPUT;
  unsigned moves = out->kind == DESCRIPTOR_INPUT    ? MOVES_OUT
                   : out->kind == DESCRIPTOR_OUTPUT ? MOVES_IN
                                                    : 0;
  struct stream *stream = NULL;
  if ((*id = stream_free_id()) == 0) return failing(EMFILE);
  if ((stream = stream_open(*id, (uint8_t)out->kind, fd, moves)) == NULL) return -1;
  stream->command = command;
  return 0;
}
