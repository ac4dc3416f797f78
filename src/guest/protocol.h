// SPDX-License-Identifier: Apache-2.0
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
  int refused;
};

enum part_kind {
  PART_U32,
  PART_U64,
  PART_SIZE,       // u64: 1 to 2^53
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
  uint32_t tag, least, most;
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

// Into a static buffer, valid until the next but one. 1, 0 at the end, -1 (errno; EBADMSG: invalid).
int message_receive(int fd, struct message *out);
// One that is there whole, with its head. 0, or -1 (EBADMSG).
int message_take(const unsigned char *bytes, size_t length, struct message *out);
void message_close_fds(struct message *message);
int field_next(const struct message *message, size_t *offset, struct field *out);
int field_find(const struct message *message, uint32_t tag, struct field *out);

// A field that does not fit is left out.
struct writer {
  unsigned char *data;
  size_t length, size;
};
size_t writer_field(struct writer *out, uint32_t tag);
void writer_add(struct writer *out, const void *data, size_t length);
void writer_end(struct writer *out, size_t start);

struct writer *answer_begin(uint32_t type);
void answer_send(int fd);

// Closes `fd` and keeps errno. Returns `result`.
int closing(int fd, int result);
// Sets errno. Returns -1.
int failing(int error);
int send_descriptor(int socket_fd, int fd);

struct failure {
  uint32_t code;
  int error;
  uint32_t number;
  char text[FAILURE_TEXT_MAX + 1];
};
// With errno; `text` may be NULL. Returns -1.
int fail(struct failure *failure, uint32_t code, const char *text);
void answer_failed(int fd, uint32_t id, const struct failure *failure);
// The same for a failure with this errno. Returns -1.
int answer_refused(int fd, uint32_t id, int error, uint32_t code, const char *text);
void answer_done(int fd, uint32_t id, uint32_t value);

// Only for test/sandbox/layers.test.ts: an init with KILN_FAULTS leaves out layers. The shipped one cannot.
#ifdef KILN_FAULTS
int fault(const char *layer);
#else
#define fault(layer) 0
#endif

#endif
