// SPDX-License-Identifier: Apache-2.0
// The wire format between kiln (src/sandbox/protocol/) and the guest init.
//
// A message is { u32 length, u32 type, payload[length] }; a payload is a sequence of fields
// { u32 tag, u32 length, bytes[length] }. Integers are in host order: both ends share a kernel.
// Strings carry their closing NUL. Descriptors travel with the first byte of their message.
#ifndef KILN_PROTOCOL_H
#define KILN_PROTOCOL_H

#include <stddef.h>
#include <stdint.h>

#define MESSAGE_MAX (4u << 20) // more than the kernel takes as argv and environment (2 MiB)
#define FDS_MAX 64u

enum { // host to guest
  MSG_SETUP = 1,
  MSG_EXEC = 2,
  MSG_SIGNAL = 3,
  MSG_WINSIZE = 4,
  MSG_KILL_ALL = 5,
  MSG_KEEP = 6,
  MSG_DIRECTORY = 7,     // makes directories while the box runs; DONE
  MSG_SOCKET = 8,        // sends a new stream socket of the box's network on its descriptor; DONE
  MSG_ADOPT = 9,         // an orphan counts as a command from here on; DONE with its session
  MSG_KILL_SESSION = 10, // signals every process of a session; DONE with how many
  MSG_NOTIFY_SOCKET = 11, // makes the datagram socket of sd_notify(3); DONE
  MSG_DHCP_SOCKET = 12,   // sends a datagram socket of an interface, for DHCP; DONE. Before MSG_SETUP, too
  MSG_ADDRESS = 13,       // gives an interface an address; DONE. Before MSG_SETUP, too
  MSG_PREPARE = 14,       // the first: makes what every box has, with fields of MSG_SETUP; DONE
};

enum { // guest to host
  MSG_READY = 101,
  MSG_STARTED = 102,
  MSG_EXITED = 103,
  MSG_FAILED = 104,
  MSG_QUIET = 105,
  MSG_DONE = 106,
  MSG_NOTIFY = 107, // what a process of the box said on the notify socket
};

enum { // fields of MSG_SETUP, obeyed in the order they come; MSG_PREPARE has labels, masks, read-only
  SETUP_HOSTNAME = 1,
  SETUP_LOWER = 2,         // u32 descriptor: the image, as a detached mount
  SETUP_SCRATCH_TMPFS = 3, // u64 bytes: upper and work on a tmpfs
  SETUP_SCRATCH_FD = 4,    // u32 descriptor: upper and work on a mount of the host's
  SETUP_NETWORK = 5,       // u32: 1 when interfaces beside lo are expected
  SETUP_TMPFS = 6,         // u32 mode, u64 bytes, path
  SETUP_BIND = 7,          // u32 descriptor, u32 access (below), u32 is a directory, path
  SETUP_MASK = 8,          // path
  SETUP_READONLY = 9,      // path
  SETUP_FILE = 10,         // u32 mode, path, NUL, content
  SETUP_DIRECTORY = 11,    // u32 mode, u32 uid, u32 gid, path
  SETUP_NAMESPACES = 12,   // u32: how many namespaces of each kind the box may make
  SETUP_LABEL = 14,        // u32 model of label.h, labels of init, commands and files
  SETUP_WAIT = 15,         // u32, of MSG_PREPARE: seconds for which the box waits for another runner than this one
  SETUP_OWNED_FILE = 13,   // u32 mode, u32 uid, u32 gid, path, NUL, content
  SETUP_ETC_FILE = 16,     // name, NUL, content: a file of /etc that the image seems to have
};

enum { // who can write to a bind, and where that lands
  BIND_HOST = 0,     // the sandbox, to a folder of the host's
  BIND_READONLY = 1, // nobody
  BIND_OWN = 2,      // the sandbox, to a folder where only the host's root comes
};

enum { // fields of MSG_EXEC; SIGNAL, WINSIZE use EXEC_ID and their own
  EXEC_ID = 1,
  EXEC_ARGV = 2,
  EXEC_ENV = 3,
  EXEC_CWD = 4,
  EXEC_USER = 5,    // NAME|UID[:GROUP|GID]
  EXEC_CAPS = 6,    // u64: bounding set; also permitted and effective of container root
  EXEC_SECCOMP = 7, // struct sock_filter[]
  EXEC_RLIMIT = 8,  // u32 resource, u64 soft, u64 hard
  EXEC_TTY = 9,     // u16 rows, u16 columns
  EXEC_UMASK = 10,  // u32
  EXEC_SIGNO = 11,  // u32
  EXEC_TTL = 12,    // u32 seconds, of MSG_KEEP
  EXEC_DIRECTORY = 13, // as SETUP_DIRECTORY
  EXEC_FAMILY = 14,    // u32: AF_INET or AF_INET6
  EXEC_PID = 15,       // u32: a process, or the session it leads
  EXEC_PATH = 16,      // string
  EXEC_LANDLOCK = 17,  // u32: bits of landlock.h
  EXEC_VERDICTS = 18,  // struct sock_filter[]: what to answer where EXEC_SECCOMP asks the init
  EXEC_BOOT = 19,      // u32 read-only (else masked), path of /proc: the command is a system's pid 1
  EXEC_ADDRESS = 20,   // u32 address, mask, gateway or 0, each as network.h has it
  EXEC_GATE = 21,      // u32: 1 when the last descriptor is a pipe, of which the exec waits for a byte
};

enum { // fields of guest messages
  OUT_ID = 1,
  OUT_PID = 2,
  OUT_STATUS = 3,  // u32: as wait(2) gives it
  OUT_ERRNO = 4,   // u32
  OUT_WHAT = 5,    // string
  OUT_FACTS = 6,   // lines NAME=VALUE, measured inside the box
  OUT_UTIME = 7,   // u64 microseconds
  OUT_STIME = 8,   // u64 microseconds
  OUT_MAXRSS = 9,  // u64 bytes
  OUT_REFUSED = 10, // struct refused[] of filter.h
};

struct field {
  uint32_t tag;
  uint32_t length;
  const unsigned char *data;
};

struct message {
  uint32_t type;
  uint32_t length;
  unsigned char *payload;
  int fds[FDS_MAX];
  unsigned nfds;
  int refused; // there were more descriptors, and the kernel did not let us have them
};

// Reads one whole message into a static buffer, in which it stays until the next but one. 1 = message,
// 0 = end of file, -1 = error (errno).
int message_receive(int fd, struct message *out);
void message_close_fds(struct message *message);
// Walks the fields: returns 1 and fills `out` while there are more, 0 at the end, -1 if malformed.
int field_next(const struct message *message, size_t *offset, struct field *out);
int field_u32(const struct field *field, size_t at, uint32_t *out);
int field_u64(const struct field *field, size_t at, uint64_t *out);
// The NUL-terminated string that starts at `at`; NULL when it is not terminated within the field.
const char *field_string(const struct field *field, size_t at);

// An answer is built in a static buffer: begin, add fields, send.
void answer_begin(uint32_t type);
void answer_u32(uint32_t tag, uint32_t value);
void answer_u64(uint32_t tag, uint64_t value);
void answer_bytes(uint32_t tag, const void *data, size_t length);
void answer_send(int fd);
void answer_failed(int fd, uint32_t id, int error, const char *what, const char *detail);

#endif
