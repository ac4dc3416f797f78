/* Frames to and from the daemon, with descriptors. */
#ifndef KILN_CONNECTION_H
#define KILN_CONNECTION_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "frames.h"

/* One frame that has arrived. The payload lives until the next call of connection_next(). */
struct frame {
  uint8_t type;
  const uint8_t *payload;
  uint32_t length;
  /* The receiver's: whoever does not want one closes it. */
  int fds[FRAME_DESCRIPTORS];
  uint8_t fd_count;
};

struct connection {
  int socket;
  uint8_t *data;
  size_t used, size;
  /* Bytes of the frame that the last call gave. */
  size_t given;
  /* Descriptors that have arrived before the frame they belong to. */
  int fds[2 * FRAME_DESCRIPTORS];
  size_t fd_count;
};

/* Reads the text that answers the upgrade, up to its NUL. The text, or NULL when the connection ended. */
const char *connection_answer(struct connection *connection);

/* Reads what has come. 1: more may have come. 0: nothing for now. -1: the connection has ended or is broken. */
int connection_receive(struct connection *connection);

/* Takes the next whole frame. False: there is none. A frame that breaks the rules sets *broken. */
bool connection_next(struct connection *connection, struct frame *frame, bool *broken);

/* Sends a frame, waiting while the socket is full. False: the connection is gone. */
bool connection_send(struct connection *connection, uint8_t type, const void *payload, uint32_t length,
                     const int *fds, uint8_t fd_count);

/* Sends bytes as they are, with descriptors at the first one. False: the connection is gone. */
bool connection_send_raw(struct connection *connection, const void *bytes, size_t length, const int *fds,
                         uint8_t fd_count);

/* A number of a payload or a header, little-endian. */
uint32_t read_u32(const uint8_t *at);
void write_u32(uint8_t *at, uint32_t value);

#endif
