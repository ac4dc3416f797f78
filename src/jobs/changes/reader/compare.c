// SPDX-License-Identifier: Apache-2.0
// What two stacks of layers show differently, from the layers alone: only folders in which one stack has a layer that the
// other has not are read, so it takes time with what has changed. Names are merged as overlayfs merges them: the topmost
// entry counts, a whiteout hides what is below, and so does an opaque folder (src/image/tree/merged.ts does the same).
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "reader.h"

#define PIECE (1 << 20)

// Folders of layers, the topmost layer first.
struct stack {
  const int *fds;
  unsigned count;
};

struct shown {
  struct stat st;
  int folder; // in which it lies
  const char *name;
  int *parts; // of a folder, what is merged in it
  unsigned count;
};

// A new folder above a mount point: told once something else in it is.
struct held {
  struct held *above;
  const struct shown *shown;
  size_t length;
  int told;
};

static unsigned long most, told;
static unsigned long long paths, bytes;

static int look(struct stack stack, const char *name, struct shown *out) {
  int found = 0;
  *out = (struct shown){.folder = -1, .name = name, .parts = calloc(stack.count + 1, sizeof(int))};
  if (out->parts == NULL) fail("calloc");
  for (unsigned i = 0; i < stack.count; i++) {
    struct stat st;
    if (fstatat(stack.fds[i], name, &st, AT_SYMLINK_NOFOLLOW) != 0) {
      if (is_absent()) continue;
      fail("fstatat");
    }
    if (is_whiteout(&st)) break;
    // Below a folder, what is none is hidden.
    if (!S_ISDIR(st.st_mode) && found) break;
    int fd = -1;
    if (S_ISDIR(st.st_mode)) {
      fd = openat(stack.fds[i], name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
      if (fd < 0 && is_absent()) continue;
      if (fd < 0 || fstat(fd, &st) != 0) fail("openat");
      out->parts[out->count++] = fd;
    }
    if (!found) out->st = st, out->folder = stack.fds[i];
    found = 1;
    if (fd < 0 || has_mark(fd, "user.overlay.opaque", 'y')) break;
  }
  return found;
}

static void release(struct shown *shown) {
  for (unsigned i = 0; i < shown->count; i++) close(shown->parts[i]);
  free(shown->parts);
}

static void add(const char *change, size_t length, const struct shown *shown, const char *was, struct held *held) {
  if (!is_asked(length)) return;
  if (held != NULL && !held->told) {
    held->told = 1;
    add("added", held->length, held->shown, NULL, held->above);
  }
  if (told == most) {
    tell_more();
    tell_done();
  }
  told++;
  if ((paths += length) > PATHS_MAX) fail_limit(PATHS_TEXT);
  item_begin(path, length);
  item_text("change", change);
  item_text("kind", kind_of(&shown->st));
  if (was != NULL && strcmp(was, kind_of(&shown->st)) != 0) item_text("was", was);
  item_number("size", (unsigned long long)shown->st.st_size);
  item_number("mode", shown->st.st_mode & 07777);
  if (S_ISLNK(shown->st.st_mode)) item_target(shown->folder, shown->name);
  item_end();
}

static int is_same_content(int one, int other, off_t size) {
  static char pieces[2][PIECE];
  for (off_t at = 0; at < size;) {
    if (bytes > BYTES_MAX) fail_limit(BYTES_TEXT);
    ssize_t mine = pread(one, pieces[0], PIECE, at), theirs = pread(other, pieces[1], PIECE, at);
    if (mine < 0 || theirs < 0) fail("pread");
    if (mine != theirs || memcmp(pieces[0], pieces[1], (size_t)mine) != 0) return 0;
    if (mine == 0) return 1;
    at += mine;
    bytes += (unsigned long long)mine;
  }
  return 1;
}

static int is_same_file(const struct shown *is, const struct shown *was) {
  int mine = open_same(is->folder, is->name, &is->st), theirs = open_same(was->folder, was->name, &was->st);
  int same = mine >= 0 && theirs >= 0 && is_same_content(mine, theirs, is->st.st_size);
  if (mine >= 0) close(mine);
  if (theirs >= 0) close(theirs);
  return same;
}

static int is_same_link(const struct shown *is, const struct shown *was) {
  char mine[4096], theirs[4096];
  ssize_t one = readlinkat(is->folder, is->name, mine, sizeof mine);
  ssize_t other = readlinkat(was->folder, was->name, theirs, sizeof theirs);
  return one >= 0 && one == other && memcmp(mine, theirs, (size_t)one) == 0;
}

static int differs(const struct shown *is, const struct shown *was) {
  const struct stat *mine = &is->st, *theirs = &was->st;
  if (mine->st_dev == theirs->st_dev && mine->st_ino == theirs->st_ino) return 0;
  if ((mine->st_mode & S_IFMT) != (theirs->st_mode & S_IFMT)) return 1;
  if (S_ISLNK(mine->st_mode)) return !is_same_link(is, was);
  if (mine->st_mode != theirs->st_mode || mine->st_uid != theirs->st_uid || mine->st_gid != theirs->st_gid)
    return 1;
  if (S_ISREG(mine->st_mode)) return mine->st_size != theirs->st_size || !is_same_file(is, was);
  return !S_ISDIR(mine->st_mode);
}

static int is_same_folder(int one, int other) {
  struct stat mine, theirs;
  if (fstat(one, &mine) != 0 || fstat(other, &theirs) != 0) fail("fstat");
  return mine.st_dev == theirs.st_dev && mine.st_ino == theirs.st_ino;
}

// Of layers that only one of two stacks has. What both have at the bottom shows the same in both.
static void names_that_differ(struct names *names, struct stack now, struct stack before) {
  while (now.count > 0 && before.count > 0 &&
         is_same_folder(now.fds[now.count - 1], before.fds[before.count - 1]))
    now.count--, before.count--;
  for (unsigned i = 0; i < now.count; i++) names_add(names, now.fds[i]);
  for (unsigned i = 0; i < before.count; i++) names_add(names, before.fds[i]);
  names_sort(names);
}

static void visit(struct stack now, struct stack before, size_t above, unsigned depth, struct held *held) {
  if (depth > DEPTH_MAX) fail_limit(DEPTH_TEXT);
  struct names names = {0};
  names_that_differ(&names, now, before);
  for (size_t i = 0; i < names.count; i++) {
    size_t length = path_add(above, names.at[i]);
    if (!leads_to_asked(length)) continue;
    struct shown is, was;
    int there = look(now, names.at[i], &is), before_there = look(before, names.at[i], &was);
    struct held mount = {held, &is, length, 0}, *inner = held;
    if (there && !before_there) {
      // The init made these.
      if (S_ISDIR(is.st.st_mode) && is_above_mount(length)) inner = &mount;
      else if (!(S_ISREG(is.st.st_mode) && is.st.st_size == 0 && is_mount(length)))
        add("added", length, &is, NULL, held);
    } else if (there && differs(&is, &was)) add("changed", length, &is, kind_of(&was.st), held);
    else if (!there && before_there) add("removed", length, &was, NULL, held);
    if (there && S_ISDIR(is.st.st_mode))
      visit((struct stack){is.parts, is.count}, (struct stack){was.parts, before_there ? was.count : 0},
            length, depth + 1, inner);
    release(&is);
    release(&was);
  }
  names_free(&names);
}

void compare(const int *now, unsigned now_count, const int *before, unsigned before_count, unsigned long at_most) {
  most = at_most;
  visit((struct stack){now, now_count}, (struct stack){before, before_count}, 0, 1, NULL);
}
