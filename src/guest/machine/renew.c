// SPDX-License-Identifier: Apache-2.0
// What one saved machine would give to all that are restored of it.
#include <fcntl.h>
#include <linux/random.h>
#include <stdint.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

#include "stage0.h"

#define NANOSECONDS 1000000000u

void renew(const struct port_renew *from) {
  struct {
    struct rand_pool_info info;
    uint64_t seed[4];
  } more = {{8 * sizeof more.seed, sizeof more.seed},
            {from->seed0, from->seed1, from->seed2, from->seed3}};
  struct timespec now = {(time_t)(from->time / NANOSECONDS), (long)(from->time % NANOSECONDS)};
  if (clock_settime(CLOCK_REALTIME, &now) != 0) say("the clock");
  int random = open("/dev/random", O_RDWR | O_CLOEXEC);
  // The kernel learns by itself that it was restored (vmgenid), but perhaps not before the init runs.
  if (random < 0 || ioctl(random, RNDADDENTROPY, &more) != 0 || ioctl(random, RNDRESEEDCRNG) != 0) {
    say("random numbers");
    power_off();
  }
  close(random);
}
