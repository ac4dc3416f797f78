// SPDX-License-Identifier: Apache-2.0
// Streams of bytes between descriptors of both ends. What a descriptor does not take waits in a ring that is as large
// as the credit that was given, so neither end ever has to stop reading the port.
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "port.h"

#define PAGE 4096

int stream_frame(const struct frame *frame);
void streams_reset(void);

// Those that the host has opened, and the guest.
static struct stream *streams[2][PORT_STREAMS];
static unsigned opened[2]; // none lies at or beyond
static unsigned turn;

static int side(uint16_t id) { return id >= PORT_GUEST; }
static unsigned place(uint16_t id) { return id & (PORT_GUEST - 1); }

static int refuse(int error) {
  errno = error;
  return -1;
}

struct stream *stream_find(uint16_t id) {
  if (id == 0) return &connection;
  return place(id) < PORT_STREAMS ? streams[side(id)][place(id)] : NULL;
}

struct stream *stream_after(uint16_t id) {
  for (unsigned i = place(id) + 1; i < opened[side(id)]; i++)
    if (streams[side(id)][i] != NULL) return streams[side(id)][i];
  return NULL;
}

uint16_t stream_free_id(void) {
  int mine = port_own == END_GUEST;
  for (unsigned i = 1; i < PORT_STREAMS; i++)
    if (streams[mine][i] == NULL) return (uint16_t)(i + (mine ? PORT_GUEST : 0));
  return 0;
}

struct stream *stream_open(uint16_t id, uint8_t kind, int fd, unsigned moves) {
  if (place(id) == 0 || place(id) >= PORT_STREAMS || stream_find(id) != NULL) {
    errno = EBADMSG;
    return NULL;
  }
  struct stream *stream = calloc(1, sizeof *stream);
  if (stream == NULL) return NULL;
  stream->id = id;
  stream->kind = kind;
  stream->fd = fd;
  stream->reads = (moves & MOVES_OUT) != 0;
  stream->writes = (moves & MOVES_IN) != 0;
  stream->credit = stream->granted = PORT_WINDOW;
  stream->polled = -1;
  int flags = fcntl(fd, F_GETFL);
  if (flags >= 0) fcntl(fd, F_SETFL, flags | O_NONBLOCK);
  streams[side(id)][place(id)] = stream;
  if (opened[side(id)] <= place(id)) opened[side(id)] = place(id) + 1;
  return stream;
}

int stream_has_bytes(const struct stream *stream) {
  return stream->kind == DESCRIPTOR_INPUT || stream->kind == DESCRIPTOR_OUTPUT ||
         stream->kind == DESCRIPTOR_TERMINAL || stream->kind == DESCRIPTOR_SOCKET;
}

static int out_over(const struct stream *stream) { return !stream->reads || stream->read_over; }

static int in_over(const struct stream *stream) { return !stream->writes || stream->write_over; }

void stream_release(struct stream *stream) {
  if (stream->fd >= 0) close(stream->fd);
  stream->fd = -1;
  free(stream->ring);
  stream->ring = NULL;
  stream->length = 0;
}

static void forget(struct stream *stream) {
  if (!stream->close_sent || !stream->close_got) return;
  streams[side(stream->id)][place(stream->id)] = NULL;
  stream_release(stream);
  free(stream);
}

// After either direction has ended.
static void settle(struct stream *stream) {
  if (stream == &connection || stream->close_due || stream->close_sent) return;
  // A terminal has no half: who has closed it neither reads nor writes. What a command wrote is still to be read.
  int last_words = port_own == END_HOST && stream->end_got && stream->length > 0;
  if (stream->kind == DESCRIPTOR_TERMINAL && (out_over(stream) || in_over(stream)) && !last_words) {
    if (stream->reads && !stream->read_over) stream->end_due = 1;
    if (stream->writes && !stream->write_over) stream->reset_due = 1;
    stream->read_over = stream->write_over = 1;
  }
  if (out_over(stream) && in_over(stream)) {
    stream_release(stream);
    stream->close_due = 1;
  } else if (stream->kind == DESCRIPTOR_SOCKET && stream->fd >= 0) {
    if (in_over(stream)) shutdown(stream->fd, SHUT_WR);
  }
}

static void stop_reading(struct stream *stream, int tell) {
  if (stream->read_over) return;
  stream->read_over = 1;
  if (tell) stream->end_due = 1;
  settle(stream);
}

static void stop_writing(struct stream *stream, int tell) {
  if (stream->write_over) return;
  stream->write_over = 1;
  stream->length = 0;
  if (tell) stream->reset_due = 1;
  settle(stream);
}

