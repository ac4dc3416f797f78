// SPDX-License-Identifier: Apache-2.0
// Sockets of all kinds. Who listens on the host, and where, comes in the environment.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/netlink.h>
#include <net/if.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "probe.h"

#ifndef AF_VSOCK
#define AF_VSOCK 40
#endif

static enum outcome vsock(void) { return by_result(socket(AF_VSOCK, SOCK_STREAM, 0)); }
static enum outcome packet(void) { return by_result(socket(AF_PACKET, SOCK_RAW, 0)); }
static enum outcome raw_ip(void) { return by_result(socket(AF_INET, SOCK_RAW, IPPROTO_ICMP)); }
static enum outcome crypto(void) {
  int result = socket(AF_ALG, SOCK_SEQPACKET, 0);
  return result < 0 && errno == EAFNOSUPPORT ? THROUGH : by_result(result); // it was looked for
}
static enum outcome bluetooth(void) {
  int result = socket(AF_BLUETOOTH, SOCK_RAW, 1);
  return result < 0 && errno == EAFNOSUPPORT ? THROUGH : by_result(result);
}
static enum outcome audit(void) {
  return by_result(socket(AF_NETLINK, SOCK_RAW, 9 /* NETLINK_AUDIT */));
}
static enum outcome change_interface(void) {
  struct ifreq request = {.ifr_name = "lo"};
  int fd = socket(AF_INET, SOCK_DGRAM, 0);
  if (fd < 0 || ioctl(fd, SIOCGIFFLAGS, &request) != 0) return STOPPED;
  return by_result(ioctl(fd, SIOCSIFFLAGS, &request));
}
static enum outcome low_port(void) {
  int fd = socket(AF_INET, SOCK_STREAM, 0);
  struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(80)};
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  return fd < 0 ? STOPPED : by_result(bind(fd, (struct sockaddr *)&address, sizeof address));
}
static enum outcome host_loopback(void) {
  const char *port = getenv("PROBE_PORT");
  if (port == NULL) return ABSENT;
  int fd = socket(AF_INET, SOCK_STREAM, 0);
  struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(port))};
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  return fd < 0 ? STOPPED : by_result(connect(fd, (struct sockaddr *)&address, sizeof address));
}
static enum outcome own_loopback(void) {
  int fd = socket(AF_INET, SOCK_STREAM, 0);
  struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(1)};
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  if (fd < 0) return STOPPED;
  int result = connect(fd, (struct sockaddr *)&address, sizeof address);
  return result != 0 && errno == ECONNREFUSED ? THROUGH : by_result(result); // it was knocked at
}
static enum outcome listen_on(void) {
  int fd = socket(AF_INET, SOCK_STREAM, 0);
  struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(18080)};
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  return fd < 0 ? STOPPED : by_result(bind(fd, (struct sockaddr *)&address, sizeof address));
}
static enum outcome abstract_socket(void) {
  const char *name = getenv("PROBE_ABSTRACT");
  if (name == NULL) return ABSENT;
  int fd = socket(AF_UNIX, SOCK_STREAM, 0);
  struct sockaddr_un address = {.sun_family = AF_UNIX};
  strncpy(address.sun_path + 1, name, sizeof address.sun_path - 2);
  socklen_t length = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + strlen(name));
  return fd < 0 ? STOPPED : by_result(connect(fd, (struct sockaddr *)&address, length));
}
static enum outcome other_interfaces(void) {
  struct if_nameindex *all = if_nameindex();
  if (all == NULL) return STOPPED;
  errno = ENODEV;
  for (struct if_nameindex *it = all; it->if_index != 0; it++)
    if (strcmp(it->if_name, "lo") != 0) return THROUGH;
  return STOPPED;
}
// To where the host has a route: its own address where it knows no other. Connecting only looks.
static enum outcome out_of_here(void) {
  const char *to = getenv("PROBE_ROUTE");
  int fd = socket(AF_INET, SOCK_DGRAM, 0);
  struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(53)};
  if (to == NULL || inet_pton(AF_INET, to, &address.sin_addr) != 1) return ABSENT;
  return fd < 0 ? STOPPED : by_result(connect(fd, (struct sockaddr *)&address, sizeof address));
}

