// SPDX-License-Identifier: Apache-2.0
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "port.h"
#include "relay.h"

#define CONSOLE_MAX (64 << 10)
#define POLLED_MAX (2 * PORT_STREAMS + 8)

static const struct inner *own;
static enum { BOOTS, BEGUN, HELD, READY } state;
// The connection with kiln, which both ends of the port must have left before there is another.
static enum { NONE, CONNECTED, LEAVING, LEFT } talk;
static int connect_due, disconnect_due;
static int port = -1, console = -1;

static int refuse(void) {
  errno = EBADMSG;
  return -1;
}

static void leave(void) {
  kiln_forget();
  connection_end();
  disconnect_due = 1;
  talk = talk == CONNECTED ? LEAVING : NONE;
}

void end_readable(struct stream *stream, short events) {
  (void)events;
  if (stream != &connection) likes_receive(stream);
  else if (kiln_read() != 0) leave();
}

int end_message(uint32_t command, const unsigned char *bytes, size_t length) {
  (void)command;
  if (connection.fd >= 0 && stream_give(&connection, bytes, length) != 0) die("memory");
  return 1;
}

static int take_message(const struct frame *frame) {
  struct port_message message;
  memcpy(&message, frame->bytes, sizeof message);
  const unsigned char *bytes = frame->bytes + sizeof message;
  size_t length = frame->length - sizeof message;
  if (talk == LEAVING || talk == LEFT) return 0;
  if (talk != CONNECTED || stream_charge(&connection, length) != 0) return refuse();
  if (message.command != 0) return message_hold(message.command, bytes, length);
  return stream_give(&connection, bytes, length);
}

// No two machines may have the same random numbers, or the time of the one that both are restored of.
static void renew(void) {
  uint64_t seed[4];
  struct timespec now;
  if (getrandom(seed, sizeof seed, 0) != sizeof seed || clock_gettime(CLOCK_REALTIME, &now) != 0)
    die("a seed");
  struct port_renew words = {(uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec,
                             seed[0], seed[1], seed[2], seed[3]};
  port_send(FRAME_RENEW, 0, &words, sizeof words);
}

static int tell_open(void) { return send(own->link, "", 1, MSG_NOSIGNAL) == 1 ? 0 : -1; }

// kiln finds the socket when somebody answers there, as with a container's init.
static int open_door(void) {
  state = READY;
  if (listen(own->listener, 1) != 0 || renameat(own->folder, "new.sock", own->folder, "init.sock") != 0)
    die("init.sock");
  return tell_open();
}

static int take_hello(const struct port_hello *hello) {
  struct port_begin words = {(uint64_t)sysconf(_SC_OPEN_MAX)};
  if (hello->version != PORT_VERSION || state != BOOTS) return refuse();
  renew();
  if (own->machine == MACHINE_IS_RESTORED) return open_door();
  state = BEGUN;
  port_send(FRAME_BEGIN, 0, &words, sizeof words);
  return 0;
}

static int take_ready(void) {
  if (state != BEGUN) return refuse();
  if (own->machine != MACHINE_IS_SAVED) return open_door();
  state = HELD;
  return tell_open();
}

int end_frame(const struct frame *frame) {
  struct port_hello hello;
  switch (frame->type) {
  case FRAME_HELLO:
    memcpy(&hello, frame->bytes, sizeof hello);
    return take_hello(&hello);
  case FRAME_READY: return take_ready();
  case FRAME_GONE:
    if (state != READY) dprintf(2, "kiln-relay: the init ended before it listened\n");
    leave_relay(0);
  case FRAME_MESSAGE: return take_message(frame);
  case FRAME_DISCONNECT:
    if (talk == NONE || talk == LEFT) return refuse();
    if (talk == LEAVING) talk = NONE;
    else talk = LEFT; // what the init said last is still to be written
    return 0;
  case FRAME_PASSED: return likes_take(frame);
  case FRAME_OPEN: return likes_open(frame);
  case FRAME_DATAGRAM: return likes_send(frame);
  default: return refuse();
  }
}

// The last of what a guest's kernel says: the first, and from there on in turns.
static int note_console(void) {
  static off_t at;
  char text[4096];
  ssize_t n = read(console, text, sizeof text);
  if (n < 0 && (errno == EAGAIN || errno == EINTR)) return 0;
  if (n <= 0) return -1;
  if (at + n > CONSOLE_MAX) at = CONSOLE_MAX / 4;
  if (pwrite(own->console, text, (size_t)n, at) > 0) at += n;
  return 0;
}

static void accept_kiln(void) {
  int fd = accept4(own->listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
  if (fd < 0) return;
  connection_begin(fd);
  talk = CONNECTED;
  connect_due = 1;
}

static void send_due(void) {
  if (connect_due && port_room() > 0) {
    connect_due = 0;
    port_send(FRAME_CONNECT, 0, NULL, 0);
  }
  if (talk == LEFT && connection.length == 0) leave();
  if (disconnect_due && port_room() > 0) {
    disconnect_due = 0;
    port_send(FRAME_DISCONNECT, 0, NULL, 0);
  }
}

static void take_link(void) {
  char which;
  int fd = receive_descriptor(own->link, &which);
  if (fd < 0) leave_relay(0);
  fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK);
  if (which == LINK_CONSOLE) console = fd;
  if (which != LINK_PORT) return;
  port_start(port = fd, END_HOST);
  if (own->machine == MACHINE_IS_RESTORED) port_send(FRAME_WAKE, 0, NULL, 0);
}

void serve_begin(const struct inner *inner) {
  if (port >= 0) close(port);
  if (console >= 0) close(console);
  kiln_forget();
  own = inner;
  state = BOOTS;
  talk = NONE;
  port = console = -1;
  connect_due = disconnect_due = 0;
}

void serve_turn(int wait_ms) {
  static struct pollfd polled[POLLED_MAX];
  int listens = state == READY && talk == NONE && !disconnect_due;
  polled[0] = (struct pollfd){.fd = own->link, .events = POLLIN};
  polled[1] = (struct pollfd){.fd = port, .events = (short)(POLLIN | (port_waits() ? POLLOUT : 0))};
  polled[2] = (struct pollfd){.fd = console, .events = POLLIN};
  polled[3] = (struct pollfd){.fd = listens ? own->listener : -1, .events = POLLIN};
  polled[4] = (struct pollfd){.fd = inside_words, .events = POLLIN};
  int count = 5 + streams_poll(polled + 5, POLLED_MAX - 5);
  if (poll(polled, (nfds_t)count, wait_ms) < 0 && errno != EINTR) die("poll");
  if (polled[1].revents & (POLLIN | POLLHUP | POLLERR) && port_read() != 0) {
    if (errno == EBADMSG) dprintf(2, "kiln-relay: the machine sent what it must not send\n");
    leave_relay(1);
  }
  if (polled[2].revents != 0 && note_console() != 0) {
    close(console);
    console = -1;
  }
  if (polled[3].revents != 0) accept_kiln();
  if (polled[4].revents != 0 && inside_forward() != 0) leave_relay(1);
  streams_serve(polled + 5);
  if (kiln_waits() && kiln_read() != 0) leave();
  send_due();
  streams_pump();
  if (port >= 0 && port_flush() != 0) leave_relay(1);
  // Last, for it may begin the port.
  if (polled[0].revents != 0) take_link();
}
