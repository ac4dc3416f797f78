/** The C side of src/sandbox/wire/table.ts: dist/wire/wire.h and wire.c, for wire.ts. */
import {
  ANSWERS,
  FAILURES,
  FIELDS,
  type FieldName,
  type Message,
  type Part,
  REQUESTS,
  WIRE,
} from '../../src/sandbox/wire/table.ts';

const HEAD = `// SPDX-License-Identifier: Apache-2.0
// Written by scripts/write/wire.ts from src/sandbox/wire/table.ts, which says what each is. Do not edit.
`;

const fields = Object.entries(FIELDS) as [
  FieldName,
  { tag: number; parts: Record<string, Part> },
][];
const requests: readonly (readonly [string, Message])[] = Object.entries(REQUESTS);
const answers: readonly (readonly [string, Message])[] = Object.entries(ANSWERS);

/** \`peakRssBytes\` and \`owned-file\` as C has them. */
function snake(name: string): string {
  return name.replace(/-/g, '_').replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`);
}

function upper(name: string): string {
  return snake(name).toUpperCase();
}

function enumeration(entries: readonly (readonly [string, number, string?])[]): string {
  const lines = entries.map(
    ([name, value, words]) => `  ${name} = ${value},${words === undefined ? '' : ` // ${words}`}\n`,
  );
  return `enum {\n${lines.join('')}};\n`;
}

/** The values of parts that have names. */
function named(): string[] {
  const seen = new Map<string, Readonly<Record<string, number>>>();
  for (const [name, { parts }] of fields) {
    if (name === 'failure') continue;
    for (const part of Object.values(parts)) {
      if ('prefix' in part) seen.set(part.prefix, part.of);
    }
  }
  return [...seen].map(([prefix, of]) =>
    enumeration(Object.entries(of).map(([name, value]) => [`${prefix}_${upper(name)}`, value])),
  );
}

/** Its type in C, and how many bytes it has; none for those that end by themselves. */
function inC(part: Part): readonly [string, number?] {
  switch (part.kind) {
    case 'i32':
      return ['int32_t ', 4];
    case 'u64':
    case 'size':
    case 'mask':
      return ['uint64_t ', 8];
    case 'text':
    case 'path':
    case 'name':
      return ['const char *'];
    case 'bytes':
      return ['const unsigned char *'];
    default:
      return ['uint32_t ', 4];
  }
}

function structure(name: string, parts: Readonly<Record<string, Part>>): string {
  const members = Object.entries(parts).flatMap(([member, part]) => [
    `  ${inC(part)[0]}${snake(member)};\n`,
    ...(part.kind === 'bytes' ? [`  size_t ${snake(member)}_length;\n`] : []),
  ]);
  return `struct wire_${snake(name)} {\n${members.join('')}};\n`;
}

function usedBy(messages: readonly (readonly [string, Message])[], name: FieldName): boolean {
  return messages.some(([, message]) => message.fields[name] !== undefined);
}

/** A field of one part is that part in C, without a structure. */
function only(parts: Readonly<Record<string, Part>>): Part | undefined {
  const [part, ...more] = Object.values(parts);
  return more.length === 0 && part?.kind !== 'bytes' ? part : undefined;
}

/** The type of a field's value in C, to have a name behind it. */
function typeOf(name: FieldName): string {
  const part = only(FIELDS[name].parts);
  return part === undefined ? `struct wire_${snake(name)} ` : inC(part)[0];
}

function signature(verb: 'get' | 'put', name: FieldName): string {
  return verb === 'get'
    ? `${typeOf(name)}wire_get_${snake(name)}(const struct field *field)`
    : `void wire_put_${snake(name)}(struct writer *out, ${typeOf(name)}v)`;
}

/** What reads or writes a field of one part: there is one function for each kind. */
function shared(part: Part): string {
  const [, size] = inC(part);
  return size === undefined ? 'text' : `u${size * 8}`;
}

/** Fields that the init reads, or writes, and that have something to it. */
function handled(verb: 'get' | 'put'): readonly (readonly [FieldName, Record<string, Part>])[] {
  return fields
    .filter(([name, { parts }]) => {
      return usedBy(verb === 'get' ? requests : answers, name) && Object.keys(parts).length > 0;
    })
    .map(([name, { parts }]) => [name, parts] as const);
}

/** The text of wire.h. */
export function guestHeader(): string {
  const both = new Map([...handled('get'), ...handled('put')]);
  return `${HEAD}#ifndef KILN_WIRE_H
#define KILN_WIRE_H

#include <stddef.h>
#include <stdint.h>

// Bytes of the longest messages to and from the init; most descriptors of one.
#define REQUEST_MAX ${WIRE.request}u
#define ANSWER_MAX ${WIRE.answer}u
#define FDS_MAX ${WIRE.descriptors}u
#define FAILURE_TEXT_MAX ${FIELDS.failure.parts.text.most}u

// Messages.
${enumeration([...requests, ...answers].map(([name, { type }]) => [`MSG_${upper(name)}`, type]))}
// Fields.
${enumeration(fields.map(([name, { tag }]) => [`FIELD_${upper(name)}`, tag]))}
${named().join('\n')}
// Failures, and what the init could not do.
${enumeration(Object.entries(FAILURES).map(([name, [code, words]]) => [`FAIL_${upper(name)}`, code, words]))}
struct field {
  uint32_t tag, length;
  const unsigned char *data;
};

struct writer;

${[...both]
  .filter(([, parts]) => only(parts) === undefined)
  .map(([name, parts]) => structure(name, parts))
  .join('\n')}
// Reads a field of a message that has been checked.
uint32_t wire_get_u32(const struct field *field);
uint64_t wire_get_u64(const struct field *field);
const char *wire_get_text(const struct field *field);
${handled('get')
  .map(([name, parts]) => {
    const part = only(parts);
    return part === undefined
      ? `${signature('get', name)};\n`
      : `#define wire_get_${snake(name)} wire_get_${shared(part)}\n`;
  })
  .join('')}
// Adds a field to an answer.
void wire_put_u32(struct writer *out, uint32_t tag, uint32_t v);
void wire_put_text(struct writer *out, uint32_t tag, const char *v);
${handled('put')
  .map(([name, parts]) => {
    const part = only(parts);
    return part === undefined
      ? `${signature('put', name)};\n`
      : `#define wire_put_${snake(name)}(out, v) wire_put_${shared(part)}(out, FIELD_${upper(name)}, v)\n`;
  })
  .join('')}
#endif
`;
}

function getter([name, parts]: readonly [FieldName, Readonly<Record<string, Part>>]): string {
  const lines = Object.entries(parts).map(([key, part]) => {
    const member = `v.${snake(key)}`;
    const [, size] = inC(part);
    if (size !== undefined) return `  take(&at, &${member}, ${size});\n`;
    if (part.kind === 'bytes') {
      return `  ${member} = at;\n  ${member}_length = field->length - (size_t)(at - field->data);\n`;
    }
    return `  ${member} = take_text(&at);\n`;
  });
  return `${signature('get', name)} {
  ${typeOf(name)}v;
  const unsigned char *at = field->data;
${lines.join('')}  return v;
}
`;
}

function putter([name, parts]: readonly [FieldName, Readonly<Record<string, Part>>]): string {
  const lines = Object.entries(parts).map(([key, part]) => {
    const member = `v.${snake(key)}`;
    if (part.kind === 'bytes') return `  writer_add(out, ${member}, ${member}_length);\n`;
    const [, size] = inC(part);
    return size === undefined
      ? `  writer_add(out, ${member}, strlen(${member}) + 1);\n`
      : `  writer_add(out, &${member}, ${size});\n`;
  });
  return `${signature('put', name)} {
  size_t start = writer_field(out, FIELD_${upper(name)});
${lines.join('')}  writer_end(out, start);
}
`;
}

function partSpec(part: Part): string {
  const bits = (values: readonly number[]) => {
    if (values.some((value) => value > 63)) throw new RangeError('a choice of the init beyond 63');
    return `0x${values.reduce((all, value) => all | (1n << BigInt(value)), 0n).toString(16)}`;
  };
  switch (part.kind) {
    case 'u32':
      return `{PART_${upper(part.kind)}, 1, ${part.most}u}`;
    case 'i32':
    case 'ipv4':
      return `{PART_U32, 1, ${0xffff_ffff}u}`;
    case 'u64':
    case 'mask':
      return '{PART_U64, 1, 0}';
    case 'size':
      return '{PART_SIZE, 1, 0}';
    case 'flag':
      return `{PART_CHOICE, 1, ${bits([0, 1])}}`;
    case 'choice':
      return `{PART_CHOICE, 1, ${bits(Object.values(part.of))}}`;
    case 'set':
      return `{PART_SET, 1, ${Object.values(part.of).reduce((all, bit) => all | bit, 0)}}`;
    case 'descriptor':
      return '{PART_DESCRIPTOR, 1, 0}';
    case 'bytes':
      return `{PART_BYTES, ${part.unit}, ${part.most}u}`;
    default:
      return `{PART_${upper(part.kind)}, 1, ${part.most}u}`;
  }
}

function messageSpec([name, message]: readonly [string, Message]): string {
  const uses = fields.flatMap(([field, { parts }]) => {
    const times = message.fields[field];
    if (times === undefined) return [];
    const count = Object.keys(parts).length;
    const list = count === 0 ? 'NULL' : `parts_${snake(field)}`;
    return [`  {FIELD_${upper(field)}, ${times[0]}, ${times[1]}, ${list}, ${count}},\n`];
  });
  return uses.length === 0
    ? ''
    : `static const struct field_spec fields_${snake(name)}[] = {\n${uses.join('')}};\n`;
}

/** The text of wire.c. */
export function guestSource(): string {
  const specs = handled('get').map(
    ([name, parts]) =>
      `static const struct part_spec parts_${snake(name)}[] = {\n${Object.values(parts)
        .map((part) => `  ${partSpec(part)},\n`)
        .join('')}};\n`,
  );
  const messages = requests.map(([name, message]) => {
    const count = Object.keys(message.fields).length;
    const list = count === 0 ? 'NULL' : `fields_${snake(name)}`;
    const [least, most] = message.descriptors ?? [0, 0];
    return `  {MSG_${upper(name)}, ${least}, ${most}, ${list}, ${count}},\n`;
  });
  return `${HEAD}#include <string.h>

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

${handled('get')
  .filter(([, parts]) => only(parts) === undefined)
  .map(getter)
  .join('\n')}
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

${handled('put')
  .filter(([, parts]) => only(parts) === undefined)
  .map(putter)
  .join('\n')}
${specs.join('')}
${requests.map(messageSpec).join('')}
const struct message_spec request_specs[] = {
${messages.join('')}};
const size_t request_spec_count = ${requests.length};
`;
}
