// SPDX-License-Identifier: Apache-2.0
// The connection between kiln and the init, and messages of it that wait for a command's streams.
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>

#include "port.h"

struct held {
  struct held *next;
  uint32_t command;
  size_t length;
  unsigned char bytes[];
};
#define HELD_MAX 512
static struct held *held;
static unsigned held_count;

struct stream connection = {.fd = -1, .polled = -1};

void connection_begin(int fd) {
  connection_end();
  connection = (struct stream){.fd = fd,
                               .reads = 1,
                               .writes = 1,
                               .credit = PORT_WINDOW,
                               .granted = PORT_WINDOW,
                               .put = connection.put,
                               .polled = -1};
}

void connection_end(void) {
  stream_release(&connection);
  while (held != NULL) {
    struct held *next = held->next;
    free(held);
    held = next;
  }
  held_count = 0;
}

// Those of the host's and those of the guest's.
#define EACH_STREAM(stream)                                                                        \
  for (uint32_t first_ = 0; first_ <= PORT_GUEST; first_ += PORT_GUEST)                            \
    for (struct stream *stream = stream_after((uint16_t)first_); stream != NULL;                   \
         stream = stream_after(stream->id))

static int passed_fences(uint32_t command) {
  EACH_STREAM(stream) {
    if (stream->command != command || !stream_has_bytes(stream)) continue;
    // Only one way: what is typed into a terminal is no output of its command.
    int passes_in = port_own == END_HOST;
    if (!passes_in && stream->reads && !stream->read_over && stream->moved_out < stream->fence) return 0;
    if (passes_in && stream->writes && !stream->write_over && stream->moved_in < stream->fence) return 0;
  }
  return 1;
}

static void set_fences(uint32_t command) {
  EACH_STREAM(stream) {
    int waiting = 0;
    if (stream->command != command || stream->fd < 0) continue;
    if (port_own == END_HOST) stream->fence = stream->moved_in + stream->length;
    else if (stream->reads && ioctl(stream->fd, FIONREAD, &waiting) == 0)
      stream->fence = stream->moved_out + (uint64_t)waiting;
  }
}

int message_hold(uint32_t command, const unsigned char *bytes, size_t length) {
  struct held *one = held_count < HELD_MAX ? malloc(sizeof *one + length) : NULL;
  if (one == NULL) {
    errno = EBADMSG;
    return -1;
  }
  *one = (struct held){.command = command, .length = length};
  memcpy(one->bytes, bytes, length);
  struct held **last = &held;
  set_fences(command);
  while (*last != NULL) last = &(*last)->next;
  *last = one;
  held_count++;
  return 0;
}

int messages_room(void) { return held_count <= HELD_MAX / 2; }

void messages_pass(void) {
  for (struct held **at = &held; *at != NULL;) {
    struct held *one = *at;
    if (!passed_fences(one->command) || !end_message(one->command, one->bytes, one->length)) {
      at = &one->next;
      continue;
    }
    *at = one->next;
    held_count--;
    free(one);
  }
}

