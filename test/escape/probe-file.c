// SPDX-License-Identifier: Apache-2.0
// Files of the host, mounts, devices, what the kernel shows in /proc.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/mount.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "probe.h"

int mount(const char *, const char *, const char *, unsigned long, const void *);
int umount2(const char *, int);
#define DETACH 2
#define REMOUNT_BIND (32 | 4096)

static enum outcome mount_tmpfs(void) { return by_result(mount("none", "/tmp", "tmpfs", 0, NULL)); }
static enum outcome mount_cgroups(void) {
  if (mount("none", "/tmp", "cgroup2", 0, NULL) == 0) return THROUGH;
  return by_result(mount("none", "/tmp", "cgroup", 0, "none,name=systemd"));
}
static enum outcome mount_disk(void) {
  // Whatever the first disk is called: its number is 8:0 or a virtual one's.
  static const unsigned majors[] = {8, 252, 253, 254, 259};
  for (size_t i = 0; i < sizeof majors / sizeof *majors; i++) {
    char path[32];
    snprintf(path, sizeof path, "/tmp/disk%zu", i);
    if (mknod(path, S_IFBLK | 0600, makedev(majors[i], 0)) == 0 && open(path, O_RDONLY) >= 0)
      return THROUGH;
  }
  return STOPPED;
}
static enum outcome make_memory_device(void) {
  return by_result(mknod("/tmp/mem", S_IFCHR | 0600, makedev(1, 1)));
}
// Needs no right at all: what overlayfs takes for a deleted file.
// Not of 0:0, a whiteout: for Linux 6.12.118 and newer that is a file, and no device.
static enum outcome make_disk(void) {
  enum outcome outcome = by_result(mknod("/dev/shm/disk", S_IFBLK | 0600, makedev(8, 0)));
  if (outcome == THROUGH) unlink("/dev/shm/disk"); // in a chroot with the host's /dev it is the host's
  return outcome;
}
static enum outcome unmask(void) {
  if (umount2("/proc/kallsyms", DETACH) != 0) return STOPPED;
  return read_something("/proc/kallsyms");
}
static enum outcome remount_sysctl(void) {
  return by_result(mount("none", "/proc/sys", NULL, REMOUNT_BIND, NULL));
}
static enum outcome copy_tree(void) {
  return by_result(syscall(SYS_open_tree, AT_FDCWD, "/", OPEN_TREE_CLONE));
}
static enum outcome new_mount_api(void) { return by_result(syscall(SYS_fsopen, "tmpfs", 0)); }
static enum outcome pivot_away(void) {
  long result = syscall(SYS_pivot_root, "/nowhere", "/nowhere");
  return result < 0 && errno == ENOENT ? THROUGH : by_result(result); // it went to look
}

