// SPDX-License-Identifier: Apache-2.0
#define _GNU_SOURCE
#include "service.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "mounts.h"
#include "network.h"

#define NOTIFY_TEXT_MAX 4096
#define NOTIFY_PER_SECOND 100

static int notify_fd = -1;

struct request {
  uint32_t id, family, pid, signo;
  const char *path; // of a file, or the name of an interface
  struct network_address address;
};

static void done(int control, uint32_t id, uint32_t value) {
  answer_begin(MSG_DONE);
  answer_u32(OUT_ID, id);
  answer_u32(OUT_PID, value);
  answer_send(control);
}

static int make_directories(const struct message *message) {
  struct field field;
  size_t offset = 0;
  while (field_next(message, &offset, &field) > 0)
    if (field.tag == EXEC_DIRECTORY && mounts_directory(&field) != 0) return -1;
  return 0;
}

// The runner connects it: connecting here would let a service whose backlog is full hold up the init.
static int make_socket(const struct request *request) {
  return socket((int)request->family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
}

static int hand_over(const struct message *message, int made) {
  if (made < 0) return -1;
  if (message->nfds != 1) {
    close(made);
    errno = EBADMSG;
    return -1;
  }
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
  memcpy(CMSG_DATA(c), &made, sizeof(int));
  int result = sendmsg(message->fds[0], &msg, MSG_NOSIGNAL) == 1 ? 0 : -1, error = errno;
  close(made);
  errno = error;
  return result;
}

static int adopt(const struct request *request, struct execution *slots, int count) {
  pid_t pid = (pid_t)request->pid, session = getsid(pid);
  if (pid <= 1 || session < 0) {
    errno = ESRCH;
    return -1;
  }
  for (int i = 0; i < count; i++)
    if (slots[i].pid == pid) {
      slots[i].id = request->id;
      return (int)session;
    }
  for (int i = 0; i < count; i++)
    if (slots[i].pid == 0) {
      slots[i] = (struct execution){.id = request->id, .pid = pid, .tty = -1};
      return (int)session;
    }
  errno = EAGAIN;
  return -1;
}

static int kill_session(const struct request *request) {
  int directory = open("/proc", O_RDONLY | O_DIRECTORY | O_CLOEXEC), killed = 0;
  if (directory < 0) return -1;
  static char entries[16 << 10] __attribute__((aligned(8)));
  long n;
  while ((n = syscall(SYS_getdents64, directory, entries, sizeof entries)) > 0)
    for (long at = 0; at < n;) {
      struct dirent64 *entry = (struct dirent64 *)(entries + at);
      at += entry->d_reclen;
      pid_t pid = (pid_t)atoi(entry->d_name);
      if (pid > 1 && getsid(pid) == (pid_t)request->pid && kill(pid, (int)request->signo) == 0)
        killed++;
    }
  close(directory);
  return killed;
}

static int make_notify_socket(const char *path) {
  struct sockaddr_un address = {.sun_family = AF_UNIX};
  if (path == NULL || strlen(path) >= sizeof address.sun_path || notify_fd >= 0) {
    errno = EINVAL;
    return -1;
  }
  strcpy(address.sun_path, path);
  int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0), yes = 1;
  if (fd < 0) return -1;
  unlink(path);
  if (setsockopt(fd, SOL_SOCKET, SO_PASSCRED, &yes, sizeof yes) != 0 ||
      bind(fd, (struct sockaddr *)&address, sizeof address) != 0 || chmod(path, 0666) != 0) {
    int error = errno;
    close(fd);
    errno = error;
    return -1;
  }
  notify_fd = fd;
  return 0;
}

void service_obey(struct message *message, int control, struct execution *slots, int count) {
  struct request request = {0};
  struct field field;
  size_t offset = 0;
  while (field_next(message, &offset, &field) > 0) {
    if (field.tag == EXEC_ID) field_u32(&field, 0, &request.id);
    if (field.tag == EXEC_FAMILY) field_u32(&field, 0, &request.family);
    if (field.tag == EXEC_PID) field_u32(&field, 0, &request.pid);
    if (field.tag == EXEC_SIGNO) field_u32(&field, 0, &request.signo);
    if (field.tag == EXEC_ADDRESS && field.length == sizeof request.address)
      memcpy(&request.address, field.data, sizeof request.address);
    if (field.tag == EXEC_PATH) request.path = field_string(&field, 0);
  }
  int result = -1;
  const char *what = "obey";
  if (message->type == MSG_DIRECTORY) {
    result = make_directories(message);
    what = "make directories";
  } else if (message->type == MSG_SOCKET) {
    result = hand_over(message, make_socket(&request));
    what = "make a socket";
  } else if (message->type == MSG_ADOPT) {
    result = adopt(&request, slots, count);
    what = "watch a process";
  } else if (message->type == MSG_KILL_SESSION) {
    result = kill_session(&request);
    what = "signal a session";
  } else if (message->type == MSG_NOTIFY_SOCKET) {
    result = make_notify_socket(request.path);
    what = "make the notify socket";
  } else if (message->type == MSG_DHCP_SOCKET) {
    result = hand_over(message, network_dhcp_socket(request.path));
    what = "make a socket for DHCP";
  } else if (message->type == MSG_ADDRESS) {
    result = network_set_address(request.path, &request.address);
    what = "set an address";
  }
  if (result < 0) answer_failed(control, request.id, errno, what, NULL);
  else done(control, request.id, (uint32_t)result);
}

int service_notify_fd(void) { return notify_fd; }

// A process that does nothing but notify must not keep init and runner busy.
static int too_many(void) {
  static time_t second;
  static int count;
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  if (now.tv_sec != second) {
    second = now.tv_sec;
    count = 0;
  }
  return ++count > NOTIFY_PER_SECOND;
}

void service_notify(int control) {
  static char text[NOTIFY_TEXT_MAX];
  union {
    struct cmsghdr header;
    char bytes[CMSG_SPACE(sizeof(struct ucred))];
  } ancillary;
  struct iovec iov = {text, sizeof text};
  // No room for descriptors: the kernel closes those that come along.
  struct msghdr msg = {.msg_iov = &iov,
                       .msg_iovlen = 1,
                       .msg_control = ancillary.bytes,
                       .msg_controllen = sizeof ancillary.bytes};
  ssize_t n = recvmsg(notify_fd, &msg, MSG_CMSG_CLOEXEC);
  struct cmsghdr *c = n > 0 ? CMSG_FIRSTHDR(&msg) : NULL;
  if (c == NULL || c->cmsg_type != SCM_CREDENTIALS || control < 0 || too_many()) return;
  struct ucred sender;
  memcpy(&sender, CMSG_DATA(c), sizeof sender);
  answer_begin(MSG_NOTIFY);
  answer_u32(OUT_PID, (uint32_t)sender.pid);
  answer_bytes(OUT_WHAT, text, (size_t)n);
  answer_send(control);
}
