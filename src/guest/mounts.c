// SPDX-License-Identifier: Apache-2.0
// One file, for each step relies on the mounts of those before it.
#include "mounts.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <linux/mount.h>
#include <linux/openat2.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "label.h"
#include "measure.h"

// glibc's <sys/mount.h> clashes with <linux/mount.h>, so declare only what is needed.
int mount(const char *, const char *, const char *, unsigned long, const void *);
int umount2(const char *, int);
#define MNT_DETACH 2

static const char *const device_names[] = {"null", "zero", "full", "random", "urandom", "tty"};
#define DEVICES (sizeof device_names / sizeof *device_names)

#define NAMES_BYTES (256u << 10) // room for the largest hosts file that is taken over, twice

#define STAGE "/stage"

#define LAYERS_MAX 64

static int layers[LAYERS_MAX]; // folders with `upper`: the root's first, then those of FIELD_BIND in their order
static size_t layer_count;

// The root's lower layers above the image: those of snapshots, each on LOWERS/N, the lowest first.
#define LOWERS "/scratch/lowers"
static unsigned lower_count;

// A copy of the layer of FIELD_ETC_FILE, or -1, and how many layers of snapshots are below it.
static int names_mount = -1;
static unsigned names_above;

static unsigned char closed[16 << 10];
static size_t closed_length;
static int limits = -1; // /proc/sys/user, which a read-only /proc/sys closes

static int clone_tree(const char *path) {
  return (int)syscall(SYS_open_tree, AT_FDCWD, path, OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC);
}

static int attach(int mount_fd, int target_fd) {
  return (int)syscall(SYS_move_mount, mount_fd, "", target_fd, "",
                      MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH);
}

static int attach_at(int mount_fd, const char *path) {
  int target = open(path, O_PATH | O_CLOEXEC);
  return target < 0 ? -1 : closing(target, attach(mount_fd, target));
}

static int attach_closing(int mount_fd, const char *path) {
  return mount_fd < 0 ? -1 : closing(mount_fd, attach_at(mount_fd, path));
}

static int detached(const char *type, unsigned attributes, const char *const options[]) {
  int fs = (int)syscall(SYS_fsopen, type, FSOPEN_CLOEXEC);
  if (fs < 0) return -1;
  int result = 0;
  for (int i = 0; result == 0 && options[i] != NULL; i += 2)
    result = options[i + 1] == NULL
                 ? (int)syscall(SYS_fsconfig, fs, FSCONFIG_SET_FLAG, options[i], NULL, 0)
                 : (int)syscall(SYS_fsconfig, fs, FSCONFIG_SET_STRING, options[i], options[i + 1], 0);
  // Otherwise its files would get the policy's default label of the type, which other sandboxes have, too.
  const char *context =
      strcmp(type, "proc") == 0 || strcmp(type, "cgroup2") == 0 ? NULL : label_files();
  if (result == 0 && context != NULL)
    result = (int)syscall(SYS_fsconfig, fs, FSCONFIG_SET_STRING, "context", context, 0);
  if (result == 0) result = (int)syscall(SYS_fsconfig, fs, FSCONFIG_CMD_CREATE, NULL, NULL, 0);
  if (result == 0) result = (int)syscall(SYS_fsmount, fs, FSMOUNT_CLOEXEC, attributes);
  return closing(fs, result);
}

static int detached_plain(const char *type) {
  const char *no_options[] = {NULL};
  return detached(type, MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC, no_options);
}

static int detached_tmpfs(uint32_t mode, uint64_t bytes, unsigned attributes) {
  char mode_text[16], size_text[32];
  snprintf(mode_text, sizeof mode_text, "%o", mode & 07777);
  snprintf(size_text, sizeof size_text, "%llu", (unsigned long long)bytes);
  const char *options[] = {"mode", mode_text, "size", size_text, NULL};
  return detached("tmpfs", attributes, options);
}

static int make_parents(const char *path) {
  char part[4096];
  if (strlen(path) >= sizeof part) return failing(ENAMETOOLONG);
  strcpy(part, path);
  for (char *slash = strchr(part + 1, '/'); slash != NULL; slash = strchr(slash + 1, '/')) {
    *slash = 0;
    if (mkdir(part, 0755) != 0 && errno != EEXIST) return -1;
    *slash = '/';
  }
  return 0;
}

static int make_directory(const char *path, mode_t mode) {
  if (make_parents(path) != 0) return -1;
  if (mkdir(path, mode) == 0 || errno == EEXIST) return 0;
  return -1;
}

