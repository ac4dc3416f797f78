// SPDX-License-Identifier: Apache-2.0
// What a guest's kernel is to virtiofsd, without a guest: vhost-user's front end with one queue. Requests of FUSE come
// on standard input as { u32 how, u32 length, u32 room, bytes[length] }; each answer goes to standard output as
// { i32 used, bytes[room] }, where `used` is -1 if none came. `how`: 0 as a driver does it, others as none does.
// Sources: virtio 1.3 (split virtqueues), QEMU's docs/interop/vhost-user.rst.
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#define SIZE 64
#define MEMORY (8u << 20)
#define DESCRIPTORS 0x0
#define AVAILABLE 0x1000
#define USED 0x2000
#define OUT 0x10000
#define IN 0x200000
#define BYTES_MAX (1u << 20)
#define ANSWER_MS 60000
#define SHORT_MS 300 // where there may be none

enum { NEXT = 1, WRITE = 2 };
enum how { USUAL, LOOP, OUTSIDE, OVERFLOW, BACKWARDS, NO_HEAD, FAR_AHEAD, NOTHING, UNANSWERED };

struct descriptor {
  uint64_t address;
  uint32_t length;
  uint16_t flags, next;
};

static unsigned char *memory;
static int device, kick, call;
static uint16_t turn;

static void must(int condition) {
  if (!condition) abort();
}

static void tell(uint32_t request, const void *payload, uint32_t size, int fd) {
  uint32_t header[3] = {request, 1, size};
  union {
    struct cmsghdr header;
    char bytes[CMSG_SPACE(sizeof(int))];
  } control = {0};
  struct iovec parts[] = {{header, sizeof header}, {(void *)payload, size}};
  struct msghdr msg = {.msg_iov = parts, .msg_iovlen = 2};
  if (fd >= 0) {
    msg.msg_control = control.bytes;
    msg.msg_controllen = sizeof control.bytes;
    struct cmsghdr *c = CMSG_FIRSTHDR(&msg);
    c->cmsg_level = SOL_SOCKET;
    c->cmsg_type = SCM_RIGHTS;
    c->cmsg_len = CMSG_LEN(sizeof(int));
    memcpy(CMSG_DATA(c), &fd, sizeof fd);
  }
  must(sendmsg(device, &msg, MSG_NOSIGNAL) == (ssize_t)(sizeof header + size));
}

static uint64_t ask(uint32_t request) {
  struct {
    uint32_t request, flags, size;
    uint64_t value;
  } __attribute__((packed)) answer;
  tell(request, NULL, 0, -1);
  must(recv(device, &answer, sizeof answer, MSG_WAITALL) == sizeof answer);
  return answer.value;
}

static void begin(const char *path) {
  struct sockaddr_un address = {.sun_family = AF_UNIX};
  must(strlen(path) < sizeof address.sun_path);
  strcpy(address.sun_path, path);
  device = socket(AF_UNIX, SOCK_STREAM, 0);
  must(connect(device, (struct sockaddr *)&address, sizeof address) == 0);
  int file = memfd_create("memory", 0);
  must(ftruncate(file, MEMORY) == 0);
  memory = mmap(NULL, MEMORY, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
  must(memory != MAP_FAILED && (kick = eventfd(0, 0)) >= 0 && (call = eventfd(0, EFD_NONBLOCK)) >= 0);

  uint64_t at = (uint64_t)(uintptr_t)memory;
  uint64_t features = 1ULL << 32 | 1ULL << 30, further = 1, queue = 1;
  tell(3, NULL, 0, -1); // SET_OWNER
  must((ask(1) & features) == features);
  tell(2, &features, sizeof features, -1);
  further &= ask(15);
  tell(16, &further, sizeof further, -1);
  struct {
    uint32_t count, unused;
    uint64_t address, size, user, offset;
  } table = {1, 0, 0, MEMORY, at, 0};
  tell(5, &table, sizeof table, file);
  uint32_t number[] = {1, SIZE}, base[] = {1, 0}, enable[] = {1, 1};
  struct {
    uint32_t index, flags;
    uint64_t descriptors, used, available, log;
  } ring = {1, 0, at + DESCRIPTORS, at + USED, at + AVAILABLE, 0};
  tell(8, number, sizeof number, -1);
  tell(10, base, sizeof base, -1);
  tell(9, &ring, sizeof ring, -1);
  tell(13, &queue, sizeof queue, call);
  tell(12, &queue, sizeof queue, kick);
  tell(18, enable, sizeof enable, -1);
  ask(1); // who kicks before all that is done is not heard
}

static int32_t offer(enum how how, uint32_t length, uint32_t room) {
  struct descriptor *descriptors = (void *)(memory + DESCRIPTORS);
  volatile uint16_t *available = (void *)(memory + AVAILABLE), *used = (void *)(memory + USED);
  uint16_t done = used[1], head = 0;
  uint64_t one = 1;
  descriptors[0] = (struct descriptor){OUT, length, NEXT, 1};
  descriptors[1] = (struct descriptor){IN, room, WRITE, 0};
  if (how == LOOP) descriptors[1] = (struct descriptor){IN, room, NEXT | WRITE, 0};
  if (how == OUTSIDE) descriptors[0].address = MEMORY + (1ULL << 40);
  if (how == OVERFLOW) descriptors[1].length = 0xffffffff;
  if (how == BACKWARDS) descriptors[0].flags |= WRITE, descriptors[1].flags = 0;
  if (how == NO_HEAD) head = SIZE + 9;
  if (how == NOTHING) descriptors[0].length = descriptors[1].length = 0;
  available[2 + turn % SIZE] = head;
  turn = (uint16_t)(turn + (how == FAR_AHEAD ? 1000 : 1));
  __sync_synchronize();
  available[1] = turn;
  must(write(kick, &one, sizeof one) == sizeof one);
  struct pollfd polled[] = {{.fd = call, .events = POLLIN}, {.fd = device, .events = POLLRDHUP}};
  while (used[1] == done) {
    if (poll(polled, 2, how == USUAL ? ANSWER_MS : SHORT_MS) <= 0 || polled[1].revents != 0) return -1;
    if (read(call, &one, sizeof one) < 0) continue;
  }
  uint32_t bytes;
  memcpy(&bytes, memory + USED + 4 + 8 * (done % SIZE) + 4, sizeof bytes);
  return (int32_t)bytes;
}

int main(int argc, char **argv) {
  uint32_t head[3];
  must(argc == 2);
  begin(argv[1]);
  while (fread(head, sizeof head, 1, stdin) == 1) {
    must(head[1] <= BYTES_MAX && head[2] <= BYTES_MAX && fread(memory + OUT, 1, head[1], stdin) == head[1]);
    memset(memory + IN, 0, head[2]);
    int32_t came = offer((enum how)head[0], head[1], head[2]);
    must(fwrite(&came, sizeof came, 1, stdout) == 1 && fwrite(memory + IN, 1, head[2], stdout) == head[2]);
    fflush(stdout);
  }
  return 0;
}
