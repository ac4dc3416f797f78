// SPDX-License-Identifier: Apache-2.0
#ifndef KILN_CONFINE_H
#define KILN_CONFINE_H

#include <linux/filter.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "wire.h"

// users.c: the image's own /etc/passwd and /etc/group, untrusted text that is read bounded.

#define GROUPS_MAX 64

struct user {
  uid_t uid;
  gid_t gid;
  gid_t groups[GROUPS_MAX];
  int ngroups;
  char name[64];
  char home[256];
};

// `spec` is NAME|UID[:GROUP|GID]. 0, or -1 with errno ENOENT when a name is unknown.
int user_find(const char *spec, struct user *out);

struct confinement {
  uint64_t capabilities;
  struct sock_fprog filter;   // seccomp; no filter when its length is 0
  struct sock_fprog verdicts; // what to answer where the filter asks the init
  uint32_t landlock;
};

struct landlock {
  int abi; // 0 where none was wanted
  uint32_t walls;
};

// Drops all rights; the filter of system calls comes last and elsewhere. 0, or FAIL_… (errno).
uint32_t confine(const struct confinement *wanted, const struct user *user, const char *cwd,
                 struct landlock *found);

// Files of /proc, opened before seccomp closes the way to them. Close-on-exec.
struct rights_files {
  int status, open;
};
struct rights_files rights_open(void);
// Appends the limits in force to `facts`: 0, or -1 when one differs from the request.
int rights_limits(const struct wire_rlimit *limits, unsigned count, char *facts, size_t size);
int rights_is_probe(int number, uint64_t first);
// Appends findings to `facts`: 0, or FAIL_… for the first of `wanted` that is not in force.
uint32_t rights_measure(struct rights_files files, const struct confinement *wanted,
                        const struct user *user, const struct landlock *landlock, char *facts,
                        size_t size);

// Landlock: nothing outside the sandbox's root can be opened, even through a leaked directory (landlock(7)).

int landlock_prepare(void);
// A descriptor of the rules, or -1 (errno) when the kernel does not support all of `flags` (WALL_…).
int landlock_rules(uint32_t flags);
// Needs no_new_privs. `walls` gets the walls that were tested. The ABI, or -1 (errno) where one is missing.
int landlock_enter(int rules, uint32_t flags, uint32_t *walls);

// filter.c: refusals are counted, because the kernel asks the init about each call (seccomp_unotify(2)).

#define REFUSED_MAX 32

// In the command's process: loads a filter. Returns the listener if `asking`, otherwise 0; -1 (errno).
int filter_load(struct sock_fprog *enforced, int asking);
// Whether a filter that asks nobody allows write(2) of this.
int filter_lets_write(const struct sock_fprog *program, int fd, const void *bytes, size_t length);
// In the init: answers the listener `number` of process `pid` by `verdicts`. 0, or -1 (errno).
int filter_take(int pid, int number, const struct sock_fprog *verdicts);
// Readable while a question waits; -1 before the first filter_take.
int filter_fd(void);
void filter_answer(void);
// What the filter taken of process `pid` has refused, and the number of kinds; kept until filter_reported().
uint32_t filter_refused(int pid, const struct wire_refused **out);
void filter_reported(int pid);

// For calls that the init makes in a command's place: before the first command, with the sandbox's /proc. 0, or -1 (errno).
int lend_prepare(void);

#endif