void stream_drop(struct stream *stream) {
  if (stream->close_due || stream->close_sent) return;
  if (stream->reads) stop_reading(stream, 1);
  if (stream->writes) stop_writing(stream, 1);
  if (stream->close_due) return;
  stream_release(stream);
  stream->close_due = 1;
}

static ssize_t put(struct stream *stream, const void *bytes, size_t length) {
  if (stream->put != NULL) return stream->put(stream, bytes, length);
  return write(stream->fd, bytes, length);
}

// What the descriptor took; -1 if it takes nothing any more.
static ssize_t try_put(struct stream *stream, const unsigned char *bytes, size_t length) {
  size_t done = 0;
  while (done < length) {
    ssize_t n = put(stream, bytes + done, length - done);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0 && errno == EAGAIN) break;
    if (n < 0) return -1;
    done += (size_t)n;
    stream->moved_in += (uint64_t)n;
    stream->owed += (uint32_t)n;
  }
  return (ssize_t)done;
}

static void drain(struct stream *stream) {
  while (stream->length > 0) {
    uint32_t part = PORT_WINDOW - stream->at;
    if (part > stream->length) part = stream->length;
    ssize_t n = try_put(stream, stream->ring + stream->at, part);
    if (n < 0) {
      stop_writing(stream, 1);
      return;
    }
    stream->at = (stream->at + (uint32_t)n) % PORT_WINDOW;
    stream->length -= (uint32_t)n;
    if ((size_t)n < part) return;
  }
  if (stream->end_got) stop_writing(stream, 0);
}

int stream_charge(struct stream *stream, size_t length) {
  if (length > stream->granted || !stream->writes || stream->end_got) return refuse(EBADMSG);
  stream->granted -= (uint32_t)length;
  return 0;
}

int stream_give(struct stream *stream, const unsigned char *bytes, size_t length) {
  if (stream->write_over || stream->fd < 0) return 0;
  if (stream->length == 0) {
    ssize_t n = try_put(stream, bytes, length);
    if (n < 0) {
      stop_writing(stream, 1);
      return 0;
    }
    bytes += n;
    length -= (size_t)n;
  }
  if (length == 0) return 0;
  if (stream->ring == NULL && (stream->ring = malloc(PORT_WINDOW)) == NULL) return -1;
  if (length > PORT_WINDOW - stream->length) return refuse(EBADMSG);
  uint32_t end = (stream->at + stream->length) % PORT_WINDOW;
  size_t first = PORT_WINDOW - end < length ? PORT_WINDOW - end : length;
  memcpy(stream->ring + end, bytes, first);
  memcpy(stream->ring, bytes + first, length - first);
  stream->length += (uint32_t)length;
  return 0;
}

int stream_frame(const struct frame *frame) {
  struct stream *stream = stream_find(frame->stream);
  if (stream == NULL || stream->close_got) return refuse(EBADMSG);
  if (stream == &connection && frame->type != FRAME_CREDIT) return refuse(EBADMSG);
  struct port_credit credit;
  switch (frame->type) {
  case FRAME_DATA:
    if (!stream_has_bytes(stream) || stream_charge(stream, frame->length) != 0) return refuse(EBADMSG);
    return stream_give(stream, frame->bytes, frame->length);
  case FRAME_CREDIT:
    memcpy(&credit, frame->bytes, sizeof credit);
    if (credit.bytes > PORT_WINDOW - stream->credit) return refuse(EBADMSG);
    stream->credit += credit.bytes;
    return 0;
  case FRAME_END:
    stream->end_got = 1;
    if (stream->length == 0) stop_writing(stream, 0);
    return 0;
  case FRAME_RESET: stop_reading(stream, 0); return 0;
  default:
    stream->close_got = 1;
    stream->end_got = 1;
    stop_reading(stream, 0);
    if (stream->length == 0) stop_writing(stream, 0);
    if (!stream_has_bytes(stream)) stream_drop(stream);
    forget(stream);
    return 0;
  }
}

void streams_reset(void) {
  connection_end();
  for (unsigned i = 0; i < 2 * PORT_STREAMS; i++) {
    struct stream **place = &streams[i / PORT_STREAMS][i % PORT_STREAMS];
    if (*place != NULL) stream_release(*place);
    free(*place);
    *place = NULL;
  }
  opened[0] = opened[1] = 0;
}

// Each side's streams in turn, beginning with another one each time.
#define EACH_STREAM(stream)                                                                        \
  for (unsigned side_ = 0; side_ < 2; side_++)                                                     \
    for (unsigned i_ = 0; i_ < opened[side_]; i_++)                                                \
      if (((stream) = streams[side_][(i_ + turn) % opened[side_]]) != NULL)

