// SPDX-License-Identifier: Apache-2.0
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "reader.h"

enum { ONLY = '<', MOUNT = '@' }; // how paths among the words begin

char path[DEPTH_MAX * NAME_MAX_BYTES];

static char **paths;
static size_t path_count;

// All up to the dot; those with paths are kept here. NULL without a dot.
char **words_read(size_t *count) {
  size_t length = 0, room = 1 << 16;
  char *text = malloc(room);
  for (ssize_t more = 1; more != 0; length += (size_t)more) {
    if (text != NULL && room - length < 2) text = realloc(text, room *= 2);
    if (text == NULL) fail("malloc");
    if ((more = read(0, text + length, room - length - 1)) < 0) fail("read");
  }
  if (length < 2 || memcmp(text + length - 2, ".", 2) != 0) return NULL;
  char **words = calloc(length, sizeof *words);
  paths = calloc(length, sizeof *paths);
  if (words == NULL || paths == NULL) fail("calloc");
  *count = 0;
  for (char *word = text; word < text + length - 2; word += strlen(word) + 1) {
    if (*word == ONLY || *word == MOUNT) paths[path_count++] = word;
    else words[(*count)++] = word;
  }
  return words;
}

size_t path_add(size_t length, const char *name) {
  size_t more = strlen(name);
  if (length + 2 + more > sizeof path) fail_limit("names longer than 255 bytes");
  if (length > 0) path[length++] = '/';
  memcpy(path + length, name, more + 1);
  return length + more;
}

// Whether the first path is the other, or lies below it.
static int is_within(const char *inner, size_t inner_length, const char *outer, size_t outer_length) {
  return inner_length >= outer_length && memcmp(inner, outer, outer_length) == 0 &&
         (inner_length == outer_length || inner[outer_length] == '/');
}

static int is_asked_or_above(size_t length, int above) {
  int any = 0;
  for (size_t i = 0; i < path_count; i++) {
    if (paths[i][0] != ONLY) continue;
    any = 1;
    const char *only = paths[i] + 1;
    if (is_within(path, length, only, strlen(only)) ||
        (above && is_within(only, strlen(only), path, length)))
      return 1;
  }
  return !any;
}

int is_asked(size_t length) { return is_asked_or_above(length, 0); }

int leads_to_asked(size_t length) { return is_asked_or_above(length, 1); }

static int finds_mount(size_t length, int below) {
  for (size_t i = 0; i < path_count; i++) {
    if (paths[i][0] != MOUNT) continue;
    const char *mount = paths[i] + 1;
    size_t mount_length = strlen(mount);
    if ((below || mount_length == length) && is_within(mount, mount_length, path, length)) return 1;
  }
  return 0;
}

int is_mount(size_t length) { return finds_mount(length, 0); }

int is_above_mount(size_t length) { return finds_mount(length, 1); }
