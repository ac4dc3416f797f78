// SPDX-License-Identifier: Apache-2.0
// Feeds the relay what a guest sends: cases of { u32 length, bytes[length] } on standard input, each to a relay that
// has a connection of kiln's, a command with three pipes and a carrier. Prints a line for each. Built with sanitizers,
// which end it at the first mistake.
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "port.h"
#include "relay.h"
#include "wire.h"

#define CASE_MAX (1u << 20)

int inside_words = -1;
static jmp_buf end;
static unsigned char input[CASE_MAX];

void leave_relay(int status) { longjmp(end, status + 1); }
void die(const char *what) {
  // What only a guest can bring about must not come to this.
  fprintf(stderr, "%s: %s\n", what, strerror(errno));
  abort();
}
int inside_forward(void) { return 0; }

static void must(int condition) {
  if (!condition) abort();
}

static void send_frame(int to, uint16_t type, uint16_t stream, const void *payload, uint32_t length) {
  struct port_header header = {length, type, stream};
  must(write(to, &header, sizeof header) == sizeof header);
  must(write(to, payload, length) == (ssize_t)length);
}

static void turns(int count) {
  while (count-- > 0) serve_turn(0);
}

static void hand_over(int link, int port) {
  must(send_descriptor(link, LINK_PORT, port) == 0);
  close(port);
}

static int connect_kiln(const char *path) {
  struct sockaddr_un address = {.sun_family = AF_UNIX};
  strcpy(address.sun_path, path);
  int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  must(connect(fd, (struct sockaddr *)&address, sizeof address) == 0);
  return fd;
}

static void ask(int kiln, uint32_t type, const int *fds, unsigned count) {
  uint32_t message[] = {12, type, FIELD_ID, 4, 7};
  union {
    struct cmsghdr header;
    char bytes[CMSG_SPACE(sizeof(int) * 3)];
  } control = {0};
  struct iovec iov = {message, sizeof message};
  struct msghdr msg = {.msg_iov = &iov,
                       .msg_iovlen = 1,
                       .msg_control = control.bytes,
                       .msg_controllen = CMSG_SPACE(sizeof(int) * count)};
  struct cmsghdr *c = CMSG_FIRSTHDR(&msg);
  c->cmsg_level = SOL_SOCKET;
  c->cmsg_type = SCM_RIGHTS;
  c->cmsg_len = CMSG_LEN(sizeof(int) * count);
  memcpy(CMSG_DATA(c), fds, sizeof(int) * count);
  must(sendmsg(kiln, &msg, 0) == sizeof message);
}

int main(int argc, char **argv) {
  uint32_t length, version = PORT_VERSION;
  char fresh[200], path[200];
  must(argc == 2);
  snprintf(fresh, sizeof fresh, "%s/new.sock", argv[1]);
  snprintf(path, sizeof path, "%s/init.sock", argv[1]);
  int folder = open(argv[1], O_RDONLY | O_DIRECTORY);
  while (fread(&length, sizeof length, 1, stdin) == 1) {
    if (length > CASE_MAX || fread(input, 1, length, stdin) != length) return 2;
    int port[2], link[2], in[2], out[2], err[2], carrier[2], room = 4 << 20;
    must(socketpair(AF_UNIX, SOCK_STREAM, 0, port) == 0 && socketpair(AF_UNIX, SOCK_SEQPACKET, 0, link) == 0);
    must(setsockopt(port[0], SOL_SOCKET, SO_SNDBUFFORCE, &room, sizeof room) == 0);
    must(pipe(in) == 0 && pipe(out) == 0 && pipe(err) == 0);
    must(socketpair(AF_UNIX, SOCK_STREAM, 0, carrier) == 0);
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    strcpy(address.sun_path, fresh);
    unlink(path), unlink(fresh);
    struct inner inner = {.link = link[1], .folder = folder, .console = -1, .base = 1, .count = 1};
    inner.listener = socket(AF_UNIX, SOCK_STREAM, 0);
    must(bind(inner.listener, (struct sockaddr *)&address, sizeof address) == 0);
    volatile int refused = 0;
    volatile int kiln = -1;
    if (setjmp(end) == 0) {
      serve_begin(&inner);
      hand_over(link[0], port[1]);
      send_frame(port[0], FRAME_HELLO, 0, &version, sizeof version);
      send_frame(port[0], FRAME_READY, 0, NULL, 0);
      turns(3);
      kiln = connect_kiln(path);
      ask(kiln, MSG_EXEC, (int[]){in[0], out[1], err[1]}, 3);
      ask(kiln, MSG_SOCKET, &carrier[1], 1);
      close(in[0]), close(out[1]), close(err[1]), close(carrier[1]);
      must(write(in[1], "input", 5) == 5);
      turns(4);
      // In pieces, for a port gives what it has.
      for (uint32_t at = 0; at < length;) {
        uint32_t piece = length - at < 1 + at % 70000 ? length - at : 1 + at % 70000;
        must(write(port[0], input + at, piece) == (ssize_t)piece);
        at += piece;
        turns(1);
      }
      for (int waiting = 1; waiting > 0;) {
        turns(2);
        must(ioctl(port[0], TIOCOUTQ, &waiting) == 0);
      }
      turns(4);
    } else {
      refused = 1;
    }
    printf("%s\n", refused ? "refused" : "taken");
    port_start(-1, END_HOST); // forgets all streams
    close(port[0]), close(link[0]), close(link[1]), close(in[1]), close(out[0]), close(err[0]);
    close(carrier[0]), close(inner.listener), close(kiln);
  }
  return 0;
}
