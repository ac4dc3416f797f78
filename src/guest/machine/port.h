// SPDX-License-Identifier: Apache-2.0
// What both ends of a machine's port share: frames (port.c), and the streams in them (stream.c). Single-threaded; all
// descriptors are non-blocking. The other end's bytes are hostile.
#ifndef KILN_MACHINE_PORT_H
#define KILN_MACHINE_PORT_H

#include <poll.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "port-wire.h"

// As frame_spec has it.
enum end { END_HOST = 1, END_GUEST = 2 };

struct frame {
  uint16_t type, stream;
  uint32_t length;
  const unsigned char *bytes;
};

extern enum end port_own;
void port_start(int fd, enum end own);
// Reads frames and has them handled. -1 at the end of the port, and (errno EBADMSG) for a frame that must not be.
int port_read(void);
// Writes what is waiting. -1 at the end of the port.
int port_flush(void);
int port_waits(void);
// Bytes of payload that a frame may have now; 0 if there is no room for one.
size_t port_room(void);
// How many frames there is room for.
size_t port_frames(void);
// Only with room for it.
void port_send(uint16_t type, uint16_t stream, const void *words, size_t length);
void port_send_bytes(uint16_t type, uint16_t stream, const void *words, size_t length,
                     const void *bytes, size_t more);
// A frame whose payload is read into place: where to, then how much it has become.
unsigned char *port_begin(void);
void port_end(uint16_t type, uint16_t stream, size_t length);
// A frame of what is in a pipe, whose pages go on to the port: no byte is copied, and one look at the port by the host
// is for all of them. As read(2); only with room. Where the port cannot go on, the next flush says so.
ssize_t port_pass(uint16_t type, uint16_t stream, int pipe, size_t most);

struct stream {
  uint16_t id;
  uint8_t kind; // DESCRIPTOR_…
  int fd;
  uint32_t command;
  // Towards the port, from the port: whether there is such a direction, and whether it is over.
  unsigned reads : 1, read_over : 1, writes : 1, write_over : 1;
  unsigned end_due : 1, reset_due : 1, close_due : 1, close_sent : 1;
  unsigned end_got : 1, close_got : 1;
  uint32_t credit, granted, owed; // we may send, the other end may send, it is to be told
  unsigned char *ring;            // of PORT_WINDOW bytes
  uint32_t at, length;
  uint64_t moved_out, moved_in, fence;
  ssize_t (*put)(struct stream *stream, const void *bytes, size_t length);
  int polled;
  int much; // the last read gave much
};

// The connection between kiln and the init.
extern struct stream connection;

enum { MOVES_OUT = 1, MOVES_IN = 2 };
// Owns `fd`. `moves`: which ways bytes go. NULL (errno) where `id` is taken or not one.
struct stream *stream_open(uint16_t id, uint8_t kind, int fd, unsigned moves);
// 0 if this end has too many.
uint16_t stream_free_id(void);
struct stream *stream_find(uint16_t id);
// The next one with a higher number than `id`, of the host's or of the guest's; NULL if there is none.
struct stream *stream_after(uint16_t id);
void stream_drop(struct stream *stream); // at once, both ways; the other end is told
void stream_release(struct stream *stream); // its descriptor and what waits for it
int stream_has_bytes(const struct stream *stream);
// Counts bytes of the other end's. -1 (errno): it sent more than it may.
int stream_charge(struct stream *stream, size_t length);
// Bytes that were counted, for `fd`. -1 (errno) without memory.
int stream_give(struct stream *stream, const unsigned char *bytes, size_t length);
// Begins `connection` anew, or ends it.
void connection_begin(int fd);
void connection_end(void);

int streams_poll(struct pollfd *polled, int most);
void streams_serve(const struct pollfd *polled);
// Sends what is due, as long as there is room.
void streams_pump(void);

// A whole message of the connection's, which waits for what is now in a command's streams. -1 where too many wait.
int message_hold(uint32_t command, const unsigned char *bytes, size_t length);
int messages_room(void);
void messages_pass(void); // those that need not wait any more

// Each end has its own of these.
// A frame that is not about the bytes of a stream. -1 (errno) ends the port.
int end_frame(const struct frame *frame);
// A stream of another kind than bytes, or the connection, is readable.
void end_readable(struct stream *stream, short events);
// Passes on a message that has waited, or not: 0 if that is not possible yet.
int end_message(uint32_t command, const unsigned char *bytes, size_t length);

#endif
