// SPDX-License-Identifier: Apache-2.0
// Written by scripts/write-wire.ts from src/sandbox/wire/table.ts, which says what each is. Do not edit.
#include <string.h>

#include "protocol.h"

static void take(const unsigned char **at, void *to, size_t length) {
  memcpy(to, *at, length);
  *at += length;
}

static const char *take_text(const unsigned char **at) {
  const char *text = (const char *)*at;
  *at += strlen(text) + 1;
  return text;
}

uint32_t wire_get_u32(const struct field *field) {
  uint32_t v;
  memcpy(&v, field->data, sizeof v);
  return v;
}

uint64_t wire_get_u64(const struct field *field) {
  uint64_t v;
  memcpy(&v, field->data, sizeof v);
  return v;
}

const char *wire_get_text(const struct field *field) { return (const char *)field->data; }

struct wire_tmpfs wire_get_tmpfs(const struct field *field) {
  struct wire_tmpfs v;
  const unsigned char *at = field->data;
  take(&at, &v.mode, 4);
  take(&at, &v.bytes, 8);
  v.path = take_text(&at);
  return v;
}

struct wire_bind wire_get_bind(const struct field *field) {
  struct wire_bind v;
  const unsigned char *at = field->data;
  take(&at, &v.fd, 4);
  take(&at, &v.access, 4);
  take(&at, &v.directory, 4);
  v.path = take_text(&at);
  return v;
}

struct wire_file wire_get_file(const struct field *field) {
  struct wire_file v;
  const unsigned char *at = field->data;
  take(&at, &v.mode, 4);
  take(&at, &v.uid, 4);
  take(&at, &v.gid, 4);
  v.path = take_text(&at);
  v.content = at;
  v.content_length = field->length - (size_t)(at - field->data);
  return v;
}

struct wire_directory wire_get_directory(const struct field *field) {
  struct wire_directory v;
  const unsigned char *at = field->data;
  take(&at, &v.mode, 4);
  take(&at, &v.uid, 4);
  take(&at, &v.gid, 4);
  v.path = take_text(&at);
  return v;
}

struct wire_label wire_get_label(const struct field *field) {
  struct wire_label v;
  const unsigned char *at = field->data;
  take(&at, &v.module, 4);
  v.init = take_text(&at);
  v.command = take_text(&at);
  v.files = take_text(&at);
  return v;
}

struct wire_etc_file wire_get_etc_file(const struct field *field) {
  struct wire_etc_file v;
  const unsigned char *at = field->data;
  v.name = take_text(&at);
  v.content = at;
  v.content_length = field->length - (size_t)(at - field->data);
  return v;
}

struct wire_seccomp wire_get_seccomp(const struct field *field) {
  struct wire_seccomp v;
  const unsigned char *at = field->data;
  v.filter = at;
  v.filter_length = field->length - (size_t)(at - field->data);
  return v;
}

struct wire_verdicts wire_get_verdicts(const struct field *field) {
  struct wire_verdicts v;
  const unsigned char *at = field->data;
  v.filter = at;
  v.filter_length = field->length - (size_t)(at - field->data);
  return v;
}

struct wire_rlimit wire_get_rlimit(const struct field *field) {
  struct wire_rlimit v;
  const unsigned char *at = field->data;
  take(&at, &v.resource, 4);
  take(&at, &v.soft, 8);
  take(&at, &v.hard, 8);
  return v;
}

struct wire_terminal wire_get_terminal(const struct field *field) {
  struct wire_terminal v;
  const unsigned char *at = field->data;
  take(&at, &v.rows, 2);
  take(&at, &v.columns, 2);
  return v;
}

struct wire_boot wire_get_boot(const struct field *field) {
  struct wire_boot v;
  const unsigned char *at = field->data;
  take(&at, &v.rule, 4);
  v.path = take_text(&at);
  return v;
}

