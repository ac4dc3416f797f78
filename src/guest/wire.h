// SPDX-License-Identifier: Apache-2.0
// Written by scripts/write-wire.ts from src/sandbox/wire/table.ts, which says what each is. Do not edit.
#ifndef KILN_WIRE_H
#define KILN_WIRE_H

#include <stddef.h>
#include <stdint.h>

// Bytes of the longest messages to and from the init; most descriptors of one.
#define REQUEST_MAX 4194304u
#define ANSWER_MAX 65536u
#define FDS_MAX 64u
#define FAILURE_TEXT_MAX 4095u

// Messages.
enum {
  MSG_PREPARE = 14,
  MSG_SETUP = 1,
  MSG_EXEC = 2,
  MSG_SIGNAL = 3,
  MSG_WINSIZE = 4,
  MSG_KILL_ALL = 5,
  MSG_KEEP = 6,
  MSG_DIRECTORY = 7,
  MSG_SOCKET = 8,
  MSG_ADOPT = 9,
  MSG_KILL_SESSION = 10,
  MSG_NOTIFY_SOCKET = 11,
  MSG_DHCP_SOCKET = 12,
  MSG_ADDRESS = 13,
  MSG_READY = 101,
  MSG_STARTED = 102,
  MSG_EXITED = 103,
  MSG_FAILED = 104,
  MSG_QUIET = 105,
  MSG_DONE = 106,
  MSG_NOTIFY = 107,
};

// Fields.
enum {
  FIELD_HOSTNAME = 1,
  FIELD_LOWER = 2,
  FIELD_SCRATCH_TMPFS = 3,
  FIELD_SCRATCH = 4,
  FIELD_NETWORK = 5,
  FIELD_TMPFS = 6,
  FIELD_BIND = 7,
  FIELD_MASK = 8,
  FIELD_READONLY = 9,
  FIELD_FILE = 10,
  FIELD_DIRECTORY = 11,
  FIELD_NAMESPACES = 12,
  FIELD_LABEL = 14,
  FIELD_WAIT = 15,
  FIELD_ETC_FILE = 16,
  FIELD_ID = 20,
  FIELD_ARGUMENT = 21,
  FIELD_VARIABLE = 22,
  FIELD_WORKDIR = 23,
  FIELD_USER = 24,
  FIELD_CAPABILITIES = 25,
  FIELD_SECCOMP = 26,
  FIELD_VERDICTS = 27,
  FIELD_RLIMIT = 28,
  FIELD_TERMINAL = 29,
  FIELD_UMASK = 30,
  FIELD_LANDLOCK = 31,
  FIELD_BOOT = 32,
  FIELD_SIGNAL = 40,
  FIELD_TTL = 41,
  FIELD_FAMILY = 42,
  FIELD_PROCESS = 43,
  FIELD_SOCKET = 44,
  FIELD_INTERFACE = 45,
  FIELD_ADDRESS = 46,
  FIELD_FAILURE = 60,
  FIELD_FACTS = 61,
  FIELD_STATUS = 62,
  FIELD_USAGE = 63,
  FIELD_REFUSED = 64,
  FIELD_VALUE = 65,
  FIELD_SAID = 66,
};

enum {
  BIND_HOST = 0,
  BIND_READONLY = 1,
  BIND_OWN = 2,
};

enum {
  LABEL_SELINUX = 1,
  LABEL_APPARMOR = 2,
};

enum {
  WALL_FILES = 1,
  WALL_NO_TCP = 2,
  WALL_ABSTRACT_SOCKETS = 4,
  WALL_OPEN_SOCKETS = 8,
};

enum {
  RULE_MASK = 0,
  RULE_READONLY = 1,
};

enum {
  FAMILY_IPV4 = 2,
  FAMILY_IPV6 = 10,
};

