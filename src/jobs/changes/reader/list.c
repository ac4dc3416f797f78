// SPDX-License-Identifier: Apache-2.0
// Lists what the kernel wrote into an overlay's upper folder: a whiteout is a character device 0:0, a folder that shows
// nothing of the one below has `user.overlay.opaque=y`, and what was made of something below has
// `user.overlay.origin`. Source: overlayfs.rst.
#include <fcntl.h>
#include <unistd.h>

#include "reader.h"

static void tell(int folder, const char *name, size_t length, const struct stat *st, int fd) {
  item_begin(path, length);
  item_text("kind", is_whiteout(st) ? "whiteout" : kind_of(st));
  item_number("size", (unsigned long long)st->st_size);
  item_number("mode", st->st_mode & 07777);
  if (S_ISLNK(st->st_mode)) item_target(folder, name);
  if (fd >= 0) {
    item_flag("isOpaque", S_ISDIR(st->st_mode) && has_mark(fd, "user.overlay.opaque", 'y'));
    item_flag("isCopy", has_mark(fd, "user.overlay.origin", 0));
  }
  item_end();
}

// Parents first.
static void visit(int folder, size_t above, unsigned depth) {
  if (depth > DEPTH_MAX) fail_limit(DEPTH_TEXT);
  struct names names = {0};
  names_add(&names, folder);
  names_sort(&names);
  for (size_t i = 0; i < names.count; i++) {
    const char *name = names.at[i];
    size_t length = path_add(above, name);
    struct stat st;
    if (!leads_to_asked(length)) continue;
    if (fstatat(folder, name, &st, AT_SYMLINK_NOFOLLOW) != 0) {
      if (is_absent()) continue;
      fail("newfstatat");
    }
    int opens = S_ISDIR(st.st_mode) || S_ISREG(st.st_mode);
    int fd = opens ? open_same(folder, name, &st) : -1;
    tell(folder, name, length, &st, fd);
    if (fd >= 0 && S_ISDIR(st.st_mode)) visit(fd, length, depth + 1);
    if (fd >= 0) close(fd);
  }
  names_free(&names);
}

void list(int upper) { visit(upper, 0, 1); }
