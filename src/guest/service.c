// SPDX-License-Identifier: Apache-2.0
#include "init.h"

#include <dirent.h>
#include <errno.h>
#include <net/if.h>
#include <net/route.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "mounts.h"

#define DHCP_CLIENT_PORT 68
#define NOTIFY_TEXT_MAX 4096
#define NOTIFY_PER_SECOND 100

static int notify_fd = -1;

struct request {
  uint32_t id, family, pid, signo, layer;
  const char *path, *interface;
  struct wire_address address;
};

static int make_directories(const struct message *message) {
  struct field field;
  size_t offset = 0;
  while (field_next(message, &offset, &field)) {
    if (field.tag != FIELD_DIRECTORY) continue;
    struct wire_directory directory = wire_get_directory(&field);
    if (mounts_directory(&directory) != 0) return -1;
  }
  return 0;
}

static int hand_over(const struct message *message, int made) {
  if (made < 0) return -1;
  if (message->refused) return closing(made, failing(EACCES));
  return closing(made, send_descriptor(message->fds[0], made));
}

static int adopt(const struct request *request, struct execution *slots, int count) {
  pid_t pid = (pid_t)request->pid, session = getsid(pid);
  if (pid <= 1 || session < 0) return failing(ESRCH);
  struct execution *slot = NULL;
  for (int i = 0; i < count && (slot == NULL || slot->pid != pid); i++)
    if (slots[i].pid == pid || (slots[i].pid == 0 && slot == NULL)) slot = &slots[i];
  if (slot == NULL) return failing(EAGAIN);
  if (slot->pid == 0) *slot = (struct execution){.pid = pid, .tty = -1};
  slot->id = request->id;
  return (int)session;
}

static int kill_session(const struct request *request) {
  DIR *directory = opendir("/proc");
  if (directory == NULL) return -1;
  int killed = 0;
  struct dirent *entry;
  while ((entry = readdir(directory)) != NULL) {
    pid_t pid = (pid_t)atoi(entry->d_name);
    if (pid > 1 && getsid(pid) == (pid_t)request->pid && kill(pid, (int)request->signo) == 0)
      killed++;
  }
  closedir(directory);
  return killed;
}

static int make_notify_socket(const char *path) {
  struct sockaddr_un address = {.sun_family = AF_UNIX};
  if (notify_fd >= 0) return failing(EINVAL);
  strcpy(address.sun_path, path);
  int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0), yes = 1;
  if (fd < 0) return -1;
  unlink(path);
  if (setsockopt(fd, SOL_SOCKET, SO_PASSCRED, &yes, sizeof yes) != 0 ||
      bind(fd, (struct sockaddr *)&address, sizeof address) != 0 || chmod(path, 0666) != 0)
    return closing(fd, -1);
  notify_fd = fd;
  return 0;
}

static void set_ipv4(struct sockaddr *out, uint32_t address) {
  struct sockaddr_in in = {.sin_family = AF_INET, .sin_addr.s_addr = address};
  memcpy(out, &in, sizeof in);
}

static struct ifreq interface_named(const char *name) {
  struct ifreq request = {0};
  strcpy(request.ifr_name, name);
  return request;
}

static int change_default(int fd, unsigned long change, struct ifreq *interface, uint32_t gateway) {
  struct rtentry route = {.rt_dev = interface->ifr_name,
                          .rt_flags = RTF_UP | (gateway == 0 ? 0 : RTF_GATEWAY)};
  set_ipv4(&route.rt_dst, 0);
  set_ipv4(&route.rt_genmask, 0);
  set_ipv4(&route.rt_gateway, gateway);
  return ioctl(fd, change, &route);
}

static int dhcp_socket(const char *interface) {
  struct ifreq request = interface_named(interface);
  int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0), yes = 1;
  if (fd < 0) return -1;
  struct sockaddr_in any = {.sin_family = AF_INET, .sin_port = htons(DHCP_CLIENT_PORT)};
  if (setsockopt(fd, SOL_SOCKET, SO_BROADCAST, &yes, sizeof yes) != 0 ||
      setsockopt(fd, SOL_SOCKET, SO_BINDTODEVICE, request.ifr_name, sizeof request.ifr_name) != 0 ||
      bind(fd, (struct sockaddr *)&any, sizeof any) != 0)
    return closing(fd, -1);
  // libvirt leaves an interface without an address down.
  if (ioctl(fd, SIOCGIFFLAGS, &request) != 0) return closing(fd, -1);
  request.ifr_flags |= IFF_UP;
  if (ioctl(fd, SIOCSIFFLAGS, &request) != 0) return closing(fd, -1);
  // With rp_filter, an interface without a route receives no answers.
  if (change_default(fd, SIOCADDRT, &request, 0) != 0 && errno != EEXIST) return closing(fd, -1);
  return fd;
}