static int make_file(const char *path) {
  if (make_parents(path) != 0) return -1;
  int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC | O_NONBLOCK, 0644);
  if (fd < 0) return errno == EISDIR || errno == ENXIO ? 0 : -1;
  close(fd);
  return 0;
}

static int write_all(int fd, const unsigned char *data, size_t length) {
  for (size_t at = 0; at < length;) {
    ssize_t n = write(fd, data + at, length - at);
    if (n < 0) return -1;
    at += (size_t)n;
  }
  return 0;
}

int mounts_tmpfs(const char *path, uint32_t mode, uint64_t bytes) {
  if (make_directory(path, 0755) != 0) return -1;
  return attach_closing(detached_tmpfs(mode, bytes, MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV), path);
}

int mounts_new(const char *type, const char *path) { return attach_closing(detached_plain(type), path); }

int mounts_copy(const char *from, const char *to) {
  return make_file(to) == 0 ? attach_closing(clone_tree(from), to) : -1;
}

static int mount_scratch(const struct message *setup, const struct field *field) {
  if (field->tag == FIELD_SCRATCH)
    return attach_at(setup->fds[wire_get_scratch(field)], "/scratch");
  uint64_t bytes = wire_get_scratch_tmpfs(field);
  return attach_closing(detached_tmpfs(0755, bytes, MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV), "/scratch");
}

static void name_lower(unsigned nth, char out[32]) {
  // The image is below all layers.
  if (nth == 0) strcpy(out, "/lower");
  else snprintf(out, 32, LOWERS "/%u", nth);
}

static int add_lower(int mount_fd) {
  char path[32];
  name_lower(++lower_count, path);
  return make_directory(path, 0700) == 0 ? attach_at(mount_fd, path) : -1;
}