// What a host may have a module for; the last is MPTCP. Of other families every type is named.
static const int protocols[] = {0, 1, 2, 6, 17, 33, 41, 47, 50, 51, 58, 108, 115, 132, 136, 255, 262};
static const int types[] = {SOCK_STREAM, SOCK_DGRAM, SOCK_RAW, SOCK_RDM, SOCK_SEQPACKET, 6 /* DCCP */};
#define COUNT(array) (sizeof array / sizeof *array)

typedef int opener(int family, int type, int protocol);

static int is_usual(int family, int type, int protocol) {
  if (family == AF_UNIX) return 1;
  if (family == AF_NETLINK) return protocol == NETLINK_ROUTE;
  int ping = family == AF_INET ? IPPROTO_ICMP : IPPROTO_ICMPV6;
  if (family != AF_INET && family != AF_INET6) return 0;
  if (type == SOCK_STREAM) return protocol == 0 || protocol == IPPROTO_TCP;
  return type == SOCK_DGRAM && (protocol == 0 || protocol == IPPROTO_UDP || protocol == ping);
}
static enum outcome open_unusual(opener *open_one, int family, int type, int protocol) {
  if (is_usual(family, type, protocol)) return STOPPED;
  int fd = open_one(family, type | SOCK_CLOEXEC | SOCK_NONBLOCK, protocol);
  if (fd >= 0) close(fd);
  return by_result(fd);
}
static enum outcome every_protocol_by(opener *open_one) {
  enum outcome result = STOPPED;
  for (int family = 0; family < 46; family++)
    for (size_t t = 0; t < COUNT(types); t++) {
      int netlink = family == AF_NETLINK, internet = family == AF_INET || family == AF_INET6;
      for (size_t p = 0; p < (netlink ? 32 : internet ? COUNT(protocols) : 1); p++)
        if (open_unusual(open_one, family, types[t], netlink ? (int)p : protocols[p]) == THROUGH)
          result = THROUGH;
    }
  errno = EPROTONOSUPPORT;
  return result;
}
static enum outcome every_protocol(void) { return every_protocol_by(socket); }
static int ia32_socket(int family, int type, int protocol) {
  long result;
  __asm__ volatile("int $0x80"
                   : "=a"(result)
                   : "a"(359), "b"(family), "c"(type), "d"(protocol)
                   : "memory", "r8", "r9", "r10", "r11");
  return (int)result;
}
static enum outcome ia32_every_protocol(void) { return every_protocol_by(ia32_socket); }
// The kernel looks for the protocol, and says only then that it makes no pairs.
static enum outcome pair_socket(void) {
  int ends[2], result = socketpair(AF_TIPC, SOCK_STREAM, 0, ends);
  return result < 0 && errno == EAFNOSUPPORT ? THROUGH : by_result(result);
}
static enum outcome ask_for(int family, int type, unsigned long request) {
  int fd = socket(family, type, 0);
  // It has looked at the argument, which is nowhere, or has nobody to ask.
  return ioctl(fd, request, NULL) != 0 && (errno == EFAULT || errno == ENOPKG) ? THROUGH : STOPPED;
}
static enum outcome bridge_ioctl(void) { return ask_for(AF_INET, SOCK_DGRAM, 0x8940 /* SIOCGIFBR */); }
static enum outcome vlan_ioctl(void) { return ask_for(AF_INET, SOCK_DGRAM, 0x8982 /* SIOCGIFVLAN */); }
static enum outcome line_discipline(void) {
  int terminal = posix_openpt(O_RDWR | O_NOCTTY), none = 29;
  if (terminal < 0) return STOPPED;
  // No kernel has that one: it has looked for it.
  return ioctl(terminal, TIOCSETD, &none) != 0 && errno == EINVAL ? THROUGH : STOPPED;
}

const struct verb network_verbs[] = {
    {"vsock", vsock},
    {"packet-socket", packet},
    {"raw-socket", raw_ip},
    {"crypto-socket", crypto},
    {"bluetooth-socket", bluetooth},
    {"audit-socket", audit},
    {"every-protocol", every_protocol},
    {"ia32-every-protocol", ia32_every_protocol},
    {"pair-socket", pair_socket},
    {"bridge-ioctl", bridge_ioctl},
    {"vlan-ioctl", vlan_ioctl},
    {"line-discipline", line_discipline},
    {"change-interface", change_interface},
    {"low-port", low_port},
    {"host-loopback", host_loopback},
    {"own-loopback", own_loopback},
    {"listen", listen_on},
    {"abstract-socket", abstract_socket},
    {"other-interfaces", other_interfaces},
    {"route-out", out_of_here},
    {NULL, NULL},
};
