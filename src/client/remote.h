#ifndef KILN_REMOTE_H
#define KILN_REMOTE_H

#include "client.h"

/*
 * `kiln --host … run` whose words name no file: near.c here and far.c on the other machine, with frames through ssh as
 * they go to the daemon. Whatever needs files is for src/remote, which is a Node at each end.
 */

/* What ssh runs on the other machine. */
#define REMOTE_RUN "remote-run"

enum remote_frame {
  /* From here: version NUL, u8 terminals, u32 rows, u32 columns, words, variables. */
  REMOTE_START = 1,
  REMOTE_INPUT,
  REMOTE_INPUT_END,
  /* u32: its number. */
  REMOTE_SIGNAL,
  /* u32 rows, u32 columns. */
  REMOTE_RESIZE,
  /* u8: 1 or 2, which nobody reads any more. */
  REMOTE_CLOSE,
  REMOTE_ALIVE,
  /* From there: its version. */
  REMOTE_HELLO,
  REMOTE_OUTPUT,
  REMOTE_ERROR,
  /* u32: so many bytes of input have been passed on. */
  REMOTE_TAKEN,
  /* u32: the exit status. It is the last. */
  REMOTE_STATUS,
};

/* Bytes of input that have not been passed on there: a signal is never behind more. */
#define INPUT_WINDOW (1 << 20)
/* Of output nothing more is read while so much waits to be written, bytes. */
#define OUTPUT_WINDOW (1 << 18)
#define PIECE 65536
/* How often this end says that it lives, and how long it may be silent, seconds. */
#define ALIVE_EVERY 10
#define SILENCE_LIMIT 45

/* queue.c: bytes that wait until a descriptor takes them. */

struct queue {
  /* -1: nobody takes them, and they are dropped. */
  int fd;
  /* It is not to be waited for: a file, or our own and non-blocking. */
  bool plain;
  /* It is closed once all is written. */
  bool ends;
  int error;
  uint8_t *data;
  size_t begin, end, size;
};

size_t queue_length(const struct queue *queue);

void queue_put(struct queue *queue, const void *bytes, size_t length);

void queue_frame(struct queue *queue, uint8_t type, const void *payload, uint32_t length);

/* Writes what can be written without waiting: the bytes. */
size_t queue_go(struct queue *queue);

void queue_close(struct queue *queue);

/* For poll(): whether it takes more, or, when there is nothing, whether anybody reads. */
struct pollfd queue_wait(const struct queue *queue);

/* Seconds of a clock that nobody sets. */
long seconds_now(void);

/* near.c. Runs the command there and does not return, unless the words are for src/remote, or ssh does not get there:
 * that can say why. */
void run_there(int argc, char **argv);

/* far.c: `kiln remote-run`. */
_Noreturn void serve_far(void);

#endif