static int set_address(const char *interface, const struct wire_address *wanted) {
  struct ifreq request = interface_named(interface);
  int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  if (fd < 0) return -1;
  set_ipv4(&request.ifr_addr, wanted->address);
  if (ioctl(fd, SIOCSIFADDR, &request) != 0) return closing(fd, -1);
  set_ipv4(&request.ifr_netmask, wanted->mask);
  if (ioctl(fd, SIOCSIFNETMASK, &request) != 0) return closing(fd, -1);
  while (change_default(fd, SIOCDELRT, &request, 0) == 0) continue;
  if (wanted->gateway != 0 && change_default(fd, SIOCADDRT, &request, wanted->gateway) != 0 &&
      errno != EEXIST)
    return closing(fd, -1);
  return closing(fd, 0);
}

static struct request read_request(const struct message *message) {
  struct request request = {0};
  struct field field;
  size_t offset = 0;
  while (field_next(message, &offset, &field)) {
    if (field.tag == FIELD_ID) request.id = wire_get_id(&field);
    if (field.tag == FIELD_FAMILY) request.family = wire_get_family(&field);
    if (field.tag == FIELD_PROCESS) request.pid = wire_get_process(&field);
    if (field.tag == FIELD_SIGNAL) request.signo = wire_get_signal(&field);
    if (field.tag == FIELD_LAYER) request.layer = wire_get_layer(&field);
    if (field.tag == FIELD_ADDRESS) request.address = wire_get_address(&field);
    if (field.tag == FIELD_INTERFACE) request.interface = wire_get_interface(&field);
    if (field.tag == FIELD_SOCKET) request.path = wire_get_socket(&field);
  }
  return request;
}

// kiln connects it: connecting here would let a service with a full backlog block the init.
static int unconnected(uint32_t family) {
  return socket((int)family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
}

static int answer(int control, uint32_t id, int result, uint32_t code) {
  if (result >= 0) answer_done(control, id, (uint32_t)result);
  else answer_refused(control, id, errno, code, NULL);
  return 0;
}

int service_obey(struct message *message, int control, struct execution *slots, int count) {
  struct request request = read_request(message);
  uint32_t id = request.id;
  switch (message->type) {
  case MSG_DIRECTORY:
    return answer(control, id, make_directories(message), FAIL_MAKE_DIRECTORIES);
  case MSG_SOCKET:
    return answer(control, id, hand_over(message, unconnected(request.family)), FAIL_SOCKET);
  case MSG_ADOPT: return answer(control, id, adopt(&request, slots, count), FAIL_ADOPT);
  case MSG_KILL_SESSION: return answer(control, id, kill_session(&request), FAIL_KILL_SESSION);
  case MSG_NOTIFY_SOCKET:
    return answer(control, id, make_notify_socket(request.path), FAIL_NOTIFY_SOCKET);
  case MSG_DHCP_SOCKET:
    return answer(control, id, hand_over(message, dhcp_socket(request.interface)), FAIL_DHCP_SOCKET);
  case MSG_ADDRESS:
    return answer(control, id, set_address(request.interface, &request.address), FAIL_ADDRESS);
  case MSG_LAYER:
    return answer(control, id, hand_over(message, mounts_layer(request.layer)), FAIL_NO_LAYER);
  default: return -1;
  }
}

int service_notify_fd(void) { return notify_fd; }

// A process that only notifies must not keep init and kiln busy.
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
  // No room for descriptors: the kernel closes those that are sent along.
  struct msghdr msg = {.msg_iov = &iov,
                       .msg_iovlen = 1,
                       .msg_control = ancillary.bytes,
                       .msg_controllen = sizeof ancillary.bytes};
  ssize_t n = recvmsg(notify_fd, &msg, MSG_CMSG_CLOEXEC);
  struct cmsghdr *c = n > 0 ? CMSG_FIRSTHDR(&msg) : NULL;
  if (c == NULL || c->cmsg_type != SCM_CREDENTIALS || control < 0 || too_many()) return;
  struct ucred sender;
  memcpy(&sender, CMSG_DATA(c), sizeof sender);
  struct writer *answer = answer_begin(MSG_NOTIFY);
  wire_put_process(answer, (uint32_t)sender.pid);
  wire_put_said(answer, (struct wire_said){(const unsigned char *)text, (size_t)n});
  answer_send(control);
}
