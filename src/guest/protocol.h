// SPDX-License-Identifier: Apache-2.0
// Receives requests and sends answers, as wire.h has them.
#ifndef KILN_PROTOCOL_H
#define KILN_PROTOCOL_H

#include <stddef.h>
#include <stdint.h>

#include "wire.h"

struct message {
  uint32_t type;
  uint32_t length;
  unsigned char *payload;
  int fds[FDS_MAX];
  unsigned nfds;
  int refused; // there were more descriptors, and the kernel did not let us have them
};

// What a request may be made of, for wire.c.
enum part_kind {
  PART_U16,
  PART_U32,
  PART_U64,
  PART_CHOICE,     // u32: a number of a bit that is set in `most`
  PART_SET,        // u32: bits of `most`
  PART_DESCRIPTOR, // u32: one of the message's
  PART_TEXT,       // with its NUL; `most` bytes without it
  PART_PATH,
  PART_NAME,
  PART_BYTES, // the rest: units
};
struct part_spec {
  enum part_kind kind;
  uint32_t unit;
  uint64_t most;
};
struct field_spec {
  uint32_t tag, least, most; // how often
  const struct part_spec *parts;
  unsigned count;
};
struct message_spec {
  uint32_t type, least_fds, most_fds;
  const struct field_spec *fields;
  unsigned count;
};
extern const struct message_spec request_specs[];
extern const size_t request_spec_count;

// Reads one whole message into a static buffer, which stays valid until the next but one, and checks it. 1 =
// message, 0 = end of file, -1 = error (errno; EBADMSG for an invalid message).
int message_receive(int fd, struct message *out);
void message_close_fds(struct message *message);
// Walks the fields: returns 1 and fills `out` while there are more, 0 at the end.
int field_next(const struct message *message, size_t *offset, struct field *out);

// Fields, one after the other. A field that does not fit is left out.
struct writer {
  unsigned char *data;
  size_t length, size;
};
size_t writer_field(struct writer *out, uint32_t tag); // its place, for writer_end
void writer_add(struct writer *out, const void *data, size_t length);
void writer_end(struct writer *out, size_t start);

// An answer is built in a static buffer: begin, add fields, send.
struct writer *answer_begin(uint32_t type);
void answer_send(int fd);

// Sends one descriptor through a socket, with one byte. 0, or -1 (errno).
int send_descriptor(int socket_fd, int fd);

// A failure of wire.h, with its details.
struct failure {
  uint32_t code; // FAIL_…; 0: none
  int error;     // errno
  uint32_t number;
  char text[FAILURE_TEXT_MAX + 1];
};
// Notes a failure, with errno; `text` may be NULL. Returns -1.
int fail(struct failure *failure, uint32_t code, const char *text);
// Answers request `id` with a failure; id 0 is the sandbox itself.
void answer_failed(int fd, uint32_t id, const struct failure *failure);

#endif