struct wire_address wire_get_address(const struct field *field) {
  struct wire_address v;
  const unsigned char *at = field->data;
  take(&at, &v.address, 4);
  take(&at, &v.mask, 4);
  take(&at, &v.gateway, 4);
  return v;
}

void wire_put_u32(struct writer *out, uint32_t tag, uint32_t v) {
  size_t start = writer_field(out, tag);
  writer_add(out, &v, sizeof v);
  writer_end(out, start);
}

void wire_put_text(struct writer *out, uint32_t tag, const char *v) {
  size_t start = writer_field(out, tag);
  writer_add(out, v, strlen(v) + 1);
  writer_end(out, start);
}

void wire_put_failure(struct writer *out, struct wire_failure v) {
  size_t start = writer_field(out, FIELD_FAILURE);
  writer_add(out, &v.failure, 4);
  writer_add(out, &v.error, 4);
  writer_add(out, &v.number, 4);
  writer_add(out, v.text, strlen(v.text) + 1);
  writer_end(out, start);
}

void wire_put_usage(struct writer *out, struct wire_usage v) {
  size_t start = writer_field(out, FIELD_USAGE);
  writer_add(out, &v.user_microseconds, 8);
  writer_add(out, &v.system_microseconds, 8);
  writer_add(out, &v.peak_rss_bytes, 8);
  writer_end(out, start);
}

void wire_put_refused(struct writer *out, struct wire_refused v) {
  size_t start = writer_field(out, FIELD_REFUSED);
  writer_add(out, &v.architecture, 4);
  writer_add(out, &v.number, 4);
  writer_add(out, &v.action, 4);
  writer_add(out, &v.count, 4);
  writer_end(out, start);
}

void wire_put_said(struct writer *out, struct wire_said v) {
  size_t start = writer_field(out, FIELD_SAID);
  writer_add(out, v.said, v.said_length);
  writer_end(out, start);
}

