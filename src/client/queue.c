#include "remote.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

size_t queue_length(const struct queue *queue) { return queue->end - queue->begin; }

void queue_close(struct queue *queue) {
  if (queue->fd == -1) return;
  close(queue->fd);
  queue->fd = -1;
  free(queue->data);
  queue->data = NULL;
  queue->begin = queue->end = queue->size = 0;
}

void queue_put(struct queue *queue, const void *bytes, size_t length) {
  if (queue->fd == -1 || length == 0) return;
  size_t waits = queue_length(queue);
  if (queue->end + length > queue->size) {
    if (waits > 0) memmove(queue->data, queue->data + queue->begin, waits);
    queue->begin = 0;
    queue->end = waits;
  }
  if (waits + length > queue->size) {
    queue->size = (waits + length) * 2;
    queue->data = realloc(queue->data, queue->size);
    if (queue->data == NULL) fail("E_NO_MEMORY", "there is no memory for what waits to be written");
  }
  memcpy(queue->data + queue->end, bytes, length);
  queue->end += length;
}

void queue_frame(struct queue *queue, uint8_t type, const void *payload, uint32_t length) {
  uint8_t header[FRAME_HEADER] = {[4] = type};
  write_u32(header, length);
  queue_put(queue, header, sizeof header);
  queue_put(queue, payload, length);
}

size_t queue_go(struct queue *queue) {
  size_t written = 0;
  while (queue->fd != -1 && queue_length(queue) > 0) {
    ssize_t put = write_now(queue->fd, queue->data + queue->begin, queue_length(queue), queue->plain);
    if (put >= 0) {
      queue->begin += put;
      written += put;
    } else if (errno == EAGAIN) {
      break;
    } else if (errno != EINTR) {
      queue->error = errno == ECONNRESET || errno == EIO ? EPIPE : errno;
      queue_close(queue);
    }
  }
  if (queue->ends && queue_length(queue) == 0) queue_close(queue);
  return written;
}

struct pollfd queue_wait(const struct queue *queue) {
  return (struct pollfd){.fd = queue->fd, .events = queue_length(queue) > 0 ? POLLOUT : 0};
}

long seconds_now(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return now.tv_sec;
}
