/* Bytes on their way from one descriptor to another. */
#ifndef KILN_LANE_H
#define KILN_LANE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct lane {
  int from, to;
  /* Set while there is something to move. */
  bool open;
  /* The sandbox's end is `from`: closing the lane closes it. Otherwise `to` is. */
  bool from_sandbox;
  /* What it waits for: to read, else to write. */
  bool wants_input;
  /* Used once splice(2) has refused: it cannot do terminals and files that are appended to. */
  uint8_t *buffer;
  size_t begin, end;
  /* `to` is a file: a write to it never waits for a reader. */
  bool to_file;
  /* Why output could not be written: an errno, or 0. */
  int error;
};

void lane_open(struct lane *lane, int from, int to, bool from_sandbox);

/* Moves what can be moved without waiting. The bytes that were moved. */
size_t lane_step(struct lane *lane);

/* Closes the sandbox's end; the caller's own stays open. */
void lane_close(struct lane *lane);

#endif
