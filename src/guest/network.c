// SPDX-License-Identifier: Apache-2.0
#define _GNU_SOURCE
#include "network.h"

#include <errno.h>
#include <net/if.h>
#include <net/route.h>
#include <netinet/in.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#define DHCP_CLIENT_PORT 68

static void set_ipv4(struct sockaddr *out, uint32_t address) {
  struct sockaddr_in in = {.sin_family = AF_INET, .sin_addr.s_addr = address};
  memcpy(out, &in, sizeof in);
}

static int name_interface(struct ifreq *request, const char *interface) {
  *request = (struct ifreq){0};
  strcpy(request->ifr_name, interface);
  return 0;
}

// Changes the default route: through a gateway or, with 0, directly through the interface.
static int change_default(int fd, unsigned long change, struct ifreq *interface, uint32_t gateway) {
  struct rtentry route = {.rt_dev = interface->ifr_name,
                          .rt_flags = RTF_UP | (gateway == 0 ? 0 : RTF_GATEWAY)};
  set_ipv4(&route.rt_dst, 0);
  set_ipv4(&route.rt_genmask, 0);
  set_ipv4(&route.rt_gateway, gateway);
  return ioctl(fd, change, &route);
}

static int closing(int fd, int result) {
  int error = errno;
  close(fd);
  errno = error;
  return result;
}

int network_dhcp_socket(const char *interface) {
  struct ifreq request;
  if (name_interface(&request, interface) != 0) return -1;
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

int network_set_address(const char *interface, const struct wire_address *wanted) {
  struct ifreq request;
  if (name_interface(&request, interface) != 0) return -1;
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