static enum outcome kernel_symbols(void) { return read_something("/proc/kallsyms"); }
static enum outcome kernel_core(void) { return read_something("/proc/kcore"); }
static enum outcome key_users(void) { return read_something("/proc/key-users"); }
static enum outcome interrupts(void) { return read_something("/proc/interrupts"); }
static enum outcome command_line(void) { return read_something("/proc/cmdline"); }
static enum outcome disks(void) { return read_something("/proc/partitions"); }
static enum outcome disk_statistics(void) { return read_something("/proc/diskstats"); }
static enum outcome physical_memory(void) { return read_something("/proc/iomem"); }
// A kernel lists only the locks of processes that the reader can see: one of our own is among them.
static enum outcome locks(void) {
  struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
  int fd = open("/tmp/locked", O_CREAT | O_RDWR, 0600);
  if (fd < 0 || fcntl(fd, F_SETLK, &lock) != 0) return ABSENT;
  return read_something("/proc/locks");
}
static enum outcome pressure(void) { return read_something("/proc/pressure/memory"); }
static enum outcome core_pattern(void) {
  return by_result(open("/proc/sys/kernel/core_pattern", O_WRONLY));
}
static enum outcome affinity(void) {
  return by_result(open("/proc/irq/default_smp_affinity", O_WRONLY));
}
static enum outcome network_sysctl(void) {
  return by_result(open("/proc/sys/net/ipv4/ip_forward", O_WRONLY));
}
static enum outcome namespace_sysctl(void) {
  return by_result(open("/proc/sys/user/max_user_namespaces", O_WRONLY));
}
static enum outcome inotify_sysctl(void) {
  return by_result(open("/proc/sys/user/max_inotify_instances", O_WRONLY));
}
static enum outcome sysrq(void) { return by_result(open("/proc/sysrq-trigger", O_WRONLY)); }
static enum outcome uevent_helper(void) {
  return by_result(open("/sys/kernel/uevent_helper", O_WRONLY));
}
static enum outcome release_agent(void) {
  static const char *const paths[] = {"/sys/fs/cgroup/release_agent",
                                      "/sys/fs/cgroup/memory/release_agent",
                                      "/sys/fs/cgroup/systemd/release_agent"};
  for (size_t i = 0; i < sizeof paths / sizeof *paths; i++)
    if (open(paths[i], O_WRONLY) >= 0) return THROUGH;
  return STOPPED;
}
static enum outcome cgroup_tree(void) { return by_result(open("/sys/fs/cgroup/.", O_RDONLY)); }
static enum outcome cgroup_names(void) {
  char line[512];
  FILE *file = fopen("/proc/self/cgroup", "r");
  if (file == NULL) return STOPPED;
  errno = ENOENT;
  while (fgets(line, sizeof line, file) != NULL)
    if (strstr(line, "libvirt") != NULL || strstr(line, "lxc") != NULL) return THROUGH;
  return STOPPED;
}
// A root that another one was put over is found by `..` from that one's root.
static enum outcome old_root(void) {
  static const char *const paths[] = {"/.oldroot",      "/.kiln",        "/kiln-init",
                                      "/scratch",       "/newroot",      "/../.kiln",
                                      "/../kiln-init",  "/../scratch",   "/../newroot"};
  for (size_t i = 0; i < sizeof paths / sizeof *paths; i++)
    if (access(paths[i], F_OK) == 0) return THROUGH;
  return STOPPED;
}
static enum outcome control_socket(void) {
  static const char *const paths[] = {"/.kiln/init.sock", "/../.kiln/init.sock", "/run/kiln"};
  for (size_t i = 0; i < sizeof paths / sizeof *paths; i++)
    if (open(paths[i], O_PATH) >= 0) return THROUGH;
  return STOPPED;
}
static enum outcome host_devices(void) {
  static const char *const paths[] = {"/dev/kmsg",         "/dev/mem",     "/dev/kvm",
                                      "/dev/fuse",         "/dev/net/tun", "/dev/loop-control",
                                      "/dev/vda",          "/dev/sda",     "/dev/console",
                                      "/dev/mapper/control"};
  for (size_t i = 0; i < sizeof paths / sizeof *paths; i++)
    if (open(paths[i], O_RDONLY | O_NONBLOCK) >= 0) return THROUGH;
  return STOPPED;
}
// Standard input is a folder of somebody else's, as if it had leaked in.
static enum outcome leaked_folder(void) { return by_result(openat(0, "secret", O_RDONLY)); }
static enum outcome leaked_folder_parent(void) {
  return by_result(openat(0, "..", O_RDONLY | O_DIRECTORY));
}
static enum outcome leaked_folder_write(void) {
  return by_result(openat(0, "planted", O_CREAT | O_WRONLY, 0600));
}
static enum outcome roots_file(void) { return read_something("/root-only"); }
static enum outcome take_file(void) { return by_result(chown("/root-only", 4242, 4242)); }
static enum outcome give_file(void) {
  int fd = open("/tmp/mine", O_CREAT | O_RDWR, 0600);
  return fd < 0 ? STOPPED : by_result(fchown(fd, 4243, 4243));
}
static enum outcome overlay_attribute(void) {
  int fd = open("/tmp/attribute", O_CREAT | O_RDWR, 0600);
  unlink("/tmp/attribute");
  return fd < 0 ? STOPPED : by_result(fsetxattr(fd, "trusted.overlay.opaque", "y", 1, 0));
}

const struct verb file_verbs[] = {
    {"mount-tmpfs", mount_tmpfs},
    {"mount-cgroups", mount_cgroups},
    {"mount-disk", mount_disk},
    {"make-memory-device", make_memory_device},
    {"make-disk", make_disk},
    {"unmask", unmask},
    {"remount-sysctl", remount_sysctl},
    {"copy-tree", copy_tree},
    {"new-mount-api", new_mount_api},
    {"pivot-root", pivot_away},
    {"kernel-symbols", kernel_symbols},
    {"kernel-core", kernel_core},
    {"key-users", key_users},
    {"interrupts", interrupts},
    {"kernel-command-line", command_line},
    {"disks", disks},
    {"disk-statistics", disk_statistics},
    {"physical-memory", physical_memory},
    {"locks", locks},
    {"pressure", pressure},
    {"core-pattern", core_pattern},
    {"irq-affinity", affinity},
    {"network-sysctl", network_sysctl},
    {"namespace-sysctl", namespace_sysctl},
    {"inotify-sysctl", inotify_sysctl},
    {"sysrq", sysrq},
    {"uevent-helper", uevent_helper},
    {"release-agent", release_agent},
    {"cgroup-tree", cgroup_tree},
    {"cgroup-names", cgroup_names},
    {"old-root", old_root},
    {"control-socket", control_socket},
    {"host-devices", host_devices},
    {"leaked-folder", leaked_folder},
    {"leaked-folder-parent", leaked_folder_parent},
    {"leaked-folder-write", leaked_folder_write},
    {"roots-file", roots_file},
    {"take-file", take_file},
    {"give-file-away", give_file},
    {"overlay-attribute", overlay_attribute},
    {NULL, NULL},
};
