/* Written by scripts/write-wire.ts from src/daemon/frames.ts, which says what each is. Do not edit. */
#ifndef KILN_FRAMES_H
#define KILN_FRAMES_H

/* Bytes of a frame's header: u32 length of what follows it, u8 type, u8 descriptors, u16 zero; little-endian. */
#define FRAME_HEADER 8
/* Longest payload, bytes. */
#define FRAME_MAX 8388608
/* Most descriptors of a frame. */
#define FRAME_DESCRIPTORS 5

enum frame_to_daemon {
  FRAME_START = 1,
  FRAME_SIGNAL = 2,
  FRAME_MOVED = 4,
  FRAME_DRAINED = 5,
  FRAME_UNWRITABLE = 6,
  FRAME_OPENED = 7,
};

enum frame_to_client {
  FRAME_TEXT = 65,
  FRAME_STDIO = 67,
  FRAME_TERMINAL = 68,
  FRAME_INPUT = 71,
  FRAME_ELSEWHERE = 69,
  FRAME_OPEN = 72,
  FRAME_EXIT = 70,
};

/* How FRAME_OPEN wants a file opened. */
enum open_how {
  OPEN_FILE = 1,
  OPEN_PLACE = 2,
  OPEN_MADE = 3,
};

#endif
