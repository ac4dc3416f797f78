// SPDX-License-Identifier: Apache-2.0
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/reboot.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "pages.h"
#include "stage0.h"

#define INIT_SOCKET SOCKETS "/init.sock"
#define USAGE_MS 1000
#define LAST_WORDS_MS 1000
#define POLLED_MAX (2 * PORT_STREAMS + 4)

static int port = -1, arrivals = -1;
static pid_t init_pid;
static int connected, disconnect_due;

void say(const char *what) {
  int console = open("/dev/console", O_WRONLY | O_NOCTTY | O_CLOEXEC);
  if (console < 0) return;
  dprintf(console, "kiln: %s: %s\n", what, strerror(errno));
  close(console);
}

void power_off(void) {
  reboot(RB_POWER_OFF);
  for (;;) pause();
}

// Nothing that has to be kept is in a machine.
static _Noreturn void end(uint32_t status) {
  struct port_gone gone = {status};
  struct pollfd host = {.fd = port, .events = POLLOUT};
  while (port_room() == 0 && poll(&host, 1, LAST_WORDS_MS) > 0 && port_flush() == 0) continue;
  if (port_room() > 0) port_send(FRAME_GONE, 0, &gone, sizeof gone);
  port_flush();
  power_off();
}

static void leave(void) {
  passing_forget();
  connection_end();
  connected = 0;
  disconnect_due = 1;
}

static void connect_to_init(void) {
  int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  struct sockaddr_un address = {.sun_family = AF_UNIX, .sun_path = INIT_SOCKET};
  passing_forget();
  answers_begin();
  connection_begin(fd);
  connected = 1;
  if (connect(fd, (struct sockaddr *)&address, sizeof address) != 0) leave();
}

static int take_message(const struct frame *frame) {
  const unsigned char *bytes = frame->bytes + sizeof(struct port_message);
  size_t length = frame->length - sizeof(struct port_message);
  if (!connected) return 0; // it was on its way when the init hung up
  if (stream_charge(&connection, length) != 0) return -1;
  passing_attach();
  return stream_give(&connection, bytes, length);
}

static int take_descriptor(const struct frame *frame) {
  if (passing_make(frame) == 0) return 0;
  say("make a descriptor");
  return -1;
}

// qemu that emulates a processor translates code when it first runs there. What starts a process has run then, before a
// command waits for it: that takes a sixth from the time of a claim.
static void rehearse(void) {
  if (fork() != 0) return;
  char *argv[] = {"/kiln-init", "true", NULL}, *environment[] = {NULL};
  syscall(SYS_close_range, 0, ~0U, 0);
  execve(SKELETON "/kiln-init", argv, environment);
  _exit(127);
}

static void greet(void) {
  struct port_hello hello = {PORT_VERSION};
  port_send(FRAME_HELLO, 0, &hello, sizeof hello);
}

int end_frame(const struct frame *frame) {
  struct port_begin begin;
  struct port_renew fresh;
  switch (frame->type) {
  case FRAME_BEGIN:
    memcpy(&begin, frame->bytes, sizeof begin);
    orders_init = init_pid = sandbox_start(&begin);
    arrivals = inotify_init1(IN_CLOEXEC | IN_NONBLOCK);
    if (arrivals < 0 || inotify_add_watch(arrivals, SOCKETS, IN_MOVED_TO) < 0) say(SOCKETS);
    return 0;
  case FRAME_WAKE:
    if (port_room() > 0) greet();
    return 0;
  case FRAME_RENEW:
    memcpy(&fresh, frame->bytes, sizeof fresh);
    renew(&fresh);
    // It was restored.
    if (init_pid > 0) rehearse();
    return 0;
  case FRAME_CONNECT: connect_to_init(); return 0;
  case FRAME_DISCONNECT:
    if (connected) leave();
    return 0;
  case FRAME_DESCRIPTOR: return take_descriptor(frame);
  case FRAME_MESSAGE: return take_message(frame);
  case FRAME_DATAGRAM: return passing_send(frame);
  case FRAME_ORDER: return order_obey(frame);
  default: errno = EBADMSG; return -1;
  }
}

void end_readable(struct stream *stream, short events) {
  (void)events;
  if (stream != &connection) {
    passing_take(stream);
    return;
  }
  // What the init has passed comes before the answer that tells of it.
  carriers_take();
  if (answers_read() != 0) leave();
}

static void look_for_socket(void) {
  struct stat st;
  if (arrivals < 0 || stat(INIT_SOCKET, &st) != 0 || port_room() == 0) return;
  close(arrivals);
  arrivals = -1;
  port_send(FRAME_READY, 0, NULL, 0);
}

static void reap(int signals) {
  struct signalfd_siginfo info;
  int status;
  pid_t pid;
  while (read(signals, &info, sizeof info) > 0) continue;
  while ((pid = waitpid(-1, &status, WNOHANG)) > 0) {
    if (pid == init_pid) end((uint32_t)status);
    order_ended(pid, status);
  }
}

static int watch_children(void) {
  sigset_t mask;
  sigemptyset(&mask);
  sigaddset(&mask, SIGCHLD);
  sigprocmask(SIG_BLOCK, &mask, NULL);
  return signalfd(-1, &mask, SFD_CLOEXEC | SFD_NONBLOCK);
}

static void tell_usage_now_and_then(void) {
  static time_t last;
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  // kiln may be slow to listen.
  if (now.tv_sec == last || !messages_room()) return;
  last = now.tv_sec;
  tell_usage();
}

int main(void) {
  static struct pollfd polled[POLLED_MAX];
  small_pages();
  umask(022);
  signal(SIGPIPE, SIG_IGN);
  int signals = watch_children();
  port = boot();
  port_start(port, END_GUEST);
  connection.put = passing_put;
  greet();
  for (;;) {
    if (port_flush() != 0) power_off();
    polled[0] = (struct pollfd){.fd = port, .events = (short)(POLLIN | (port_waits() ? POLLOUT : 0))};
    polled[1] = (struct pollfd){.fd = signals, .events = POLLIN};
    polled[2] = (struct pollfd){.fd = arrivals, .events = POLLIN};
    int count = 3 + streams_poll(polled + 3, POLLED_MAX - 3);
    int ready = poll(polled, (nfds_t)count, connected ? USAGE_MS : -1);
    if (ready < 0 && errno != EINTR) power_off();
    if (connected) tell_usage_now_and_then();
    // The relay is gone, or a frame was wrong.
    if (polled[0].revents & (POLLIN | POLLHUP | POLLERR) && port_read() != 0) {
      say("the port");
      power_off();
    }
    if (polled[1].revents != 0) reap(signals);
    look_for_socket();
    streams_serve(polled + 3);
    if (disconnect_due && port_room() > 0) {
      disconnect_due = 0;
      port_send(FRAME_DISCONNECT, 0, NULL, 0);
    }
    streams_pump();
  }
}