// Failures, and what the init could not do.
enum {
  FAIL_SESSION_KEYRING = 1, // join a new session keyring
  FAIL_CGROUP_NAMESPACE = 2, // unshare the cgroup namespace
  FAIL_TIME_NAMESPACE = 3, // unshare the time namespace
  FAIL_PID_NAMESPACE = 4, // unshare the pid namespace
  FAIL_INIT_LABEL = 5, // take on the init’s label
  FAIL_OTHER_LABELS = 6, // know the labels it was prepared with
  FAIL_FORK = 7, // fork
  FAIL_KEPT_BACK = 8, // receive descriptor {number}
  FAIL_PRIVATE_MOUNTS = 9, // make mounts private
  FAIL_FRESH_PROC = 10, // make a fresh /proc
  FAIL_MOUNT = 11, // mount {text}
  FAIL_ATTACH_DEVICE = 12, // attach device {text}
  FAIL_DEVICE_LINKS = 13, // make links in /dev
  FAIL_PREPARE_RULES = 14, // close {text} before there is an image
  FAIL_HOSTNAME = 15, // set host name {text}
  FAIL_IMAGE = 16, // attach image
  FAIL_SCRATCH = 17, // mount scratch space
  FAIL_STAT_IMAGE = 18, // stat image
  FAIL_UPPER = 19, // make upper directory
  FAIL_NAMES = 20, // make a layer of names
  FAIL_OVERLAY = 21, // mount overlay
  FAIL_PIVOT = 22, // pivot into the image
  FAIL_TMPFS = 23, // mount tmpfs on {text}
  FAIL_BIND = 24, // bind {text}
  FAIL_MASK = 25, // mask {text}
  FAIL_READONLY = 26, // make read-only {text}
  FAIL_WRITE = 27, // write {text}
  FAIL_DIRECTORY = 28, // make directory {text}
  FAIL_NAMESPACE_LIMIT = 29, // limit {text}
  FAIL_MEASURE_FILES = 30, // get something to measure Landlock against
  FAIL_OPEN_USERS = 40, // container root is the host’s root
  FAIL_OPEN_NETWORK = 41, // an interface that was not asked for is in the sandbox
  FAIL_OPEN_PIDS = 42, // the init is not pid 1 of a nested one, and alone there
  FAIL_OPEN_CGROUPS = 43, // the place in the host’s cgroups shows
  FAIL_OPEN_MOUNTS = 44, // one is the host’s (cgroup, sysfs, devices), or takes setuid or devices
  FAIL_OPEN_DEVICES = 45, // one that is not on the list is in /dev
  FAIL_UNMASKED = 46, // {text} shows what it should hide
  FAIL_WRITABLE = 47, // {text} can be written to
  FAIL_WRITABLE_BIND = 48, // {text} can be written to
  FAIL_MORE_NAMESPACES = 49, // the sandbox could make more namespaces
  FAIL_TOO_MANY_COMMANDS = 60, // start another command: too many are running
  FAIL_USER = 62, // find user {text}
  FAIL_TERMINAL = 63, // open a terminal
  FAIL_STDIO = 64, // hand over stdio
  FAIL_SETSID = 66, // setsid
  FAIL_TAKE_TERMINAL = 67, // take the terminal
  FAIL_DUP2 = 68, // dup2
  FAIL_OOM_SCORE = 69, // oom_score_adj
  FAIL_SETRLIMIT = 70, // setrlimit
  FAIL_DESCRIPTORS = 71, // close descriptors
  FAIL_PRIVILEGES = 72, // drop privileges
  FAIL_CHDIR = 73, // chdir {text}
  FAIL_COMMAND_LABEL = 74, // take on the label
  FAIL_NO_NEW_PRIVILEGES = 75, // no_new_privs
  FAIL_SECCOMP = 76, // seccomp
  FAIL_SECCOMP_LISTENER = 77, // seccomp listener
  FAIL_REPORT = 78, // report
  FAIL_EXEC = 80, // exec
  FAIL_START = 81, // start
  FAIL_LANDLOCK = 82, // not in force ({errno})
  FAIL_SYSTEM_PROC = 83, // mount a /proc for the system
  FAIL_SYSTEM_RULES = 84, // close /proc for the system
  FAIL_SYSTEM_CGROUPS = 85, // mount cgroups for the system
  FAIL_SYSTEM_CONSOLE = 86, // make a console for the system
  FAIL_OPEN_SYSTEM_PROC = 87, // the system’s /proc shows what it should hide
  FAIL_OPEN_SYSTEM_CGROUPS = 88, // the cgroup tree is the host’s
  FAIL_HAS_LIMITS = 100, // not in force on the command
  FAIL_HAS_PRIVILEGES = 101, // not in force on the command
  FAIL_HAS_SECCOMP = 102, // not in force on the command
  FAIL_HAS_USER = 103, // not in force on the command
  FAIL_HAS_CAPABILITIES = 104, // not in force on the command
  FAIL_HAS_SET_ID = 105, // not in force on the command
  FAIL_HAS_SOCKETS = 106, // not in force on the command
  FAIL_HAS_DESCRIPTORS = 107, // not in force on the command
  FAIL_HAS_SELINUX = 108, // not in force on the command
  FAIL_HAS_APPARMOR = 109, // not in force on the command
  FAIL_HAS_NO_STATUS = 110, // not in force on the command
  FAIL_MAKE_DIRECTORIES = 120, // make directories
  FAIL_SOCKET = 121, // make a socket
  FAIL_ADOPT = 122, // watch a process
  FAIL_KILL_SESSION = 123, // signal a session
  FAIL_NOTIFY_SOCKET = 124, // make the notify socket
  FAIL_DHCP_SOCKET = 125, // make a socket for DHCP
  FAIL_ADDRESS = 126, // set an address
};

