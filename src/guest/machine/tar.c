// SPDX-License-Identifier: Apache-2.0
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tar.h"

#define BLOCK 512
#define LINKS_MAX 100000

char tar_path[16 << 10];

static unsigned char buffer[256 << 10];
static size_t buffered;
static char records[512 << 10];
static size_t recorded;
static int owned;
static uint32_t base;

void tar_fail(int error) { _exit(error > 0 && error < 255 ? error : 255); }

static void flush(void) {
  for (size_t at = 0; at < buffered;) {
    ssize_t n = write(1, buffer + at, buffered - at);
    if (n < 0 && errno != EINTR) tar_fail(errno);
    if (n > 0) at += (size_t)n;
  }
  buffered = 0;
}

static void put(const void *bytes, size_t length) {
  while (length > 0) {
    if (buffered == sizeof buffer) flush();
    size_t n = sizeof buffer - buffered < length ? sizeof buffer - buffered : length;
    memcpy(buffer + buffered, bytes, n);
    buffered += n;
    bytes = (const char *)bytes + n;
    length -= n;
  }
}

static void put_padding(uint64_t length) {
  static const char zeros[BLOCK];
  put(zeros, (BLOCK - length % BLOCK) % BLOCK);
}

void tar_own(uint32_t first) {
  owned = 1;
  base = first;
}

static unsigned id_of(uint32_t id) {
  if (!owned) return 0;
  if (id < base || id - base > UINT16_MAX) tar_fail(EOVERFLOW);
  return id - base;
}

// struct posix_header of tar(5)
static void put_block(const char *name, char type, const struct stat *st, uint64_t size) {
  char block[BLOCK] = "";
  unsigned sum = 0;
  int64_t time = st->st_mtim.tv_sec;
  snprintf(block, 100, "%s", name);
  snprintf(block + 100, 8, "%07o", st->st_mode & 07777);
  snprintf(block + 108, 8, "%07o", id_of(st->st_uid));
  snprintf(block + 116, 8, "%07o", id_of(st->st_gid));
  snprintf(block + 124, 12, "%011llo", (unsigned long long)(size < 1ULL << 33 ? size : 0));
  snprintf(block + 136, 12, "%011llo", (unsigned long long)(time > 0 && time < 1LL << 33 ? time : 0));
  memset(block + 148, ' ', 8);
  block[156] = type;
  memcpy(block + 257, "ustar\00000", 8);
  snprintf(block + 329, 8, "%07o", 0); // of a device
  snprintf(block + 337, 8, "%07o", 0);
  for (size_t i = 0; i < BLOCK; i++) sum += (unsigned char)block[i];
  snprintf(block + 148, 8, "%06o", sum);
  put(block, BLOCK);
}

void tar_record(const char *name, const void *value, size_t length) {
  size_t rest = strlen(name) + length + 3, whole = rest, digits = 0;
  char number[24];
  // The length counts itself.
  while (digits + rest != whole || digits == 0) {
    digits = (size_t)snprintf(number, sizeof number, "%zu", whole);
    if (digits + rest == whole) break;
    whole = digits + rest;
  }
  if (whole >= sizeof records - recorded) tar_fail(E2BIG);
  recorded += (size_t)sprintf(records + recorded, "%zu %s=", whole, name);
  memcpy(records + recorded, value, length);
  recorded += length;
  records[recorded++] = '\n';
}

static void record_text(const char *name, const char *value) {
  tar_record(name, value, strlen(value));
}

void tar_header(char type, const struct stat *st, uint64_t size, const char *target) {
  char number[48];
  record_text("path", tar_path);
  if (target != NULL) record_text("linkpath", target);
  if (size >= 1ULL << 33) {
    snprintf(number, sizeof number, "%llu", (unsigned long long)size);
    record_text("size", number);
  }
  if (owned && st->st_mtim.tv_sec >= 0) {
    snprintf(number, sizeof number, "%lld.%09ld", (long long)st->st_mtim.tv_sec, st->st_mtim.tv_nsec);
    record_text("mtime", number);
  }
  struct stat own = *st;
  own.st_mode = 0644;
  put_block("file", 'x', &own, recorded);
  put(records, recorded);
  put_padding(recorded);
  recorded = 0;
  put_block("file", type, st, size);
}

void tar_last(const char *name, const struct stat *st) { put_block(name, '5', st, 0); }

void tar_content(int fd, uint64_t size) {
  static char piece[128 << 10];
  uint64_t left = size;
  while (left > 0) {
    ssize_t n = read(fd, piece, left < sizeof piece ? (size_t)left : sizeof piece);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) tar_fail(errno);
    if (n == 0) tar_fail(EAGAIN); // somebody has shortened it
    put(piece, (size_t)n);
    left -= (uint64_t)n;
  }
  put_padding(size);
}

// Files with several names, by the first one that was packed.
static struct known {
  dev_t dev;
  ino_t ino;
  char *path;
} *known;
static size_t known_count;

const char *tar_first_name(const struct stat *st) {
  if (st->st_nlink < 2) return NULL;
  for (size_t i = 0; i < known_count; i++)
    if (known[i].dev == st->st_dev && known[i].ino == st->st_ino)
      return strcmp(known[i].path, tar_path) == 0 ? NULL : known[i].path;
  if (known_count == LINKS_MAX) return NULL;
  if (known == NULL && (known = malloc(LINKS_MAX * sizeof *known)) == NULL) tar_fail(ENOMEM);
  char *name = strdup(tar_path);
  if (name == NULL) tar_fail(ENOMEM);
  known[known_count++] = (struct known){st->st_dev, st->st_ino, name};
  return NULL;
}

void tar_append(const char *name) {
  size_t length = strlen(tar_path);
  if (length + strlen(name) + 2 > sizeof tar_path) tar_fail(ENAMETOOLONG);
  tar_path[length] = '/';
  strcpy(tar_path + length + 1, name);
}

void tar_end(void) {
  static const char zeros[2 * BLOCK];
  put(zeros, sizeof zeros);
  flush();
}