static short wanted(const struct stream *stream) {
  short events = 0;
  // Of the connection at least the head of a message is passed on at once.
  int may = stream->credit >= (stream == &connection ? 2 * PAGE : 1);
  if (stream == &connection && !messages_room()) may = 0;
  if (stream->reads && !stream->read_over && may && port_room() > 0) events |= POLLIN;
  if (stream->length > 0) events |= POLLOUT;
  return events;
}

// One that is neither read nor written now is watched only for the end of its reader.
static int watched(const struct stream *stream, short events) {
  if (stream->fd < 0) return 0;
  if (stream->kind == DESCRIPTOR_LISTENER) return 1;
  return events != 0 || (stream->writes && !stream->write_over && stream->kind != DESCRIPTOR_SOCKET &&
                         stream->kind != DESCRIPTOR_TERMINAL && stream != &connection);
}

int streams_poll(struct pollfd *polled, int most) {
  struct stream *stream;
  int count = 0;
  turn++;
  connection.polled = -1;
  if (connection.fd >= 0 && wanted(&connection) != 0) {
    connection.polled = count;
    polled[count++] = (struct pollfd){.fd = connection.fd, .events = wanted(&connection)};
  }
  EACH_STREAM(stream) {
    short events = wanted(stream);
    stream->polled = -1;
    if (count == most || !watched(stream, events)) continue;
    stream->polled = count;
    polled[count++] = (struct pollfd){.fd = stream->fd, .events = events};
  }
  return count;
}

static ssize_t take_bytes(struct stream *stream, size_t room) {
  ssize_t n = read(stream->fd, port_begin(), room);
  if (n > 0) port_end(FRAME_DATA, stream->id, (size_t)n);
  return n;
}

static void take(struct stream *stream) {
  size_t room = port_room();
  if (room > stream->credit) room = stream->credit;
  if (room == 0 || stream->read_over) return;
  // What a command writes much of goes on as the pages that it is, which takes two thirds of the time. Half pages would
  // be copied, and a few bytes are copied sooner than passed on.
  size_t pages = room - room % PAGE;
  int passes = stream->kind == DESCRIPTOR_OUTPUT && stream->much && pages > 0;
  ssize_t n = passes ? port_pass(FRAME_DATA, stream->id, stream->fd, pages) : take_bytes(stream, room);
  if (n < 0 && (errno == EAGAIN || errno == EINTR)) return;
  if (n <= 0) {
    stop_reading(stream, 1);
    return;
  }
  stream->much = n >= 4 * PAGE;
  stream->credit -= (uint32_t)n;
  stream->moved_out += (uint64_t)n;
}

static void serve(struct stream *stream, short events) {
  if (events & (POLLOUT | POLLERR | POLLHUP) && stream->length > 0) drain(stream);
  if (stream->fd < 0) return;
  if (!stream_has_bytes(stream)) {
    if (events & (POLLIN | POLLERR | POLLHUP)) end_readable(stream, events);
    return;
  }
  if (stream->reads && events & (POLLIN | POLLHUP | POLLERR)) take(stream);
  else if (events & POLLERR) stop_writing(stream, 1);
}

void streams_serve(const struct pollfd *polled) {
  struct stream *stream;
  if (connection.polled >= 0 && polled[connection.polled].revents != 0) {
    short events = polled[connection.polled].revents;
    if (connection.length > 0) drain(&connection);
    if (connection.fd >= 0 && events & (POLLIN | POLLHUP | POLLERR)) end_readable(&connection, events);
  }
  EACH_STREAM(stream)
  if (stream->polled >= 0 && polled[stream->polled].revents != 0)
    serve(stream, polled[stream->polled].revents);
}

static void send_due(struct stream *stream) {
  // Rarely, and when the writer may soon have to wait.
  if (stream->owed >= PORT_WINDOW / 4 && !stream->write_over && port_room() > 0) {
    struct port_credit credit = {stream->owed};
    port_send(FRAME_CREDIT, stream->id, &credit, sizeof credit);
    stream->granted += stream->owed;
    stream->owed = 0;
  }
  if (stream->end_due && port_room() > 0) {
    stream->end_due = 0;
    port_send(FRAME_END, stream->id, NULL, 0);
  }
  if (stream->reset_due && port_room() > 0) {
    stream->reset_due = 0;
    port_send(FRAME_RESET, stream->id, NULL, 0);
  }
  if (stream->close_due && port_room() > 0) {
    stream->close_due = 0;
    stream->close_sent = 1;
    port_send(FRAME_CLOSE, stream->id, NULL, 0);
    forget(stream);
  }
}

void streams_pump(void) {
  struct stream *stream;
  messages_pass();
  if (connection.fd >= 0) send_due(&connection);
  EACH_STREAM(stream) send_due(stream);
}
