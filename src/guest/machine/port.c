// SPDX-License-Identifier: Apache-2.0
#include "port.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

#define HEADER (sizeof(struct port_header))
#define FRAME_MAX (HEADER + PORT_PAYLOAD)

static int port_fd = -1;
enum end port_own;
static unsigned char in[8 * FRAME_MAX], out[8 * FRAME_MAX];
static size_t in_length, out_at, out_length;

int stream_frame(const struct frame *frame);
void streams_reset(void);

void port_start(int fd, enum end end) {
  port_fd = fd;
  port_own = end;
  in_length = out_at = out_length = 0;
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

int port_flush(void) {
  while (out_length > 0) {
    ssize_t n = write(port_fd, out + out_at, out_length);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return errno == EAGAIN ? 0 : -1;
    out_at += (size_t)n;
    out_length -= (size_t)n;
  }
  out_at = 0;
  return 0;
}

int port_waits(void) { return out_length > 0; }

size_t port_frames(void) {
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
