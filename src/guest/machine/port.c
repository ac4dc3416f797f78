// SPDX-License-Identifier: Apache-2.0
#include "port.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#define HEADER (sizeof(struct port_header))
#define FRAME_MAX (HEADER + PORT_PAYLOAD)

static int port_fd = -1;
enum end port_own;
static unsigned char in[8 * FRAME_MAX], out[8 * FRAME_MAX];
static size_t in_length, out_at, out_length;
// A frame whose payload is pages of a pipe's, behind all that is in `out`. It is put together in the second of two
// pipes, which has room for whatever is in the first, and for the header.
static int taken[2] = {-1, -1}, framed[2] = {-1, -1};
static size_t framed_length;
static int broken;

int stream_frame(const struct frame *frame);
void streams_reset(void);

void port_start(int fd, enum end end) {
  port_fd = fd;
  port_own = end;
  in_length = out_at = out_length = framed_length = 0;
  broken = 0;
  for (int i = 0; i < 2; i++) {
    if (taken[i] >= 0) close(taken[i]);
    if (framed[i] >= 0) close(framed[i]);
    taken[i] = framed[i] = -1;
  }
  streams_reset();
}

static int violation(void) {
  errno = EBADMSG;
  return -1;
}

static int handle(const struct frame *frame) {
  if (frame->type >= FRAME_SPECS || frame_specs[frame->type].type != frame->type) return violation();
  const struct frame_spec *spec = &frame_specs[frame->type];
  if (spec->from == (uint8_t)port_own || (!spec->stream && frame->stream != 0)) return violation();
  if (frame->length < spec->least || frame->length > spec->most) return violation();
  switch (frame->type) {
  case FRAME_DATA:
  case FRAME_CREDIT:
  case FRAME_END:
  case FRAME_RESET:
  case FRAME_CLOSE: return stream_frame(frame);
  default: return end_frame(frame);
  }
}

int port_read(void) {
  ssize_t n = read(port_fd, in + in_length, sizeof in - in_length);
  if (n < 0) return errno == EAGAIN || errno == EINTR ? 0 : -1;
  if (n == 0) return -1;
  in_length += (size_t)n;
  size_t at = 0;
  while (in_length - at >= HEADER) {
    struct port_header header;
    memcpy(&header, in + at, HEADER);
    if (header.length > PORT_PAYLOAD) return violation();
    if (in_length - at < HEADER + header.length) break;
    struct frame frame = {header.type, header.stream, header.length, in + at + HEADER};
    if (handle(&frame) != 0) return -1;
    at += HEADER + header.length;
  }
  memmove(in, in + at, in_length - at);
  in_length -= at;
  return 0;
}

static int flush_framed(void) {
  while (framed_length > 0) {
    ssize_t n = splice(framed[0], NULL, port_fd, NULL, framed_length, SPLICE_F_NONBLOCK);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return n < 0 && errno == EAGAIN ? 0 : -1;
    framed_length -= (size_t)n;
  }
  return broken ? -1 : 0;
}

int port_flush(void) {
  while (out_length > 0) {
    ssize_t n = write(port_fd, out + out_at, out_length);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return errno == EAGAIN ? 0 : -1;
    out_at += (size_t)n;
    out_length -= (size_t)n;
  }
  out_at = 0;
  return flush_framed();
}

int port_waits(void) { return out_length > 0 || framed_length > 0; }

static int open_pipes(void) {
  if (framed[0] >= 0) return 0;
  if (pipe2(taken, O_CLOEXEC) != 0 || pipe2(framed, O_CLOEXEC) != 0) return -1;
  return fcntl(taken[0], F_SETPIPE_SZ, PORT_PAYLOAD) == PORT_PAYLOAD &&
                 fcntl(framed[0], F_SETPIPE_SZ, 2 * PORT_PAYLOAD) == 2 * PORT_PAYLOAD
             ? 0
             : -1;
}

ssize_t port_pass(uint16_t type, uint16_t stream, int pipe, size_t most) {
  broken = open_pipes() != 0;
  if (broken) return -1;
  ssize_t n = splice(pipe, NULL, taken[1], NULL, most, SPLICE_F_NONBLOCK);
  if (n <= 0) return n;
  struct port_header header = {(uint32_t)n, type, stream};
  broken = write(framed[1], &header, HEADER) != HEADER ||
           splice(taken[0], NULL, framed[1], NULL, (size_t)n, SPLICE_F_NONBLOCK) != n;
  framed_length = HEADER + (size_t)n;
  return n;
}

size_t port_frames(void) {
  if (framed_length > 0) return 0;
  if (sizeof out - out_at - out_length < sizeof out / 2 && out_at > 0) {
    memmove(out, out + out_at, out_length);
    out_at = 0;
  }
  return (sizeof out - out_at - out_length) / FRAME_MAX;
}

size_t port_room(void) { return port_frames() > 0 ? PORT_PAYLOAD : 0; }

unsigned char *port_begin(void) { return out + out_at + out_length + HEADER; }

void port_end(uint16_t type, uint16_t stream, size_t length) {
  struct port_header header = {(uint32_t)length, type, stream};
  memcpy(out + out_at + out_length, &header, HEADER);
  out_length += HEADER + length;
}

void port_send_bytes(uint16_t type, uint16_t stream, const void *words, size_t length,
                     const void *bytes, size_t more) {
  unsigned char *to = port_begin();
  if (length > 0) memcpy(to, words, length);
  if (more > 0) memcpy(to + length, bytes, more);
  port_end(type, stream, length + more);
}

void port_send(uint16_t type, uint16_t stream, const void *words, size_t length) {
  port_send_bytes(type, stream, words, length, NULL, 0);
}