static const struct part_spec parts_hostname[] = {
  {PART_TEXT, 1, 64u},
};
static const struct part_spec parts_lower[] = {
  {PART_DESCRIPTOR, 1, 0},
};
static const struct part_spec parts_scratch_tmpfs[] = {
  {PART_U64, 1, 0},
};
static const struct part_spec parts_scratch[] = {
  {PART_DESCRIPTOR, 1, 0},
};
static const struct part_spec parts_tmpfs[] = {
  {PART_U32, 1, 4095u},
  {PART_U64, 1, 0},
  {PART_PATH, 1, 4095u},
};
static const struct part_spec parts_bind[] = {
  {PART_DESCRIPTOR, 1, 0},
  {PART_CHOICE, 1, 0x7},
  {PART_CHOICE, 1, 0x3},
  {PART_PATH, 1, 4095u},
};
static const struct part_spec parts_mask[] = {
  {PART_PATH, 1, 4095u},
};
static const struct part_spec parts_readonly[] = {
  {PART_PATH, 1, 4095u},
};
static const struct part_spec parts_file[] = {
  {PART_U32, 1, 4095u},
  {PART_U32, 1, 4294967295u},
  {PART_U32, 1, 4294967295u},
  {PART_PATH, 1, 4095u},
  {PART_BYTES, 1, 4194304u},
};
static const struct part_spec parts_directory[] = {
  {PART_U32, 1, 4095u},
  {PART_U32, 1, 4294967295u},
  {PART_U32, 1, 4294967295u},
  {PART_PATH, 1, 4095u},
};
static const struct part_spec parts_namespaces[] = {
  {PART_U32, 1, 4294967295u},
};
static const struct part_spec parts_label[] = {
  {PART_CHOICE, 1, 0x6},
  {PART_TEXT, 1, 1023u},
  {PART_TEXT, 1, 1023u},
  {PART_TEXT, 1, 1023u},
};
static const struct part_spec parts_wait[] = {
  {PART_U32, 1, 4294967295u},
};
static const struct part_spec parts_etc_file[] = {
  {PART_NAME, 1, 255u},
  {PART_BYTES, 1, 4194304u},
};
static const struct part_spec parts_id[] = {
  {PART_U32, 1, 4294967295u},
};
static const struct part_spec parts_argument[] = {
  {PART_TEXT, 1, 4194304u},
};
static const struct part_spec parts_variable[] = {
  {PART_TEXT, 1, 4194304u},
};
static const struct part_spec parts_workdir[] = {
  {PART_TEXT, 1, 4194304u},
};
static const struct part_spec parts_user[] = {
  {PART_TEXT, 1, 4194304u},
};
static const struct part_spec parts_capabilities[] = {
  {PART_U64, 1, 0},
};
static const struct part_spec parts_seccomp[] = {
  {PART_BYTES, 8, 32768u},
};
static const struct part_spec parts_verdicts[] = {
  {PART_BYTES, 8, 32768u},
};
static const struct part_spec parts_rlimit[] = {
  {PART_U32, 1, 15u},
  {PART_U64, 1, 0},
  {PART_U64, 1, 0},
};
static const struct part_spec parts_terminal[] = {
  {PART_U16, 1, 65535u},
  {PART_U16, 1, 65535u},
};
static const struct part_spec parts_umask[] = {
  {PART_U32, 1, 511u},
};
static const struct part_spec parts_landlock[] = {
  {PART_SET, 1, 15},
};
static const struct part_spec parts_boot[] = {
  {PART_CHOICE, 1, 0x3},
  {PART_PATH, 1, 4095u},
};
static const struct part_spec parts_signal[] = {
  {PART_U32, 1, 64u},
};
static const struct part_spec parts_ttl[] = {
  {PART_U32, 1, 4294967295u},
};
static const struct part_spec parts_family[] = {
  {PART_CHOICE, 1, 0x404},
};
static const struct part_spec parts_process[] = {
  {PART_U32, 1, 4294967295u},
};
static const struct part_spec parts_socket[] = {
  {PART_PATH, 1, 107u},
};
static const struct part_spec parts_interface[] = {
  {PART_NAME, 1, 15u},
};
static const struct part_spec parts_address[] = {
  {PART_U32, 1, 4294967295u},
  {PART_U32, 1, 4294967295u},
  {PART_U32, 1, 4294967295u},
};

