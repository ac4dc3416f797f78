/** The C side of src/sandbox/wire/port.ts: dist/wire/port-wire.h, for wire.ts. */
import { DESCRIPTORS, FRAMES, type Frame, PORT, SHARE } from '../../src/sandbox/wire/port.ts';

const frames: readonly (readonly [string, Frame])[] = Object.entries(FRAMES);

function enumeration(prefix: string, values: Readonly<Record<string, number>>): string {
  const lines = Object.entries(values).map(
    ([name, value]) => `  ${prefix}_${name.toUpperCase()} = ${value},\n`,
  );
  return `enum {\n${lines.join('')}};\n`;
}

const BYTES = { u32: 4, u64: 8 } as const;

function structure([name, { words }]: readonly [string, Frame]): string {
  const members = Object.entries(words).map(
    ([word, kind]) => `  ${kind === 'u32' ? 'uint32_t' : 'uint64_t'} ${word};\n`,
  );
  if (members.length === 0) return '';
  return `struct __attribute__((packed)) port_${name} {\n${members.join('')}};\n`;
}

function row([name, { type, from, stream, words, most = 0 }]: readonly [string, Frame]): string {
  const least = Object.values(words).reduce((all, word) => all + BYTES[word], 0);
  const ends = { host: 1, guest: 2, both: 3 }[from];
  const any = stream === 'any' ? 1 : 0;
  return `  [FRAME_${name.toUpperCase()}] = {${type}, ${ends}, ${any}, ${least}, ${least + most}},\n`;
}

/** The text of port-wire.h. */
export function portHeader(): string {
  return `// SPDX-License-Identifier: Apache-2.0
// Written by scripts/write/wire.ts from src/sandbox/wire/port.ts, which says what each is. Do not edit.
#ifndef KILN_PORT_WIRE_H
#define KILN_PORT_WIRE_H

#include <stdint.h>

#define PORT_NAME "${PORT.name}"
#define PORT_VERSION ${PORT.version}u
#define PORT_PAYLOAD ${PORT.payload}u
#define PORT_WINDOW ${PORT.window}u
#define PORT_STREAMS ${PORT.streams}u
#define PORT_GUEST ${PORT.guest}u
#define PORT_TAG "${PORT.tag}"
#define PORT_IDS ${PORT.ids.base}u
#define PORT_IDS_COUNT ${PORT.ids.count}u

// Frames.
${enumeration('FRAME', Object.fromEntries(frames.map(([name, { type }]) => [name, type])))}
// What a descriptor is.
${enumeration('DESCRIPTOR', DESCRIPTORS)}
// What a share is.
${enumeration('SHARE', SHARE)}
${frames.map(structure).filter(Boolean).join('\n')}
struct port_header {
  uint32_t length;
  uint16_t type, stream;
};

// Who sends a frame: bit 0 the host, bit 1 the guest. Whether it is about a stream. Bytes of its payload.
struct frame_spec {
  uint8_t type, from, stream;
  uint32_t least, most;
};

static const struct frame_spec frame_specs[] = {
${frames.map(row).join('')}};
#define FRAME_SPECS (sizeof frame_specs / sizeof *frame_specs)

#endif
`;
}
