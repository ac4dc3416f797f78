// SPDX-License-Identifier: Apache-2.0
// In the place of stage 0, in a real guest: it is root there, has the guest's kernel at its will, and no sandbox. It
// waits until kiln has shared image and binds, tries what it can, writes what came of it into the writable bind, and
// breaks the protocol. Built with src/guest/machine/boot.c.
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "stage0.h"

static int port = -1, report = -1;
static uint32_t writable, closed;
static int shares;

void say(const char *what) {
  dprintf(2, "hostile: %s: %s\n", what, strerror(errno));
}

void power_off(void) {
  reboot(RB_POWER_OFF);
  for (;;) pause();
}

static void transmit(uint16_t type, uint16_t stream, const void *payload, uint32_t length) {
  unsigned char frame[4096];
  struct port_header header = {length, type, stream};
  memcpy(frame, &header, sizeof header);
  memcpy(frame + sizeof header, payload, length);
  for (size_t at = 0, all = sizeof header + length; at < all;) {
    ssize_t n = write(port, frame + at, all - at);
    if (n < 0 && errno != EAGAIN) power_off();
    if (n < 0) poll(&(struct pollfd){.fd = port, .events = POLLOUT}, 1, 1000);
    else at += (size_t)n;
  }
}

static void receive(void *to, size_t length) {
  for (size_t at = 0; at < length;) {
    ssize_t n = read(port, (char *)to + at, length - at);
    if (n == 0 || (n < 0 && errno != EAGAIN)) power_off();
    if (n < 0) poll(&(struct pollfd){.fd = port, .events = POLLIN}, 1, 1000);
    else at += (size_t)n;
  }
}

static const char *of(uint32_t share, const char *name) {
  static char paths[4][256];
  static int turn;
  char *path = paths[turn++ % 4];
  snprintf(path, sizeof paths[0], SHARES "/%u/%s", share, name);
  return path;
}

// `result` as of a system call.
static void note(const char *what, long result) {
  dprintf(report, "%s: %s\n", what, result < 0 ? strerrorname_np(errno) : "done");
}

static void try_handles(void) {
  struct {
    struct file_handle head;
    uint32_t words[3];
  } handle = {.head = {.handle_bytes = 12, .handle_type = 0x81}};
  int at = open(SHARES, O_RDONLY | O_DIRECTORY), opened = 0;
  for (uint32_t node = 1; node < 4000; node++) {
    handle.words[0] = node + 1000000;
    handle.words[1] = handle.words[2] = 0;
    int fd = open_by_handle_at(at, &handle.head, O_RDONLY);
    if (fd >= 0) opened++, close(fd);
  }
  dprintf(report, "handles: %d\n", opened);
}

static void list(const char *what, const char *folder) {
  DIR *entries = opendir(folder);
  dprintf(report, "%s:", what);
  for (struct dirent *entry; entries != NULL && (entry = readdir(entries)) != NULL;)
    if (entry->d_name[0] != '.') dprintf(report, " %s", entry->d_name);
  dprintf(report, "\n");
}

static void attack(void) {
  char byte;
  report = open(of(writable, "report"), O_WRONLY | O_CREAT | O_TRUNC, 0644);
  mount(NULL, SHARES, NULL, MS_REMOUNT, NULL);
  note("device", mknod(of(writable, "mem"), S_IFCHR | 0666, makedev(1, 1)));
  note("disk", mknod(of(writable, "disk"), S_IFBLK | 0666, makedev(8, 0)));
  note("set-id by chmod", chmod(of(writable, "program"), 04755));
  note("set-gid by chmod", chmod(of(writable, "program"), 02755));
  note("set-id by open", open(of(writable, "opened"), O_CREAT | O_WRONLY, 06755));
  note("set-id by mknod", mknod(of(writable, "node"), S_IFREG | 06755, 0));
  note("set-gid folder", mkdir(of(writable, "folder"), 02777));
  note("owner", chown(of(writable, "program"), 0, 0));
  note("capability", setxattr(of(writable, "program"), "security.capability",
                              "\1\0\0\2\0\0\40\0\0\0\0\0\0\0\0\0\0\0\0", 20, 0));
  note("other’s file", open(of(writable, "others"), O_RDONLY));
  note("other’s mode", chmod(of(writable, "others"), 0666));
  note("link out", open(of(writable, "out"), O_RDONLY));
  note("above", open(of(writable, "../../etc/shadow"), O_RDONLY));
  note("image", open(of(closed, "made"), O_CREAT | O_WRONLY, 0644));
  note("image’s mode", chmod(of(closed, "bin/busybox"), 0777));
  note("image’s file", rename(of(closed, "etc/passwd"), of(writable, "passwd")));
  note("second name", link(of(closed, "etc/passwd"), of(writable, "passwd")));
  note("share", rmdir(of(closed, "")));
  note("other share", mount("host", "/modules", "virtiofs", 0, NULL));
  note("read", getxattr(of(closed, "bin"), "trusted.overlay.opaque", &byte, 1));
  try_handles();
  list("network", "/sys/class/net");
  list("ports", "/sys/class/virtio-ports");
  list("disks", "/sys/block");
  fsync(report);
  dprintf(report, "shares: %d\n", shares);
  fsync(report);
  close(report);
}

// As if it had set the limits that kiln asks for.
static void obey(const unsigned char *order, uint32_t length) {
  unsigned char answer[1024] = {0};
  uint32_t type = MSG_LIMITED;
  if (length + 4 > sizeof answer) return;
  memcpy(answer + 4, order, length);
  memcpy(answer + 8, &type, sizeof type);
  transmit(FRAME_MESSAGE, 0, answer, length + 4);
}

static void take(uint16_t type, const unsigned char *bytes, uint32_t length) {
  struct port_descriptor descriptor;
  if (type == FRAME_ORDER) obey(bytes, length);
  if (type == FRAME_BEGIN) transmit(FRAME_READY, 0, "", 0);
  if (type == FRAME_DESCRIPTOR) {
    memcpy(&descriptor, bytes, sizeof descriptor);
    if (descriptor.kind != DESCRIPTOR_SHARE || !(descriptor.flags & SHARE_DIRECTORY)) return;
    shares++;
    struct stat st;
    // The bind has this file.
    if (stat(of(descriptor.value, "mine"), &st) == 0) writable = descriptor.value;
    else if (stat(of(descriptor.value, "bin/busybox"), &st) == 0) closed = descriptor.value;
  }
  if (type != FRAME_MESSAGE || writable == 0 || closed == 0) return;
  attack();
  // An answer that the init never gives, then what no guest may send.
  uint32_t lie[] = {0, 4, 102, 0xffffffff};
  transmit(FRAME_MESSAGE, 0, lie, sizeof lie);
  transmit(FRAME_BEGIN, 0, lie, sizeof lie);
  for (;;) pause();
}

int main(void) {
  static unsigned char bytes[PORT_PAYLOAD];
  uint32_t version = PORT_VERSION;
  port = boot();
  transmit(FRAME_HELLO, 0, &version, sizeof version);
  for (;;) {
    struct port_header header;
    receive(&header, sizeof header);
    if (header.length > sizeof bytes) power_off();
    receive(bytes, header.length);
    take(header.type, bytes, header.length);
  }
}
