// SPDX-License-Identifier: Apache-2.0
#ifndef KILN_RELAY_H
#define KILN_RELAY_H

#include <stdint.h>
#include <sys/types.h>

// What the inner process has from the outer one.
struct inner {
  int link;     // to the outer process: it sends the connections of qemu, and its end is theirs
  int files;    // listens for qemu's connection to virtiofsd
  int listener; // for kiln; bound as new.sock in `folder`
  int folder;   // of init.sock
  int console;  // the file for what the guest's kernel says
  const char *work; // a folder to mount on
  const char *virtiofsd;
  uint32_t base, count;
  // The init of a machine that is to be saved waits once it listens; that of a restored one listens already.
  enum { MACHINE_BOOTS, MACHINE_IS_SAVED, MACHINE_IS_RESTORED } machine;
};

_Noreturn void leave_relay(int status);
_Noreturn void die(const char *what); // with errno
// With a byte, which must not be empty room.
int send_descriptor(int socket_fd, char byte, int fd);
// Waits for one: -1 at the end.
int receive_descriptor(int socket_fd, char *byte);
// What the outer process sends: qemu's connections.
enum { LINK_PORT = 'p', LINK_CONSOLE = 'c' };

// inside.c: as root of a new user namespace, pid 1 of a pid namespace, in a mount namespace of its own. Makes a root
// with nothing but shares in it, starts virtiofsd on them, and gives up what it does not need any more.
void inside_enter(const struct inner *inner);
// Readable when virtiofsd has something to say; its words are dropped after some. -1 when it has ended.
extern int inside_words;
int inside_forward(void);

// passing.c
// What a descriptor of kiln's is to the guest; a mount becomes a share, others a stream. -1 (errno).
struct port_descriptor;
int passing_describe(int fd, unsigned place, uint32_t command, uint16_t *stream,
                     struct port_descriptor *out);

// likes.c: what the guest passes, what connects to a listener of the guest's, and datagrams both ways.
struct frame;
struct stream;
int likes_take(const struct frame *frame);
int likes_open(const struct frame *frame);
int likes_send(const struct frame *frame);
void likes_receive(struct stream *stream);

// kiln.c: reads from the connection and passes on. -1 at its end.
int kiln_read(void);
// Whether a message was begun: it may be whole, and there was no room for it.
int kiln_waits(void);
void kiln_forget(void);

// filter.c: for this process, and for what becomes virtiofsd.
void filter_enter(void);
void filter_files(void);
void serve_begin(const struct inner *inner);
// Waits for whatever is next, and serves it.
void serve_turn(int wait_ms);

#endif
