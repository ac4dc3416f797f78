// SPDX-License-Identifier: Apache-2.0
#include "reader.h"

#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define HEAD sizeof(uint32_t)
#define FULL (MESSAGE_MAX / 2) // the longest item is shorter than what is left
#define OPENING "{\"type\":\"message\",\"value\":["

static char frame[MESSAGE_MAX];
static size_t length;

static void put(const char *text) {
  size_t more = strlen(text);
  memcpy(frame + length, text, more);
  length += more;
}

static void put_quoted(const char *bytes, size_t count, int as_text) {
  put("\"");
  for (size_t i = 0; i < count; i++) {
    unsigned char byte = (unsigned char)bytes[i];
    if (byte < 0x20) length += (size_t)sprintf(frame + length, "\\u%04x", byte);
    else if (byte >= 0x80 && !as_text) {
      frame[length++] = (char)(0xc0 | byte >> 6);
      frame[length++] = (char)(0x80 | (byte & 0x3f));
    } else {
      if (byte == '"' || byte == '\\') frame[length++] = '\\';
      frame[length++] = (char)byte;
    }
  }
  put("\"");
}

// Bytes as characters of ISO 8859-1: a byte string of src/artifacts/byte-string.ts.
static void put_string(const char *bytes, size_t count) { put_quoted(bytes, count, 0); }

static void begin(void) {
  length = HEAD;
}

static void send_frame(void) {
  uint32_t body = (uint32_t)(length - HEAD); // little-endian, as every machine that kiln runs on
  memcpy(frame, &body, sizeof body);
  for (size_t sent = 0; sent < length;) {
    ssize_t more = write(REPLY_FD, frame + sent, length - sent);
    if (more < 0 && errno == EINTR) continue;
    if (more < 0) _exit(1);
    sent += (size_t)more;
  }
  length = 0;
}

static void flush(void) {
  if (length == 0) return;
  put("]}");
  send_frame();
}

void item_begin(const char *bytes, size_t count) {
  if (length > FULL) flush();
  if (length == 0) {
    begin();
    put(OPENING "{\"path\":");
  } else put(",{\"path\":");
  put_string(bytes, count);
}

void item_text(const char *key, const char *value) {
  length += (size_t)sprintf(frame + length, ",\"%s\":\"%s\"", key, value);
}

void item_number(const char *key, unsigned long long value) {
  length += (size_t)sprintf(frame + length, ",\"%s\":%llu", key, value);
}

void item_target(int folder, const char *name) {
  char target[4096];
  ssize_t count = readlinkat(folder, name, target, sizeof target - 1);
  if (count < 0) return;
  put(",\"target\":");
  put_string(target, (size_t)count);
}

void item_flag(const char *key, int value) {
  length += (size_t)sprintf(frame + length, ",\"%s\":%s", key, value ? "true" : "false");
}

void item_end(void) { put("}"); }

void tell_more(void) {
  flush();
  begin();
  put("{\"type\":\"message\",\"value\":\"more\"}");
  send_frame();
}

_Noreturn void tell_done(void) {
  flush();
  begin();
  put("{\"type\":\"done\"}");
  send_frame();
  _exit(0);
}

// What was told before a failure counts no more.
static void begin_failure(const char *code) {
  begin();
  length += (size_t)sprintf(frame + length, "{\"type\":\"failed\",\"error\":{\"code\":\"%s\",\"message\":", code);
}

static _Noreturn void end_failure(void) {
  put(",\"causes\":[]}}");
  send_frame();
  _exit(0);
}

// With the path that is looked at: hostile bytes, of which rebuildError() in src/host/confine/frame.ts makes text.
_Noreturn void fail(const char *call) {
  static char message[128 + sizeof path];
  int count = snprintf(message, sizeof message, "%s%s%s: %s", call, path[0] == 0 ? "" : " ", path, strerror(errno));
  begin_failure("E_SYSCALL");
  put_quoted(message, (size_t)count, 1);
  end_failure();
}

_Noreturn void fail_limit(const char *what) {
  begin_failure("E_ARTIFACT_LIMIT");
  length += (size_t)sprintf(frame + length, "\"more than %s\"", what);
  end_failure();
}

const char *kind_of(const struct stat *st) {
  switch (st->st_mode & S_IFMT) {
  case S_IFREG: return "file";
  case S_IFDIR: return "folder";
  case S_IFLNK: return "link";
  case S_IFIFO: return "fifo";
  case S_IFSOCK: return "socket";
  default: return "device";
  }
}
