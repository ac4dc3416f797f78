#ifndef KILN_CLIENT_H
#define KILN_CLIENT_H

#include <poll.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/ioctl.h>
#include <sys/types.h>

#include "frames.h"

/* connection.c: frames to and from the daemon, with descriptors. */

/* One frame that has arrived. The payload lives until the next call of connection_next(). */
struct frame {
  uint8_t type;
  const uint8_t *payload;
  uint32_t length;
  int fds[FRAME_DESCRIPTORS];
  uint8_t fd_count;
};

struct connection {
  int socket;
  uint8_t *data;
  size_t used, size;
  size_t given;
  int fds[2 * FRAME_DESCRIPTORS];
  size_t fd_count;
};

/* Reads the text that answers the upgrade, up to its NUL. The text, or NULL when the connection ended. */
const char *connection_answer(struct connection *connection);

/* Reads what has come. 1: more may have come. 0: nothing for now. -1: the connection has ended or is broken. */
int connection_receive(struct connection *connection);

bool connection_next(struct connection *connection, struct frame *frame, bool *broken);

bool connection_send(struct connection *connection, uint8_t type, const void *payload, uint32_t length,
                     const int *fds, uint8_t fd_count);

/* Sends bytes as they are, with descriptors at the first one. False: the connection is gone. */
bool connection_send_raw(struct connection *connection, const void *bytes, size_t length, const int *fds,
                         uint8_t fd_count);

/* A number of a payload or a header, little-endian. */
uint32_t read_u32(const uint8_t *at);
void write_u32(uint8_t *at, uint32_t value);

/* Closes a descriptor and keeps errno. */
void close_quietly(int fd);

/* daemon.c: finding the daemon, and starting it. */

const char *package_folder(void);

/* A socket that is connected to the daemon, or -1 with errno: ENOENT and ECONNREFUSED where none listens. */
int daemon_connect(void);

const char *daemon_place(void);

bool is_mock(const char *name);

/*
 * Whether the daemon is to be asked: not by a developer who wants the sources as they are; not for what tells
 * about kiln and this machine, which is to work where no daemon does; not for a supervisor of a service, which
 * outlives it; not for what another machine is to do; not for what reads RPM files, which needs nothing that
 * others have; and not by root to look at a state that is not there or is read-only: a daemon would make one.
 */
bool is_for_daemon(int argc, char **argv);

/* Starts the daemon and waits until it listens. Only for root. On failure ends the process with a message. */
void daemon_start(void);

_Noreturn void fail(const char *code, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* kiln.c: the terminal, signals, and bytes that become a message. */

struct text {
  uint8_t *data;
  size_t length, size;
};

void append(struct text *text, const void *bytes, size_t length);
void append_u32(struct text *text, uint32_t value);
/* Their number, and each with a NUL behind it. */
void append_words(struct text *text, char *const *words);

/* Without rows where there is no terminal. */
struct winsize window_size(void);
void make_terminal_raw(void);
void restore_terminal(void);

/* Signals come by this descriptor; those that the caller ignores (nohup) stay ignored. */
int catch_signals(void);

/* lane.c: a lane moves bytes from one descriptor to another, of the sandbox and of the caller. */

struct lane {
  int from, to;
  bool open;
  /* The sandbox's end is `from`: closing the lane closes it. Otherwise `to` is. */
  bool from_sandbox;
  bool wants_input;
  /* No more than `rest` bytes are moved from now on. */
  bool ends;
  size_t rest;
  /* Used once splice(2) has refused: it cannot do terminals and files that are appended to. */
  uint8_t *buffer;
  size_t begin, end;
  /* `to` is a file: a write to it never waits for a reader. */
  bool to_file;
  int error;
};

void lane_open(struct lane *lane, int from, int to, bool from_sandbox);

void lane_wait(const struct lane *lane, struct pollfd *entry);

/* Moves what can be moved without waiting: the bytes. Closes a lane whose reader is gone: the writer notices. */
size_t lane_go(struct lane *lane, const struct pollfd *entry);

/* What is there now is the last that is moved: others than the command may still write. */
void lane_end(struct lane *lane);

void lane_close(struct lane *lane);

bool is_file(int fd);

/* Writes without waiting: EAGAIN where that would be needed. `plain`: it is a file, or does not wait by itself. */
ssize_t write_now(int fd, const uint8_t *bytes, size_t length, bool plain);

#endif