static const struct field_spec fields_prepare[] = {
  {FIELD_MASK, 0, 4096, parts_mask, 1},
  {FIELD_READONLY, 0, 4096, parts_readonly, 1},
  {FIELD_LABEL, 0, 1, parts_label, 4},
  {FIELD_WAIT, 0, 1, parts_wait, 1},
};
static const struct field_spec fields_setup[] = {
  {FIELD_HOSTNAME, 1, 1, parts_hostname, 1},
  {FIELD_LOWER, 1, 1, parts_lower, 1},
  {FIELD_SCRATCH_TMPFS, 0, 1, parts_scratch_tmpfs, 1},
  {FIELD_SCRATCH, 0, 1, parts_scratch, 1},
  {FIELD_NETWORK, 0, 1, NULL, 0},
  {FIELD_TMPFS, 0, 4096, parts_tmpfs, 3},
  {FIELD_BIND, 0, 4096, parts_bind, 4},
  {FIELD_MASK, 0, 4096, parts_mask, 1},
  {FIELD_READONLY, 0, 4096, parts_readonly, 1},
  {FIELD_FILE, 0, 4096, parts_file, 5},
  {FIELD_DIRECTORY, 0, 4096, parts_directory, 4},
  {FIELD_NAMESPACES, 0, 1, parts_namespaces, 1},
  {FIELD_LABEL, 0, 1, parts_label, 4},
  {FIELD_ETC_FILE, 0, 4096, parts_etc_file, 2},
};
static const struct field_spec fields_exec[] = {
  {FIELD_ID, 1, 1, parts_id, 1},
  {FIELD_ARGUMENT, 1, 65536, parts_argument, 1},
  {FIELD_VARIABLE, 0, 65536, parts_variable, 1},
  {FIELD_WORKDIR, 1, 1, parts_workdir, 1},
  {FIELD_USER, 1, 1, parts_user, 1},
  {FIELD_CAPABILITIES, 1, 1, parts_capabilities, 1},
  {FIELD_SECCOMP, 0, 1, parts_seccomp, 1},
  {FIELD_VERDICTS, 0, 1, parts_verdicts, 1},
  {FIELD_RLIMIT, 0, 16, parts_rlimit, 3},
  {FIELD_TERMINAL, 0, 1, parts_terminal, 2},
  {FIELD_UMASK, 1, 1, parts_umask, 1},
  {FIELD_LANDLOCK, 1, 1, parts_landlock, 1},
  {FIELD_BOOT, 0, 64, parts_boot, 2},
};
static const struct field_spec fields_signal[] = {
  {FIELD_ID, 1, 1, parts_id, 1},
  {FIELD_SIGNAL, 1, 1, parts_signal, 1},
};
static const struct field_spec fields_winsize[] = {
  {FIELD_ID, 1, 1, parts_id, 1},
  {FIELD_TERMINAL, 1, 1, parts_terminal, 2},
};
static const struct field_spec fields_keep[] = {
  {FIELD_TTL, 1, 1, parts_ttl, 1},
};
static const struct field_spec fields_directory[] = {
  {FIELD_DIRECTORY, 0, 4096, parts_directory, 4},
  {FIELD_ID, 1, 1, parts_id, 1},
};
static const struct field_spec fields_socket[] = {
  {FIELD_ID, 1, 1, parts_id, 1},
  {FIELD_FAMILY, 1, 1, parts_family, 1},
};
static const struct field_spec fields_adopt[] = {
  {FIELD_ID, 1, 1, parts_id, 1},
  {FIELD_PROCESS, 1, 1, parts_process, 1},
};
static const struct field_spec fields_kill_session[] = {
  {FIELD_ID, 1, 1, parts_id, 1},
  {FIELD_SIGNAL, 1, 1, parts_signal, 1},
  {FIELD_PROCESS, 1, 1, parts_process, 1},
};
static const struct field_spec fields_notify_socket[] = {
  {FIELD_ID, 1, 1, parts_id, 1},
  {FIELD_SOCKET, 1, 1, parts_socket, 1},
};
static const struct field_spec fields_dhcp_socket[] = {
  {FIELD_ID, 1, 1, parts_id, 1},
  {FIELD_INTERFACE, 1, 1, parts_interface, 1},
};
static const struct field_spec fields_address[] = {
  {FIELD_ID, 1, 1, parts_id, 1},
  {FIELD_INTERFACE, 1, 1, parts_interface, 1},
  {FIELD_ADDRESS, 1, 1, parts_address, 3},
};

const struct message_spec request_specs[] = {
  {MSG_PREPARE, 0, 0, fields_prepare, 4},
  {MSG_SETUP, 1, 64, fields_setup, 14},
  {MSG_EXEC, 1, 3, fields_exec, 13},
  {MSG_SIGNAL, 0, 0, fields_signal, 2},
  {MSG_WINSIZE, 0, 0, fields_winsize, 2},
  {MSG_KILL_ALL, 0, 0, NULL, 0},
  {MSG_KEEP, 0, 0, fields_keep, 1},
  {MSG_DIRECTORY, 0, 0, fields_directory, 2},
  {MSG_SOCKET, 1, 1, fields_socket, 2},
  {MSG_ADOPT, 0, 0, fields_adopt, 2},
  {MSG_KILL_SESSION, 0, 0, fields_kill_session, 3},
  {MSG_NOTIFY_SOCKET, 0, 0, fields_notify_socket, 2},
  {MSG_DHCP_SOCKET, 1, 1, fields_dhcp_socket, 2},
  {MSG_ADDRESS, 0, 0, fields_address, 3},
};
const size_t request_spec_count = 14;
