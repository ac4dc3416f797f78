// A file of a user's file system (FUSE) that nobody ever answers for: `give SOCKET` hands it to whoever connects,
// `take SOCKET` connects and reads it. The kernel cannot end such a reader before the file system ends.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/fuse.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

static void need(int ok, const char *what) {
  if (ok) return;
  perror(what);
  exit(1);
}

static void answer(int device, uint64_t id, int error, const void *body, size_t length) {
  char bytes[512];
  struct fuse_out_header head = {.len = sizeof head + length, .error = error, .unique = id};
  memcpy(bytes, &head, sizeof head);
  memcpy(bytes + sizeof head, body, length);
  need(write(device, bytes, head.len) == head.len, "answer");
}

// Everything but what is read from the file.
static void serve(int device) {
  static char bytes[1 << 18];
  for (;;) {
    ssize_t length = read(device, bytes, sizeof bytes);
    if (length < 0 && errno == ENODEV) exit(0);
    need(length >= (ssize_t)sizeof(struct fuse_in_header), "request");
    const struct fuse_in_header *in = (void *)bytes;
    struct fuse_attr file = {.ino = 2, .size = 4096, .mode = S_IFREG | 0444, .nlink = 1};
    if (in->opcode == FUSE_INIT) {
      const struct fuse_init_in *asked = (void *)(in + 1);
      struct fuse_init_out out = {.major = 7, .minor = 31, .max_readahead = asked->max_readahead, .max_write = 4096};
      answer(device, in->unique, 0, &out, sizeof out);
    } else if (in->opcode == FUSE_LOOKUP) {
      struct fuse_entry_out out = {.nodeid = 2, .attr = file};
      answer(device, in->unique, 0, &out, sizeof out);
    } else if (in->opcode == FUSE_GETATTR) {
      struct fuse_attr_out out = {.attr = file};
      if (in->nodeid == 1) out.attr = (struct fuse_attr){.ino = 1, .mode = S_IFDIR | 0755, .nlink = 2};
      answer(device, in->unique, 0, &out, sizeof out);
    } else if (in->opcode == FUSE_OPEN) {
      struct fuse_open_out out = {.fh = 1, .open_flags = FOPEN_DIRECT_IO};
      answer(device, in->unique, 0, &out, sizeof out);
    } else if (in->opcode != FUSE_READ && in->opcode != FUSE_INTERRUPT && in->opcode != FUSE_FORGET) {
      answer(device, in->unique, -ENOSYS, NULL, 0);
    }
  }
}

static struct sockaddr_un called(const char *path) {
  struct sockaddr_un name = {.sun_family = AF_UNIX};
  strncpy(name.sun_path, path, sizeof name.sun_path - 1);
  return name;
}

static void give(const char *path) {
  struct sockaddr_un name = called(path);
  int listener = socket(AF_UNIX, SOCK_STREAM, 0);
  need(bind(listener, (void *)&name, sizeof name) == 0 && listen(listener, 8) == 0, path);
  chmod(path, 0777);
  need(unshare(CLONE_NEWNS) == 0 && mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) == 0, "unshare");
  int device = open("/dev/fuse", O_RDWR);
  need(device >= 0, "/dev/fuse");
  char options[64];
  snprintf(options, sizeof options, "fd=%d,rootmode=40755,user_id=0,group_id=0", device);
  need(mount("stuck", "/mnt", "fuse", 0, options) == 0, "mount");
  pid_t server = fork();
  if (server == 0) serve(device);
  close(device);
  int file = open("/mnt/file", O_RDONLY);
  need(file >= 0, "/mnt/file");
  puts("ready");
  fflush(stdout);
  for (;;) {
    int client = accept(listener, NULL, NULL);
    need(client >= 0, "accept");
    char byte = 0, control[CMSG_SPACE(sizeof file)] = {0};
    struct iovec part = {&byte, 1};
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
    struct cmsghdr *passed = CMSG_FIRSTHDR(&message);
    passed->cmsg_level = SOL_SOCKET;
    passed->cmsg_type = SCM_RIGHTS;
    passed->cmsg_len = CMSG_LEN(sizeof file);
    memcpy(CMSG_DATA(passed), &file, sizeof file);
    need(sendmsg(client, &message, 0) == 1, "send");
    close(client);
  }
}

static void take(const char *path) {
  struct sockaddr_un name = called(path);
  int fd = socket(AF_UNIX, SOCK_STREAM, 0);
  need(connect(fd, (void *)&name, sizeof name) == 0, path);
  char byte, control[CMSG_SPACE(sizeof fd)];
  struct iovec part = {&byte, 1};
  struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
  need(recvmsg(fd, &message, 0) == 1 && message.msg_controllen > 0, "receive");
  int file;
  memcpy(&file, CMSG_DATA(CMSG_FIRSTHDR(&message)), sizeof file);
  puts("reading");
  fflush(stdout);
  static char bytes[4096] __attribute__((aligned(4096)));
  need(read(file, bytes, sizeof bytes) >= 0, "read");
}

int main(int argc, char **argv) {
  need(argc == 3, "give SOCKET or take SOCKET");
  if (strcmp(argv[1], "give") == 0) give(argv[2]);
  else take(argv[2]);
}
