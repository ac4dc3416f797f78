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
#define CARD "eth0"

int network_give(pid_t pid) {
  struct {
    struct nlmsghdr head;
    struct ifinfomsg link;
    struct rtattr attribute;
    uint32_t pid;
  } move = {{sizeof move, RTM_NEWLINK, NLM_F_REQUEST | NLM_F_ACK, 1, 0},
            {.ifi_family = AF_UNSPEC, .ifi_index = (int)if_nametoindex(CARD)},
            {RTA_LENGTH(4), IFLA_NET_NS_PID},
            (uint32_t)pid};
  struct {
    struct nlmsghdr head;
    struct nlmsgerr error;
    char rest[1024];
  } answer;
  if (move.link.ifi_index == 0) return 0;
  int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE);
  if (fd < 0) return -1;
  int failed = send(fd, &move, sizeof move, 0) != sizeof move || recv(fd, &answer, sizeof answer, 0) < 0;
  if (!failed && answer.error.error != 0) errno = -answer.error.error;
  close(fd);
  return failed || answer.error.error != 0 ? -1 : 0;
}

static int bring_up(int fd, const char *name) {
  struct ifreq request = {.ifr_flags = IFF_UP};
  strcpy(request.ifr_name, name);
  return ioctl(fd, SIOCSIFFLAGS, &request);
}

int network_up(void) {
  int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  if (fd < 0 || bring_up(fd, "lo") != 0) return -1;
  int result = if_nametoindex(CARD) == 0 ? 0 : bring_up(fd, CARD);
  close(fd);
  return result;
}

static int stream_socket_of(pid_t pid) {
  char path[64];
  snprintf(path, sizeof path, "/proc/%d/ns/net", pid);
  int own = open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC);
  int theirs = open(path, O_RDONLY | O_CLOEXEC), fd = -1;
  if (own >= 0 && theirs >= 0 && setns(theirs, CLONE_NEWNET) == 0) {
    fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (setns(own, CLONE_NEWNET) != 0) power_off();
  }
  return closing(own, closing(theirs, fd));
}

int network_listen(pid_t pid, uint16_t port) {
  struct sockaddr_in address = {.sin_family = AF_INET,
                                .sin_port = htons(port),
                                .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
  int fd = stream_socket_of(pid), yes = 1;
  // Connections of the port's last listener may still be closing.
  if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes) != 0 ||
      bind(fd, (struct sockaddr *)&address, sizeof address) != 0 || listen(fd, BACKLOG) != 0)
    return closing(fd, -1);
  return fd;
}
