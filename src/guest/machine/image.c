// SPDX-License-Identifier: Apache-2.0
// File systems in files that a caller names. They are a stranger's: the kernel of this machine reads them, which is
// the sandbox's own, and the host's does not.
#include <errno.h>
#include <fcntl.h>
#include <linux/loop.h>
#include <linux/mount.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "protocol.h"
#include "stage0.h"

#define IMAGE_MODULES "/modules-of-images"
#define OPTIONS_MAX 2

// Nothing is written to the file, so a journal is not played back either.
static const struct kind {
  const char *type, *options[OPTIONS_MAX];
} kinds[] = {{"squashfs", {NULL}},
             {"erofs", {NULL}},
             {"xfs", {"norecovery", "nouuid"}},
             {"ext4", {"noload"}}};

// By the place of the descriptor in the message `setup`, one more than the descriptor.
static int mounted[FDS_MAX];

// The loop device is free again when its last user is gone.
static int open_loop(int share, char device[static 32]) {
  char self[32];
  snprintf(self, sizeof self, "/proc/self/fd/%d", share);
  int file = open(self, O_RDONLY | O_CLOEXEC);
  if (file < 0) return -1;
  int control = open("/dev/loop-control", O_RDWR | O_CLOEXEC);
  if (control < 0) return closing(file, -1);
  int number = closing(control, ioctl(control, LOOP_CTL_GET_FREE));
  snprintf(device, 32, "/dev/loop%d", number);
  int loop = number < 0 ? -1 : open(device, O_RDONLY | O_CLOEXEC);
  if (loop < 0) return closing(file, -1);
  struct loop_config config = {.fd = (uint32_t)file,
                               .info = {.lo_flags = LO_FLAGS_READ_ONLY | LO_FLAGS_AUTOCLEAR}};
  int configured = closing(file, ioctl(loop, LOOP_CONFIGURE, &config));
  return configured == 0 ? loop : closing(loop, -1);
}

static int set_flag(int context, const char *name) {
  return (int)syscall(SYS_fsconfig, context, FSCONFIG_SET_FLAG, name, NULL, 0);
}

static int mount_as(const struct kind *kind, const char *device) {
  int context = (int)syscall(SYS_fsopen, kind->type, FSOPEN_CLOEXEC);
  if (context < 0) return -1;
  if (syscall(SYS_fsconfig, context, FSCONFIG_SET_STRING, "source", device, 0) != 0 ||
      set_flag(context, "ro") != 0)
    return closing(context, -1);
  for (int i = 0; i < OPTIONS_MAX && kind->options[i] != NULL; i++)
    if (set_flag(context, kind->options[i]) != 0) return closing(context, -1);
  if (syscall(SYS_fsconfig, context, FSCONFIG_CMD_CREATE, NULL, NULL, 0) != 0)
    return closing(context, -1);
  unsigned attributes = MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV;
  return closing(context, (int)syscall(SYS_fsmount, context, FSMOUNT_CLOEXEC, attributes));
}

// EINVAL where it is none of them; ENODEV where the kernel lacks one, which it may be.
static int mount_any(const char *device) {
  int why = EINVAL;
  for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
    int fd = mount_as(&kinds[i], device);
    if (fd >= 0 || (errno != EINVAL && errno != ENODEV)) return fd;
    if (errno == ENODEV) why = ENODEV;
  }
  return failing(why);
}

// Its owners are the sandbox's, by their numbers.
static int map_owners(int fd) {
  char path[32];
  snprintf(path, sizeof path, "/proc/%d/ns/user", orders_init);
  int users = open(path, O_RDONLY | O_CLOEXEC);
  if (users < 0) return -1;
  struct mount_attr attributes = {.attr_set = MOUNT_ATTR_IDMAP, .userns_fd = (uint64_t)users};
  int mapped = closing(users, (int)syscall(SYS_mount_setattr, fd, "", AT_EMPTY_PATH, &attributes,
                                           sizeof attributes));
  // It is a file system that this kernel cannot give other owners, as squashfs before Linux 6.2.
  return mapped != 0 && errno == EINVAL ? failing(EOPNOTSUPP) : mapped;
}

int image_mount(int share, uint32_t place) {
  static int loaded;
  char device[32];
  // The first is the sandbox's root.
  if (place == 0 || place >= FDS_MAX || mounted[place] != 0) return failing(EBADMSG);
  if (!loaded) load_modules(IMAGE_MODULES);
  loaded = 1;
  int loop = open_loop(share, device);
  if (loop < 0) return -1;
  int fd = closing(loop, mount_any(device));
  if (fd < 0) return -1;
  if (map_owners(fd) != 0) return closing(fd, -1);
  mounted[place] = fd + 1;
  return 0;
}

int image_take(unsigned place) {
  int fd = mounted[place] - 1;
  mounted[place] = 0;
  return fd;
}
