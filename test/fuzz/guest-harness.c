// SPDX-License-Identifier: Apache-2.0
// Feeds the guest init's parser what comes on standard input: cases of { u32 length, bytes[length] },
// each one connection's worth of messages. Built with sanitizers, which end it at the first mistake.
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "protocol.h"

#define CASE_MAX (64u << 10) // less than a socket holds, so that nobody has to read meanwhile

static unsigned char input[CASE_MAX];
static unsigned long messages, fields, strings;

static void look(const struct message *message, int answers) {
  // Its own size exactly: the parser's buffer is so large that no sanitizer sees who reads on.
  struct message copy = *message;
  copy.payload = malloc(message->length + 1);
  if (copy.payload == NULL) abort();
  memcpy(copy.payload, message->payload, message->length);
  copy.payload = realloc(copy.payload, message->length == 0 ? 1 : message->length);
  size_t offset = 0;
  struct field field;
  answer_begin(message->type);
  while (field_next(&copy, &offset, &field) == 1) {
    fields++;
    uint32_t small;
    uint64_t large;
    for (size_t at = 0; at < 20; at += 4) {
      (void)field_u32(&field, at, &small);
      (void)field_u64(&field, at, &large);
      const char *string = field_string(&field, at);
      if (string != NULL) strings += 1 + strlen(string) % 2;
    }
    if (field_u32(&field, field.length, &small) == 0) abort();
    answer_bytes(field.tag, field.data, field.length);
  }
  answer_send(answers);
  free(copy.payload);
}

int main(void) {
  uint32_t length;
  while (fread(&length, sizeof length, 1, stdin) == 1) {
    if (length > CASE_MAX || fread(input, 1, length, stdin) != length) return 2;
    int pair[2], answers[2];
    if (socketpair(AF_UNIX, SOCK_STREAM, 0, pair) != 0) return 2;
    if (socketpair(AF_UNIX, SOCK_STREAM, 0, answers) != 0) return 2;
    if (write(pair[0], input, length) != (ssize_t)length) return 2;
    shutdown(pair[0], SHUT_WR);
    struct message message;
    for (int n = 0; message_receive(pair[1], &message) == 1; n++) {
      messages++;
      if (n < 2) look(&message, answers[0]); // two answers fit into a socket nobody reads
      message_close_fds(&message);
    }
    close(pair[0]), close(pair[1]), close(answers[0]), close(answers[1]);
  }
  printf("%lu messages, %lu fields, %lu strings\n", messages, fields, strings);
  return 0;
}
