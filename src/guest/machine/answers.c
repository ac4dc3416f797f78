// SPDX-License-Identifier: Apache-2.0
// What the init says, in whole messages: the end of a command waits until all that it wrote is on its way.
#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "stage0.h"

#define HEAD 8
#define PIECE (PORT_PAYLOAD - sizeof(struct port_message))

static unsigned char answer[HEAD + ANSWER_MAX];
static size_t have;

void answers_begin(void) { have = 0; }

static uint32_t word_at(size_t at) {
  uint32_t word;
  memcpy(&word, answer + at, sizeof word);
  return word;
}

// The command whose end it tells, or 0. Its first field is the command's id.
static uint32_t ended(void) {
  int tells = word_at(4) == MSG_EXITED && have >= HEAD + 12 && word_at(HEAD) == FIELD_ID;
  return tells ? word_at(HEAD + 8) : 0;
}

int answers_read(void) {
  for (;;) {
    size_t wanted = have < HEAD ? HEAD : HEAD + word_at(0);
    if (wanted > sizeof answer) return -1;
    if (have >= HEAD && have == wanted) {
      // A command's end comes after what it has used.
      if (word_at(4) == MSG_EXITED && tell_usage() != 0) return -1;
      if (message_hold(ended(), answer, have) != 0) return -1;
      have = 0;
      return 0;
    }
    ssize_t n = read(connection.fd, answer + have, wanted - have);
    if (n < 0) return errno == EAGAIN || errno == EINTR ? 0 : -1;
    if (n == 0) return -1;
    have += (size_t)n;
  }
}

int end_message(uint32_t command, const unsigned char *bytes, size_t length) {
  struct port_message message = {command};
  if (connection.credit < length || port_frames() < (length + PIECE - 1) / PIECE) return 0;
  connection.credit -= (uint32_t)length;
  while (length > 0) {
    size_t piece = length < PIECE ? length : PIECE;
    port_send_bytes(FRAME_MESSAGE, 0, &message, sizeof message, bytes, piece);
    bytes += piece;
    length -= piece;
  }
  return 1;
}
