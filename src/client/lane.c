#include "client.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

/* At most so much is moved at a time, so that signals and other lanes get their turn. */
#define CHUNK (1 << 20)
#define BUFFER 65536
#define SMALL 4096

bool is_file(int fd) {
  struct stat status;
  return fstat(fd, &status) == 0 && S_ISREG(status.st_mode);
}

void lane_open(struct lane *lane, int from, int to, bool from_sandbox) {
  *lane = (struct lane){
      .from = from, .to = to, .open = true, .from_sandbox = from_sandbox, .wants_input = true};
  lane->to_file = is_file(to);
  /* Room in the caller's own pipe saves switches between processes. It may be refused. */
  if (from_sandbox) fcntl(to, F_SETPIPE_SZ, CHUNK);
  /* The kernel's splice from a terminal waits for the next line, whatever its flags say. */
  if (isatty(from)) lane->buffer = malloc(BUFFER);
}

void lane_close(struct lane *lane) {
  if (!lane->open) return;
  lane->open = false;
  close(lane->from_sandbox ? lane->from : lane->to);
  free(lane->buffer);
  lane->buffer = NULL;
}

void lane_end(struct lane *lane) {
  int waiting = 0;
  if (!lane->open) return;
  if (ioctl(lane->from, FIONREAD, &waiting) == -1) waiting = 0;
  lane->ends = true;
  lane->rest = (size_t)waiting + (lane->end - lane->begin);
  if (lane->rest == 0) lane_close(lane);
}

static bool ready(int fd, short events) {
  struct pollfd entry = {.fd = fd, .events = events};
  return poll(&entry, 1, 0) > 0;
}

ssize_t write_now(int fd, const uint8_t *bytes, size_t length, bool plain) {
  if (plain) return write(fd, bytes, length);
  ssize_t sent = send(fd, bytes, length, MSG_DONTWAIT | MSG_NOSIGNAL);
  if (sent >= 0 || errno != ENOTSOCK) return sent;
  if (!ready(fd, POLLOUT)) {
    errno = EAGAIN;
    return -1;
  }
  return write(fd, bytes, length < SMALL ? length : SMALL);
}

static size_t limit(const struct lane *lane, size_t most) {
  return lane->ends && lane->rest < most ? lane->rest : most;
}

static ssize_t copy(struct lane *lane) {
  if (lane->begin == lane->end) {
    if (!ready(lane->from, POLLIN)) {
      errno = EAGAIN;
      return -1;
    }
    ssize_t got = read(lane->from, lane->buffer, BUFFER);
    if (got <= 0) return got;
    lane->begin = 0;
    lane->end = got;
  }
  size_t length = limit(lane, lane->end - lane->begin);
  ssize_t put = write_now(lane->to, lane->buffer + lane->begin, length, lane->to_file);
  if (put > 0) lane->begin += put;
  return put;
}

static size_t step(struct lane *lane) {
  size_t moved = 0;
  while (lane->open && moved < CHUNK) {
    size_t most = limit(lane, CHUNK);
    ssize_t bytes = lane->buffer != NULL
                        ? copy(lane)
                        : splice(lane->from, NULL, lane->to, NULL, most, SPLICE_F_MOVE | SPLICE_F_NONBLOCK);
    if (bytes > 0) {
      moved += bytes;
      if (lane->ends && (lane->rest -= (size_t)bytes) == 0) lane_close(lane);
      continue;
    }
    int error = errno;
    bool hung_up = bytes < 0 && error == EIO && isatty(lane->from);
    errno = error;
    if (bytes == 0 || hung_up) {
      lane_close(lane);
    } else if (errno == EINVAL && lane->buffer == NULL) {
      lane->buffer = malloc(BUFFER);
      if (lane->buffer == NULL) lane_close(lane);
    } else if (errno == EAGAIN) {
      bool has_input = lane->begin < lane->end || ready(lane->from, POLLIN);
      lane->wants_input = !has_input;
      return moved;
    } else if (errno != EINTR) {
      /* Nobody reads it any more (ECONNRESET: a socket whose reader left some unread): closing our end tells the
       * writer, as if it wrote to the reader itself. */
      if (errno != EPIPE && errno != ECONNRESET) lane->error = errno;
      lane_close(lane);
    }
  }
  return moved;
}

void lane_wait(const struct lane *lane, struct pollfd *entry) {
  entry[0] = entry[1] = (struct pollfd){.fd = -1};
  if (!lane->open) return;
  if (lane->wants_input) entry[0] = (struct pollfd){.fd = lane->from, .events = POLLIN};
  /* Without events: an error there says that nobody reads what is written. */
  entry[1] = (struct pollfd){.fd = lane->to, .events = lane->wants_input ? 0 : POLLOUT};
}

size_t lane_go(struct lane *lane, const struct pollfd *entry) {
  if (!lane->open) return 0;
  if ((entry[1].revents & (POLLERR | POLLNVAL)) != 0) {
    lane_close(lane);
    return 0;
  }
  return entry[0].revents != 0 || entry[1].revents != 0 ? step(lane) : 0;
}