struct field {
  uint32_t tag, length;
  const unsigned char *data;
};

struct writer;

struct wire_tmpfs {
  uint32_t mode;
  uint64_t bytes;
  const char *path;
};

struct wire_bind {
  uint32_t fd;
  uint32_t access;
  uint32_t directory;
  const char *path;
};

struct wire_file {
  uint32_t mode;
  uint32_t uid;
  uint32_t gid;
  const char *path;
  const unsigned char *content;
  size_t content_length;
};

struct wire_directory {
  uint32_t mode;
  uint32_t uid;
  uint32_t gid;
  const char *path;
};

struct wire_label {
  uint32_t module;
  const char *init;
  const char *command;
  const char *files;
};

struct wire_etc_file {
  const char *name;
  const unsigned char *content;
  size_t content_length;
};

struct wire_seccomp {
  const unsigned char *filter;
  size_t filter_length;
};

struct wire_verdicts {
  const unsigned char *filter;
  size_t filter_length;
};

struct wire_rlimit {
  uint32_t resource;
  uint64_t soft;
  uint64_t hard;
};

struct wire_terminal {
  uint16_t rows;
  uint16_t columns;
};

struct wire_boot {
  uint32_t rule;
  const char *path;
};

struct wire_address {
  uint32_t address;
  uint32_t mask;
  uint32_t gateway;
};

struct wire_failure {
  uint32_t failure;
  uint32_t error;
  uint32_t number;
  const char *text;
};

struct wire_usage {
  uint64_t user_microseconds;
  uint64_t system_microseconds;
  uint64_t peak_rss_bytes;
};

struct wire_refused {
  uint32_t architecture;
  int32_t number;
  uint32_t action;
  uint32_t count;
};

struct wire_said {
  const unsigned char *said;
  size_t said_length;
};

// Reads a field of a message that has been checked.
uint32_t wire_get_u32(const struct field *field);
uint64_t wire_get_u64(const struct field *field);
const char *wire_get_text(const struct field *field);
#define wire_get_hostname wire_get_text
#define wire_get_lower wire_get_u32
#define wire_get_scratch_tmpfs wire_get_u64
#define wire_get_scratch wire_get_u32
struct wire_tmpfs wire_get_tmpfs(const struct field *field);
struct wire_bind wire_get_bind(const struct field *field);
#define wire_get_mask wire_get_text
#define wire_get_readonly wire_get_text
struct wire_file wire_get_file(const struct field *field);
struct wire_directory wire_get_directory(const struct field *field);
#define wire_get_namespaces wire_get_u32
struct wire_label wire_get_label(const struct field *field);
#define wire_get_wait wire_get_u32
struct wire_etc_file wire_get_etc_file(const struct field *field);
#define wire_get_id wire_get_u32
#define wire_get_argument wire_get_text
#define wire_get_variable wire_get_text
#define wire_get_workdir wire_get_text
#define wire_get_user wire_get_text
#define wire_get_capabilities wire_get_u64
struct wire_seccomp wire_get_seccomp(const struct field *field);
struct wire_verdicts wire_get_verdicts(const struct field *field);
struct wire_rlimit wire_get_rlimit(const struct field *field);
struct wire_terminal wire_get_terminal(const struct field *field);
#define wire_get_umask wire_get_u32
#define wire_get_landlock wire_get_u32
struct wire_boot wire_get_boot(const struct field *field);
#define wire_get_signal wire_get_u32
#define wire_get_ttl wire_get_u32
#define wire_get_family wire_get_u32
#define wire_get_process wire_get_u32
#define wire_get_socket wire_get_text
#define wire_get_interface wire_get_text
struct wire_address wire_get_address(const struct field *field);

// Adds a field to an answer.
void wire_put_u32(struct writer *out, uint32_t tag, uint32_t v);
void wire_put_text(struct writer *out, uint32_t tag, const char *v);
#define wire_put_id(out, v) wire_put_u32(out, FIELD_ID, v)
#define wire_put_process(out, v) wire_put_u32(out, FIELD_PROCESS, v)
void wire_put_failure(struct writer *out, struct wire_failure v);
#define wire_put_facts(out, v) wire_put_text(out, FIELD_FACTS, v)
#define wire_put_status(out, v) wire_put_u32(out, FIELD_STATUS, v)
void wire_put_usage(struct writer *out, struct wire_usage v);
void wire_put_refused(struct writer *out, struct wire_refused v);
#define wire_put_value(out, v) wire_put_u32(out, FIELD_VALUE, v)
void wire_put_said(struct writer *out, struct wire_said v);

#endif
