// SPDX-License-Identifier: Apache-2.0
#ifndef KILN_READER_H
#define KILN_READER_H

#include <stddef.h>
#include <sys/stat.h>

#include "confined.h"

#define NAME_MAX_BYTES 256

// tell.c: what the host hears, in frames of src/host/confine/frame.ts.
void item_begin(const char *path, size_t length);
void item_text(const char *key, const char *value);
void item_number(const char *key, unsigned long long value);
void item_flag(const char *key, int value);
void item_target(int folder, const char *name);
void item_end(void);
void tell_more(void);
_Noreturn void tell_done(void);
_Noreturn void fail(const char *call); // with errno
_Noreturn void fail_limit(const char *what);
const char *kind_of(const struct stat *st);

// words.c: what was asked for, and paths below the folder that is read.
extern char path[DEPTH_MAX * NAME_MAX_BYTES];
size_t path_add(size_t length, const char *name);
int is_asked(size_t length);    // path, or a folder above it
int leads_to_asked(size_t length); // or something below it
int is_above_mount(size_t length);
int is_mount(size_t length);
char **words_read(size_t *count);

// names.c
struct names {
  char **at;
  size_t count, room;
};
// Adds those in a folder, if it is there.
void names_add(struct names *names, int folder);
void names_sort(struct names *names); // without those that are there twice
void names_free(struct names *names);
int is_whiteout(const struct stat *st);
int has_mark(int fd, const char *name, char value); // 0 for any value
int is_absent(void);
int open_same(int folder, const char *name, const struct stat *st); // a file or folder, or -1

// enclose.c
void enclose(void);

void list(int upper);
void compare(const int *now, unsigned now_count, const int *before, unsigned before_count,
             unsigned long most);

#endif
