// SPDX-License-Identifier: Apache-2.0
// A machine's network card becomes the sandbox's, as libvirt gives a container one end of a pair.
#include <errno.h>
#include <fcntl.h>
#include <linux/rtnetlink.h>
#include <net/if.h>
#include <netinet/in.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "protocol.h"
#include "stage0.h"

#define BACKLOG 128
#define CARD "eth%u"
#define CARDS_MAX 256

// Sends one request to the kernel, and waits for what it says of it. -1 (errno).
static int ask_kernel(int fd, const void *request, size_t length) {
  struct {
    struct nlmsghdr head;
    struct nlmsgerr error;
    char rest[1024];
  } answer = {0};
  if (send(fd, request, length, 0) != (ssize_t)length || recv(fd, &answer, sizeof answer, 0) < 0) return -1;
  errno = -answer.error.error;
  return answer.error.error == 0 ? 0 : -1;
}

static void card_name(char name[IFNAMSIZ], uint32_t nth) { snprintf(name, IFNAMSIZ, CARD, nth); }

static int give_card(int fd, unsigned index, pid_t pid) {
  struct {
    struct nlmsghdr head;
    struct ifinfomsg link;
    struct rtattr attribute;
    uint32_t pid;
  } move = {{sizeof move, RTM_NEWLINK, NLM_F_REQUEST | NLM_F_ACK, 1, 0},
            {.ifi_family = AF_UNSPEC, .ifi_index = (int)index},
            {RTA_LENGTH(4), IFLA_NET_NS_PID},
            (uint32_t)pid};
  return ask_kernel(fd, &move, sizeof move);
}

int network_give(pid_t pid) {
  char name[IFNAMSIZ];
  int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE), failed = fd < 0;
  for (uint32_t nth = 0; !failed && nth < CARDS_MAX; nth++) {
    card_name(name, nth);
    unsigned index = if_nametoindex(name);
    if (index != 0) failed = give_card(fd, index, pid) != 0;
  }
  return closing(fd, failed ? -1 : 0);
}

static int bring_up(int fd, const char *name) {
  struct ifreq request = {.ifr_flags = IFF_UP};
  strcpy(request.ifr_name, name);
  return ioctl(fd, SIOCSIFFLAGS, &request);
}

int network_up(void) {
  char name[IFNAMSIZ];
  int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  int failed = fd < 0 || bring_up(fd, "lo") != 0;
  for (uint32_t nth = 0; !failed && nth < CARDS_MAX; nth++) {
    card_name(name, nth);
    if (if_nametoindex(name) != 0) failed = bring_up(fd, name) != 0;
  }
  return closing(fd, failed ? -1 : 0);
}

// A socket in the network of a process. -1 (errno).
static int socket_of(pid_t pid, int family, int type, int protocol) {
  char path[64];
  snprintf(path, sizeof path, "/proc/%d/ns/net", pid);
  int own = open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC);
  int theirs = open(path, O_RDONLY | O_CLOEXEC), fd = -1;
  if (own >= 0 && theirs >= 0 && setns(theirs, CLONE_NEWNET) == 0) {
    fd = socket(family, type | SOCK_CLOEXEC, protocol);
    int error = errno;
    if (setns(own, CLONE_NEWNET) != 0) power_off();
    errno = error;
  }
  return closing(own, closing(theirs, fd));
}

static int stream_socket_of(pid_t pid) { return socket_of(pid, AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0); }

static struct sockaddr_in loopback(uint16_t port) {
  return (struct sockaddr_in){
      .sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
}

int network_connect(pid_t pid, uint16_t port) {
  struct sockaddr_in address = loopback(port);
  int fd = stream_socket_of(pid);
  if (fd < 0) return -1;
  if (connect(fd, (struct sockaddr *)&address, sizeof address) == 0 || errno == EINPROGRESS) return fd;
  return closing(fd, -1);
}

int network_listen(pid_t pid, uint16_t port) {
  struct sockaddr_in address = loopback(port);
  int fd = stream_socket_of(pid), yes = 1;
  // Connections of the port's last listener may still be closing.
  if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes) != 0 ||
      bind(fd, (struct sockaddr *)&address, sizeof address) != 0 || listen(fd, BACKLOG) != 0)
    return closing(fd, -1);
  return fd;
}

#define ADDRESS 16 // bytes of one in an order

// Of rtnetlink(7), as it is put together.
struct request {
  size_t length;
  _Alignas(struct nlmsghdr) char bytes[256];
};

static void add(struct request *request, const void *data, size_t length) {
  memcpy(request->bytes + request->length, data, length);
  request->length += RTA_ALIGN(length);
}

static struct request begin(uint16_t type, const void *body, size_t length) {
  struct request request = {0};
  struct nlmsghdr head = {0, type, NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE | NLM_F_REPLACE, 1, 0};
  add(&request, &head, sizeof head);
  add(&request, body, length);
  return request;
}

static void add_attribute(struct request *request, uint16_t type, const void *data, size_t length) {
  struct rtattr head = {(uint16_t)RTA_LENGTH(length), type};
  add(request, &head, sizeof head);
  add(request, data, length);
}

static int send_request(int fd, struct request *request) {
  uint32_t length = (uint32_t)request->length;
  memcpy(request->bytes, &length, sizeof length);
  return ask_kernel(fd, request->bytes, length);
}

static int set_address(int fd, uint32_t index, const struct wire_card *card, size_t length) {
  // Looking for others that have it (DAD) would keep it from being used for a second.
  struct ifaddrmsg body = {(uint8_t)card->family, (uint8_t)card->prefix, IFA_F_NODAD, RT_SCOPE_UNIVERSE, index};
  struct request request = begin(RTM_NEWADDR, &body, sizeof body);
  add_attribute(&request, IFA_LOCAL, card->addresses, length);
  add_attribute(&request, IFA_ADDRESS, card->addresses, length);
  return send_request(fd, &request);
}

static int set_route(int fd, uint32_t index, const struct wire_card *card, size_t length) {
  struct rtmsg body = {.rtm_family = (uint8_t)card->family,
                       .rtm_dst_len = (uint8_t)card->prefix,
                       .rtm_table = RT_TABLE_MAIN,
                       .rtm_protocol = RTPROT_BOOT,
                       .rtm_scope = RT_SCOPE_UNIVERSE,
                       .rtm_type = RTN_UNICAST};
  struct request request = begin(RTM_NEWROUTE, &body, sizeof body);
  if (card->prefix != 0) add_attribute(&request, RTA_DST, card->addresses, length);
  add_attribute(&request, RTA_GATEWAY, card->addresses + ADDRESS, length);
  add_attribute(&request, RTA_OIF, &index, sizeof index);
  return send_request(fd, &request);
}

int network_set(pid_t pid, const struct wire_card *card) {
  struct ifreq named = {0};
  int fd = socket_of(pid, AF_NETLINK, SOCK_RAW, NETLINK_ROUTE);
  card_name(named.ifr_name, card->nth);
  if (fd < 0 || ioctl(fd, SIOCGIFINDEX, &named) != 0) return closing(fd, -1);
  uint32_t index = (uint32_t)named.ifr_ifindex;
  size_t length = card->family == FAMILY_IPV6 ? 16 : 4;
  int is_route = card->addresses_length > ADDRESS;
  return closing(fd, is_route ? set_route(fd, index, card, length) : set_address(fd, index, card, length));
}