// What the topmost lower layer that has it says of the root's `name`. 1, or 0 where none has it.
static int stat_below(const char *name, struct stat *out) {
  for (unsigned left = lower_count + 1; left-- > 0;) {
    char path[32];
    name_lower(left, path);
    int lower = open(path, O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (lower < 0) return -1;
    if (closing(lower, fstatat(lower, name, out, AT_SYMLINK_NOFOLLOW)) == 0) return 1;
    if (errno != ENOENT) return -1;
  }
  return 0;
}

int mounts_seal(const char *path) {
  struct mount_attr attributes = {.attr_set = MOUNT_ATTR_RDONLY};
  return (int)syscall(SYS_mount_setattr, AT_FDCWD, path, 0, &attributes, sizeof attributes);
}

static int write_etc_file(int etc, const struct field *field) {
  struct wire_etc_file file = wire_get_etc_file(field);
  int fd = openat(etc, file.name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0644);
  if (fd < 0) return -1;
  return closing(fd, write_all(fd, file.content, file.content_length));
}

// A layer for FIELD_ETC_FILE below the sandbox's writes, so that no image gets them. 1, or 0 without.
static int make_names(const struct message *setup) {
  struct field field;
  if (names_mount >= 0) return attach_at(names_mount, "/names") == 0 ? 1 : -1;
  if (!field_find(setup, FIELD_ETC_FILE, &field)) return 0;
  names_above = lower_count;
  // The merged /etc gets mode, owner and time of its topmost layer: set the image's.
  struct stat image = {.st_mode = S_IFDIR | 0755};
  int found = stat_below("etc", &image);
  if (found < 0) return 0;
  // A link or a file in place of /etc stays as it is: nothing is written through a link.
  if (!S_ISDIR(image.st_mode)) return 0;
  int layer = detached_tmpfs(0755, NAMES_BYTES, MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV);
  if (attach_closing(layer, "/names") != 0 || mkdir("/names/etc", 0700) != 0) return -1;
  int etc = open("/names/etc", O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC), result = 0;
  if (etc < 0) return -1;
  for (size_t offset = 0; result == 0 && field_next(setup, &offset, &field);)
    if (field.tag == FIELD_ETC_FILE) result = write_etc_file(etc, &field);
  struct timespec times[2] = {image.st_atim, image.st_mtim};
  if (result != 0 || fchown(etc, image.st_uid, image.st_gid) != 0 ||
      fchmod(etc, image.st_mode & 07777) != 0 || (found == 1 && futimens(etc, times) != 0))
    return closing(etc, -1);
  return closing(etc, 1);
}

int mounts_layer(uint32_t nth) {
  return nth < layer_count ? fcntl(layers[nth], F_DUPFD_CLOEXEC, 0) : failing(ENOENT);
}

static int hold_layer(const char *path) {
  if (layer_count == LAYERS_MAX) return failing(EMFILE);
  int fd = open(path, O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
  if (fd >= 0) layers[layer_count++] = fd;
  return fd < 0 ? -1 : 0;
}

// In place of the descriptor of a folder comes that of an overlay on it. Before the pivot: layers are named by paths.
static int make_layer(const struct message *setup, const struct wire_bind *bind) {
  char folder[32], lower[48], upper[48], work[48];
  snprintf(folder, sizeof folder, "/scratch/cow/%zu", layer_count);
  snprintf(lower, sizeof lower, "%s/lower", folder);
  snprintf(upper, sizeof upper, "%s/upper", folder);
  snprintf(work, sizeof work, "%s/work", folder);
  struct stat st;
  if (make_directory(lower, 0700) != 0 || attach_at(setup->fds[bind->fd], lower) != 0 ||
      stat(lower, &st) != 0 || mkdir(work, 0700) != 0 || mkdir(upper, 0700) != 0 ||
      chown(upper, st.st_uid, st.st_gid) != 0 || chmod(upper, st.st_mode & 01777) != 0)
    return -1;
  const char *options[] = {"lowerdir", lower, "upperdir",  upper, "workdir",
                           work,       "userxattr", NULL, NULL};
  int overlay = detached("overlay", MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV, options);
  if (overlay < 0 || hold_layer(folder) != 0) return closing(overlay, -1);
  return closing(overlay, dup3(overlay, setup->fds[bind->fd], O_CLOEXEC) < 0 ? -1 : 0);
}

static int make_layers(const struct message *setup, struct failure *failure) {
  struct field field;
  size_t offset = 0;
  if (hold_layer("/scratch") != 0) return fail(failure, FAIL_UPPER, NULL);
  while (field_next(setup, &offset, &field)) {
    if (field.tag != FIELD_BIND) continue;
    struct wire_bind bind = wire_get_bind(&field);
    if (bind.access == BIND_COW && !fault("cow") && make_layer(setup, &bind) != 0)
      return fail(failure, FAIL_LAYER, bind.path);
  }
  return 0;
}

static int make_root(const struct message *setup, struct failure *failure) {
  struct field field;
  size_t offset = 0;
  while (field_next(setup, &offset, &field)) {
    if (field.tag == FIELD_HOSTNAME) {
      const char *name = wire_get_hostname(&field);
      if (sethostname(name, strlen(name)) != 0) return fail(failure, FAIL_HOSTNAME, name);
    } else if (field.tag == FIELD_LOWER) {
      if (attach_at(setup->fds[wire_get_lower(&field)], "/lower") != 0)
        return fail(failure, FAIL_IMAGE, NULL);
    } else if (field.tag == FIELD_SCRATCH_TMPFS || field.tag == FIELD_SCRATCH) {
      if (mount_scratch(setup, &field) != 0) return fail(failure, FAIL_SCRATCH, NULL);
    } else if (field.tag == FIELD_LOWER_LAYER) {
      // Behind the scratch space, where it is mounted.
      if (add_lower(setup->fds[wire_get_lower_layer(&field)]) != 0)
        return fail(failure, FAIL_SNAPSHOT, NULL);
    }
  }

  // The merged root takes mode and owner from upper: set those of the topmost layer below.
  struct stat lower;
  if (stat_below(".", &lower) != 1) return fail(failure, FAIL_STAT_IMAGE, NULL);
  if ((mkdir("/scratch/upper", lower.st_mode & 07777) != 0 && errno != EEXIST) ||
      chown("/scratch/upper", lower.st_uid, lower.st_gid) != 0 ||
      (mkdir("/scratch/work", 0700) != 0 && errno != EEXIST))
    return fail(failure, FAIL_UPPER, NULL);
  int names = make_names(setup);
  if (names < 0) return fail(failure, FAIL_NAMES, NULL);
  if (names) {
    // For the next root.
    closing(names_mount, 0);
    names_mount = clone_tree("/names");
  }
  int open = fault("nosuid") || fault("nosuid-unchecked");
  // What the sandbox has written to a name counts, if a layer of its own has it.
  unsigned below = names_above < lower_count ? names_above : lower_count;
  char options[2048] = "lowerdir=";
  for (unsigned left = lower_count + 1; left-- > 0;) {
    char path[32];
    name_lower(left, path);
    snprintf(options + strlen(options), sizeof options - strlen(options), "%s%s%s",
             names && left == below ? "/names:" : "", path, left == 0 ? "" : ":");
  }
  snprintf(options + strlen(options), sizeof options - strlen(options),
           ",upperdir=/scratch/upper,workdir=/scratch/work,userxattr");
  if (label_files() != NULL)
    snprintf(options + strlen(options), sizeof options - strlen(options), ",context=\"%s\"",
             label_files());
  if (mount("overlay", "/newroot", "overlay", open ? 0 : 0x2 | 0x4 /* MS_NOSUID | MS_NODEV */,
            options) != 0)
    return fail(failure, FAIL_OVERLAY, NULL);
  return 0;
}

static int pivot(const char *root) {
  if (chdir(root) != 0 || syscall(SYS_pivot_root, ".", ".") != 0) return -1;
  if (!fault("old-root") && umount2(".", MNT_DETACH) != 0) return -1;
  return chdir("/");
}

static int make_dev(struct failure *failure) {
  if (mounts_tmpfs(STAGE "/dev", 0755, 1 << 20) != 0) return fail(failure, FAIL_MOUNT, "/dev");
  for (size_t i = 0; i < DEVICES; i++) {
    char from[32], to[48];
    snprintf(from, sizeof from, "/dev/%s", device_names[i]);
    snprintf(to, sizeof to, STAGE "%s", from);
    if (mounts_copy(from, to) != 0) return fail(failure, FAIL_ATTACH_DEVICE, from);
    if (fault("devices") && i == 0 && mounts_copy(from, STAGE "/dev/mem") != 0)
      return fail(failure, FAIL_ATTACH_DEVICE, "/dev/mem");
  }
  const char *pts_options[] = {"newinstance", NULL, "ptmxmode", "0666", "mode", "0620", "gid", "5",
                               "max", TERMINALS, NULL};
  if (fault("terminals")) pts_options[8] = NULL;
  int pts = detached("devpts", MOUNT_ATTR_NOSUID | MOUNT_ATTR_NOEXEC, pts_options);
  if (pts < 0 || mkdir(STAGE "/dev/pts", 0755) != 0 || attach_at(pts, STAGE "/dev/pts") != 0)
    return fail(failure, FAIL_MOUNT, "/dev/pts");
  close(pts);
  if (symlink("pts/ptmx", STAGE "/dev/ptmx") != 0 ||
      symlink("/proc/self/fd", STAGE "/dev/fd") != 0 ||
      symlink("/proc/self/fd/0", STAGE "/dev/stdin") != 0 ||
      symlink("/proc/self/fd/1", STAGE "/dev/stdout") != 0 ||
      symlink("/proc/self/fd/2", STAGE "/dev/stderr") != 0)
    return fail(failure, FAIL_DEVICE_LINKS, NULL);
  return 0;
}

static int is_directory(const char *path) {
  struct stat st;
  return stat(path, &st) == 0 && S_ISDIR(st.st_mode);
}

static int empty_folder(void) {
  static int first = -1;
  if (first >= 0) {
    int copy = (int)syscall(SYS_open_tree, first, "",
                            AT_EMPTY_PATH | OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC);
    if (copy >= 0) return copy;
  }
  int fd = detached_tmpfs(0555, 4096, MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV);
  if (fd >= 0 && first < 0) first = fcntl(fd, F_DUPFD_CLOEXEC, 10);
  return fd;
}

int mounts_mask(const char *path) {
  if (access(path, F_OK) != 0 || fault("mask")) return 0;
  return attach_closing(is_directory(path) ? empty_folder() : clone_tree("/dev/null"), path);
}

int mounts_readonly(const char *path) {
  if (access(path, F_OK) != 0 || fault("readonly")) return 0;
  // Nothing is seen that is mounted on a root.
  if (strcmp(path, "/") == 0) return mounts_seal(path);
  int fd = clone_tree(path);
  if (fd < 0) return -1;
  struct mount_attr attributes = {.attr_set = MOUNT_ATTR_RDONLY};
  if (syscall(SYS_mount_setattr, fd, "", AT_EMPTY_PATH, &attributes, sizeof attributes) != 0)
    return closing(fd, -1);
  return attach_closing(fd, path);
}

static int bind_mount(const struct message *setup, const struct wire_bind *bind) {
  int fd = setup->fds[bind->fd];
  if ((bind->directory ? make_directory(bind->path, 0755) : make_file(bind->path)) != 0 ||
      attach_at(fd, bind->path) != 0)
    return -1;
  struct mount_attr writable = {.attr_clr = MOUNT_ATTR_RDONLY};
  if (fault("bind-readonly") &&
      syscall(SYS_mount_setattr, fd, "", AT_EMPTY_PATH, &writable, sizeof writable) != 0)
    return -1;
  return 0;
}

#define GUESTS_MAX 64

// Places of the sandbox that are bound to others of it; `place` is where the mount is, links followed.
static struct guest {
  char *source, *path, place[4096];
  int readonly;
} guests[GUESTS_MAX];
static size_t guest_count;

static int is_below(const char *path, const char *above) {
  size_t length = strlen(above);
  return strncmp(path, above, length) == 0 && (path[length] == 0 || path[length] == '/');
}

// Whether the init's own mounts are there, or would be copied or covered with it.
static int is_closed_place(const char *path) {
  static const char *const closed_places[] = {"/proc", "/dev", "/sys", "/run/secrets"};
  if (strcmp(path, "/") == 0) return 1;
  for (size_t i = 0; i < sizeof closed_places / sizeof *closed_places; i++)
    if (is_below(path, closed_places[i]) ||
        (is_below(closed_places[i], path) && access(closed_places[i], F_OK) == 0))
      return 1;
  return 0;
}

// A place of the sandbox's root, all links followed; the image may have any.
static int open_inside(const char *path, char resolved[static 4096]) {
  struct open_how how = {.flags = O_PATH | O_CLOEXEC, .resolve = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS};
  int root = open("/", O_PATH | O_DIRECTORY | O_CLOEXEC);
  if (root < 0) return -1;
  int fd = closing(root, (int)syscall(SYS_openat2, root, path, &how, sizeof how));
  if (fd < 0) return -1;
  char link[32];
  struct statfs fs;
  snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
  ssize_t n = readlink(link, resolved, 4095);
  if (n <= 0 || n == 4095 || fstatfs(fd, &fs) != 0) return closing(fd, failing(ENAMETOOLONG));
  resolved[n] = 0;
  if (is_closed_place(resolved) || fs.f_type == PROC_SUPER_MAGIC || fs.f_type == SYSFS_MAGIC)
    return closing(fd, failing(EACCES));
  return fd;
}

static uint64_t mount_of(int fd) {
  struct statx st;
  if (statx(fd, "", AT_EMPTY_PATH, STATX_MNT_ID, &st) != 0 || !(st.stx_mask & STATX_MNT_ID)) return 0;
  return st.stx_mnt_id;
}

// What will be sealed later is not left open in another place.
static int close_guest(int source, int tree, int readonly, int sealed) {
  struct mount_attr attributes = {.attr_set = MOUNT_ATTR_RDONLY};
  if (!readonly && sealed) {
    int root = open("/", O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (root < 0) return -1;
    sealed = closing(root, mount_of(root) == mount_of(source));
  }
  if (!readonly && !sealed) return 0;
  return (int)syscall(SYS_mount_setattr, tree, "", AT_EMPTY_PATH | (readonly ? AT_RECURSIVE : 0),
                      &attributes, sizeof attributes);
}

// With what is mounted below, which may be there to hide something.
static int bind_guest(struct guest *guest, int sealed) {
  char from[4096];
  struct stat st;
  int source = open_inside(guest->source, from);
  if (source < 0) return -1;
  int tree = fstat(source, &st) != 0
                 ? -1
                 : (int)syscall(SYS_open_tree, source, "",
                                AT_EMPTY_PATH | AT_RECURSIVE | OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC);
  if (tree < 0 || close_guest(source, tree, guest->readonly, sealed) != 0) {
    if (tree >= 0) closing(tree, -1);
    return closing(source, -1);
  }
  int target = -1;
  if ((S_ISDIR(st.st_mode) ? make_directory(guest->path, 0755) : make_file(guest->path)) == 0)
    target = open_inside(guest->path, guest->place);
  int result = target < 0 ? -1 : closing(target, attach(tree, target));
  closing(tree, result);
  return closing(source, result);
}

static int add_guest(const struct message *setup, const struct wire_guest_bind *bind) {
  struct field field;
  size_t offset = 0;
  int sealed = 0;
  while (field_next(setup, &offset, &field))
    sealed |= field.tag == FIELD_READONLY && strcmp(wire_get_readonly(&field), "/") == 0;
  if (guest_count == GUESTS_MAX) return failing(EMFILE);
  struct guest *guest = &guests[guest_count++];
  *guest = (struct guest){.source = strdup(bind->source),
                          .path = strdup(bind->path),
                          .readonly = bind->readonly && !fault("bind-readonly")};
  return guest->source == NULL || guest->path == NULL ? -1 : bind_guest(guest, sealed);
}

static int write_file(const struct wire_file *file) {
  if (make_parents(file->path) != 0) return -1;
  unlink(file->path);
  int fd = open(file->path, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, file->mode & 0777);
  if (fd < 0) return -1;
  if (fchown(fd, file->uid, file->gid) != 0 ||
      write_all(fd, file->content, file->content_length) != 0)
    return closing(fd, -1);
  return close(fd);
}

int mounts_directory(const struct wire_directory *wanted) {
  if (make_directory(wanted->path, wanted->mode) != 0) return -1;
  int fd = open(wanted->path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
  if (fd < 0) return -1;
  // Owner first: changing the owner clears set-id bits.
  return closing(fd, fchown(fd, wanted->uid, wanted->gid) == 0 ? fchmod(fd, wanted->mode) : -1);
}

// namespaces(7). What exists already stays.
static int limit_user(const struct wire_user_limit *limit) {
  int fd = openat(limits, limit->name, O_WRONLY | O_CLOEXEC);
  return fd < 0 ? -1 : closing(fd, dprintf(fd, "%u", limit->most) < 0 ? -1 : 0);
}

static int obey(const struct message *setup, const struct field *field, struct failure *failure) {
  const char *path;
  switch (field->tag) {
  case FIELD_TMPFS: {
    struct wire_tmpfs tmpfs = wire_get_tmpfs(field);
    if (mounts_tmpfs(tmpfs.path, tmpfs.mode, tmpfs.bytes) == 0) return 0;
    return fail(failure, FAIL_TMPFS, tmpfs.path);
  }
  case FIELD_BIND: {
    struct wire_bind bind = wire_get_bind(field);
    return bind_mount(setup, &bind) == 0 ? 0 : fail(failure, FAIL_BIND, bind.path);
  }
  case FIELD_GUEST_BIND: {
    struct wire_guest_bind bind = wire_get_guest_bind(field);
    return add_guest(setup, &bind) == 0 ? 0 : fail(failure, FAIL_GUEST_BIND, bind.path);
  }
  case FIELD_MASK:
    path = wire_get_mask(field);
    return mounts_mask(path) == 0 ? 0 : fail(failure, FAIL_MASK, path);
  case FIELD_READONLY:
    path = wire_get_readonly(field);
    return mounts_readonly(path) == 0 ? 0 : fail(failure, FAIL_READONLY, path);
  case FIELD_FILE: {
    struct wire_file file = wire_get_file(field);
    return write_file(&file) == 0 ? 0 : fail(failure, FAIL_WRITE, file.path);
  }
  case FIELD_DIRECTORY: {
    struct wire_directory directory = wire_get_directory(field);
    if (mounts_directory(&directory) == 0) return 0;
    return fail(failure, FAIL_DIRECTORY, directory.path);
  }
  case FIELD_USER_LIMIT: {
    struct wire_user_limit limit = wire_get_user_limit(field);
    if (fault("user-limit") || limit_user(&limit) == 0) return 0;
    return fail(failure, FAIL_USER_LIMIT, limit.name);
  }
  default: return 0;
  }
}

static int close_proc(const struct message *prepare, struct failure *failure) {
  struct field field;
  size_t offset = 0, start = 0;
  for (; field_next(prepare, &offset, &field); start = offset) {
    if (field.tag != FIELD_MASK && field.tag != FIELD_READONLY) continue;
    int mask = field.tag == FIELD_MASK;
    const char *path = mask ? wire_get_mask(&field) : wire_get_readonly(&field);
    char staged[256];
    if (strncmp(path, "/proc/", 6) != 0 ||
        snprintf(staged, sizeof staged, STAGE "%s", path) >= (int)sizeof staged ||
        offset - start > sizeof closed - closed_length) {
      errno = EBADMSG;
      return fail(failure, FAIL_PREPARE_RULES, path);
    }
    if ((mask ? mounts_mask(staged) : mounts_readonly(staged)) != 0)
      return fail(failure, mask ? FAIL_MASK : FAIL_READONLY, path);
    memcpy(closed + closed_length, prepare->payload + start, offset - start);
    closed_length += offset - start;
  }
  return 0;
}

int mounts_stage(const struct message *prepare, struct failure *failure) {
  if (mount(NULL, "/", NULL, 0x4000 /* MS_REC */ | (1 << 18) /* MS_PRIVATE */, NULL) != 0)
    return fail(failure, FAIL_PRIVATE_MOUNTS, NULL);
  // A new proc is allowed only while another one is fully visible: mount it before libvirt's goes.
  int proc = detached_plain("proc");
  if (proc < 0) return fail(failure, FAIL_FRESH_PROC, NULL);
  if (attach_at(proc, STAGE "/proc") != 0) return fail(failure, FAIL_MOUNT, "/proc");
  limits = openat(proc, "sys/user", O_PATH | O_DIRECTORY | O_CLOEXEC);
  close(proc);
  return close_proc(prepare, failure) != 0 ? -1 : make_dev(failure);
}

// Where `setup` asks for all that is closed in the staged /proc, in the same words; else -1.
static ssize_t closed_in(const struct message *setup) {
  struct field field;
  size_t offset = 0;
  do
    if (setup->length - offset >= closed_length &&
        memcmp(setup->payload + offset, closed, closed_length) == 0)
      return (ssize_t)offset;
  while (field_next(setup, &offset, &field));
  return -1;
}

// Before the image is the root `..` would lead out of it. Never follows a link. Closes `mount_fd`.
static int attach_to_image(int mount_fd, const char *name, mode_t mode) {
  if (mount_fd < 0) return -1;
  int root = open("/newroot", O_PATH | O_DIRECTORY | O_CLOEXEC), target = -1;
  if (root >= 0 && (mkdirat(root, name, mode) == 0 || errno == EEXIST))
    target = openat(root, name, O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
  int result = target < 0 ? -1 : attach(mount_fd, target);
  closing(target, result);
  closing(root, result);
  return closing(mount_fd, result);
}

static int staged(const char *path) {
  return (int)syscall(SYS_open_tree, AT_FDCWD, path, OPEN_TREE_CLOEXEC);
}

static int is_staged(size_t at, ssize_t known) {
  return known >= 0 && at >= (size_t)known && at < (size_t)known + closed_length;
}

// Entries that came to the kernel's /proc while the sandbox waited (a module's folder) are still open.
static int is_closed(const struct field *field) {
  return field->tag == FIELD_MASK ? measure_masked(wire_get_mask(field))
                                  : measure_readonly(wire_get_readonly(field));
}

int mounts_enter(const struct message *setup, struct failure *failure) {
  if (make_root(setup, failure) != 0 || make_layers(setup, failure) != 0) return -1;
  ssize_t known = closed_in(setup);
  int proc = known < 0 ? detached_plain("proc") : staged(STAGE "/proc");
  if (attach_to_image(proc, "proc", 0555) != 0) return fail(failure, FAIL_MOUNT, "/proc");
  if (attach_to_image(staged(STAGE "/dev"), "dev", 0755) != 0) return fail(failure, FAIL_MOUNT, "/dev");
  if (!fault("pivot") && pivot("/newroot") != 0) return fail(failure, FAIL_PIVOT, NULL);

  struct field field;
  size_t offset = 0;
  for (size_t start = 0; field_next(setup, &offset, &field); start = offset)
    if (!(is_staged(start, known) && is_closed(&field)) && obey(setup, &field, failure) != 0)
      return -1;
  if (limits >= 0) close(limits);
  limits = -1;
  return 0;
}

// Between commands: a new root, made on a tmpfs as the first one was on the skeleton. What is mounted in the old one
// moves over.

#define OLD "/old"
#define MOVES_MAX 512

static struct move {
  int source, target;
} moves[MOVES_MAX];
static size_t move_count;

static void close_moves(void) {
  for (; move_count > 0; move_count--) {
    close(moves[move_count - 1].source);
    close(moves[move_count - 1].target);
  }
}

static int enter_stage(void) {
  static const char *const folders[] = {"old", "lower", "names", "scratch", "newroot"};
  int stage = detached_tmpfs(0700, 1 << 20, MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV);
  int root = open("/", O_PATH | O_DIRECTORY | O_CLOEXEC);
  int result = stage < 0 || root < 0 ? -1 : attach(stage, root);
  if (root >= 0) closing(root, 0);
  for (size_t i = 0; result == 0 && i < sizeof folders / sizeof *folders; i++)
    result = mkdirat(stage, folders[i], 0700);
  if (result == 0) result = fchdir(stage);
  if (result == 0) result = (int)syscall(SYS_pivot_root, ".", "old");
  return stage < 0 ? -1 : closing(stage, result != 0 ? -1 : chdir("/"));
}

// Below `root`, through no link: what lies there is the sandbox's.
static int make_place(int root, const char *path, int directory) {
  char part[4096];
  if (strlen(path) >= sizeof part) return failing(ENAMETOOLONG);
  strcpy(part, path);
  int at = fcntl(root, F_DUPFD_CLOEXEC, 0);
  char *rest = part + 1, *name;
  while (at >= 0 && (name = strsep(&rest, "/")) != NULL) {
    int folder = directory || rest != NULL;
    int made = folder ? mkdirat(at, name, 0755) : mknodat(at, name, S_IFREG | 0644, 0);
    int next = made != 0 && errno != EEXIST
                   ? -1
                   : openat(at, name, O_PATH | O_NOFOLLOW | O_CLOEXEC | (folder ? O_DIRECTORY : 0));
    at = closing(at, next);
  }
  struct stat st;
  if (at < 0 || fstat(at, &st) != 0) return -1;
  return S_ISLNK(st.st_mode) ? closing(at, failing(ELOOP)) : at;
}

static int plan_move(int root, const char *point) {
  struct stat st;
  if (move_count == MOVES_MAX) return failing(EMFILE);
  struct move *move = &moves[move_count];
  move->source = (int)syscall(SYS_open_tree, AT_FDCWD, point, OPEN_TREE_CLOEXEC | AT_SYMLINK_NOFOLLOW);
  if (move->source < 0) return -1;
  move->target = fstat(move->source, &st) != 0
                     ? -1
                     : make_place(root, point + strlen(OLD), S_ISDIR(st.st_mode));
  if (move->target < 0) return closing(move->source, -1);
  move_count++;
  return 0;
}

// Those show files of the old root, and are made again.
static int is_guest(const char *place) {
  for (size_t i = 0; i < guest_count; i++)
    if (strcmp(guests[i].place, place) == 0) return 1;
  return 0;
}

// proc_pid_mountinfo(5): a space is \040.
static void unescape(char *text) {
  char *out = text;
  for (; *text != 0; text++)
    if (text[0] == '\\' && text[1] >= '0' && text[1] <= '3' && text[2] >= '0' && text[3] >= '0') {
      *out++ = (char)((text[1] - '0') << 6 | (text[2] - '0') << 3 | (text[3] - '0'));
      text += 3;
    } else *out++ = *text;
  *out = 0;
}

static char mount_table[256 << 10];

static int plan_moves(struct failure *failure) {
  int fd = open(OLD "/proc/self/mountinfo", O_RDONLY | O_CLOEXEC);
  size_t length = 0;
  ssize_t n;
  if (fd < 0) return fail(failure, FAIL_MOUNT, "/");
  while ((n = read(fd, mount_table + length, sizeof mount_table - 1 - length)) > 0) length += (size_t)n;
  close(fd);
  mount_table[length] = 0;
  int root = open("/newroot", O_PATH | O_DIRECTORY | O_CLOEXEC);
  unsigned old = 0;
  if (n < 0 || length == sizeof mount_table - 1 || root < 0) {
    errno = EFBIG;
    return fail(failure, FAIL_MOUNT, "/");
  }
  // The old root's own line comes before those of what is mounted in it, or not: first find it.
  for (int finding = 1; finding >= 0; finding--) {
    const char *line = mount_table;
    while (*line != 0) {
      static char point[4096 * 4];
      unsigned id, parent;
      const char *end = strchr(line, '\n');
      if (sscanf(line, "%u %u %*s %*s %16383s", &id, &parent, point) == 3) {
        if (finding && strcmp(point, OLD) == 0) old = id;
        unescape(point);
        if (!finding && parent == old && strncmp(point, OLD "/", strlen(OLD "/")) == 0 &&
            !is_guest(point + strlen(OLD)) && plan_move(root, point) != 0)
          return closing(root, fail(failure, FAIL_BIND, point + strlen(OLD)));
      }
      line = end == NULL ? "" : end + 1;
    }
  }
  return closing(root, 0);
}

int mounts_again(const struct message *wanted, struct failure *failure) {
  unsigned before = lower_count;
  int sealed = measure_readonly("/");
  if (enter_stage() != 0) {
    fail(failure, FAIL_PIVOT, NULL);
    return -1;
  }
  lower_count = 0;
  int scratch = -1;
  if (make_root(wanted, failure) == 0 && plan_moves(failure) == 0 &&
      (scratch = open("/scratch", O_PATH | O_DIRECTORY | O_CLOEXEC)) < 0)
    fail(failure, FAIL_UPPER, NULL);
  if (scratch < 0) {
    // Nothing has been moved: the old root is whole.
    close_moves();
    lower_count = before;
    return pivot(OLD) == 0 ? 1 : -1;
  }
  for (size_t i = 0; i < move_count; i++)
    if (attach(moves[i].source, moves[i].target) != 0) return fail(failure, FAIL_BIND, NULL);
  close_moves();
  if (dup3(scratch, layers[0], O_CLOEXEC) < 0 || closing(scratch, pivot("/newroot")) != 0)
    return fail(failure, FAIL_PIVOT, NULL);
  for (size_t i = 0; i < guest_count; i++)
    if (bind_guest(&guests[i], sealed) != 0) return fail(failure, FAIL_GUEST_BIND, guests[i].path);
  if (sealed && (mounts_seal("/") != 0 || !measure_readonly("/"))) return fail(failure, FAIL_READONLY, "/");
  return 0;
}
