// SPDX-License-Identifier: Apache-2.0
// Stage 0: pid 1 of a machine. It stands there where libvirt's controller and kiln stand on a host.
#ifndef KILN_STAGE0_H
#define KILN_STAGE0_H

#include <stdint.h>
#include <sys/types.h>

#include "port.h"
#include "wire.h"

#define SKELETON "/skeleton"
#ifndef SOCKETS
#define SOCKETS "/sockets" // the sandbox's /.kiln
#endif
#define DEVICES "/devices" // its /dev, until it has one of its own
#ifndef SHARES
#define SHARES "/shares"
#endif
#define CGROUPS "/sys/fs/cgroup"
#define SANDBOX_GROUP CGROUPS "/sandbox"

void say(const char *what);     // on the machine's console, with errno
_Noreturn void power_off(void);

// boot.c: file systems and modules. Returns the port.
int boot(void);
void load_modules(const char *folder);

// renew.c: the clock and the random numbers are the host's. A machine that was restored has had others.
void renew(const struct port_renew *from);

// sandbox.c
// Starts the init in namespaces of its own. Its pid.
pid_t sandbox_start(const struct port_begin *begin);

// passing.c
// Makes the like of a descriptor of the host's for the message that comes next. -1 (errno).
int passing_make(const struct frame *frame);
// The next bytes of the connection bring what has been made.
void passing_attach(void);
void passing_forget(void);
// The one that was made for an order. -1 (errno) where there is none, or are others.
int passing_made(void);
// Writes to the init; bytes with descriptors bring them.
ssize_t passing_put(struct stream *stream, const void *bytes, size_t length);
// Something was passed through a carrier, or perhaps through any of them; or somebody has connected to a listener.
void passing_take(struct stream *stream);
void carriers_take(void);

int passing_send(const struct frame *frame);

// network.c
int network_give(pid_t pid); // all cards, to the network namespace of a process
int network_up(void);        // in that process
// A socket that listens on the loopback of the network of a process. -1 (errno).
int network_listen(pid_t pid, uint16_t port);
// A stream to what listens there; whether anybody does shows at the first read. -1 (errno).
int network_connect(pid_t pid, uint16_t port);
// An address, or a route, of a card that was given to it. -1 (errno).
int network_set(pid_t pid, const struct wire_card *card);

// group.c
int group_make(pid_t pid);
// What could not be set, or NULL.
const char *group_limit(const struct wire_machine_limits *wanted);
struct wire_machine_limits group_limits(void);
struct wire_machine_usage group_usage(void);

// pack.c
// Packs what patterns match, with all below it, into `fd`, in a process of its own: its exit status is 0, or an errno.
// Its pid, or -1 (errno).
pid_t pack_start(pid_t init, const unsigned char *patterns, size_t length, int fd);
// In such a process: whether a file system is the kernel's own.
int pack_is_kernels(int fd);

// layer.c
// Packs the `upper` in a folder, in a process of its own: a socket that gives the archive, which has its end only if it
// is whole. -1 (errno). Closes `home`.
int layer_pack(int home);

// look.c
// Writes a file's size and bytes into `to`, in a process of its own, as pack_start() does.
pid_t look_read(pid_t init, const struct wire_read_file *wanted, int to);
// Writes of each process of the sandbox, pid 1 aside: the length and bytes of /proc/PID/stat, its user as this kernel
// numbers it, the length and bytes of its command line if it is wanted. All numbers have 32 bits.
pid_t look_processes(pid_t init, int commands, int to);
// Whether one of these mount points, each a text, is full.
int look_full(pid_t init, const unsigned char *paths, size_t length);

// image.c
// Has this kernel mount the file system in a file, for a descriptor of the message `setup`. -1 (errno).
int image_mount(int share, uint32_t place);
// What was mounted for it, or -1.
int image_take(unsigned place);

// orders.c: what kiln asks stage 0 itself.
int order_obey(const struct frame *frame);
extern pid_t orders_init;
// A child has ended.
void order_ended(pid_t pid, int status);
// Tells kiln what the sandbox has used. -1 if too much waits for kiln.
int tell_usage(void);

// answers.c
void answers_begin(void);
// The init's connection is readable: -1 at its end.
int answers_read(void);

#endif
