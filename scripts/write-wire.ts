/**
 * Writes the C side of both wires from their tables: src/client/frames.h from src/daemon/frames.ts, and
 * src/guest/wire.h and wire.c from src/sandbox/wire/table.ts. Writes the types of the API, src/api/io-kiln.ts, and
 * docs/reference/api.md from its interface. Tests compare.
 */
import { execFileSync } from 'node:child_process';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { interfaceText } from '../src/api/interface.ts';
import { FRAME, OPEN, TO_CLIENT, TO_DAEMON } from '../src/daemon/frames.ts';
import { API_PAGE, apiPage } from './api-reference.ts';
import { API_TYPES, apiTypes } from './api-types.ts';
import { guestHeader, guestSource } from './guest-wire.ts';

export const FRAMES_HEADER = join(import.meta.dirname, '../src/client/frames.h');

function enumeration(
  name: string,
  types: Readonly<Record<string, number>>,
  prefix = 'FRAME',
): string {
  const lines = Object.entries(types).map(
    ([type, n]) => `  ${prefix}_${type.toUpperCase()} = ${n},\n`,
  );
  return `enum ${name} {\n${lines.join('')}};\n`;
}

/** The text of src/client/frames.h. */
export function framesHeader(): string {
  return `/* Written by scripts/write-wire.ts from src/daemon/frames.ts, which says what each is. Do not edit. */
#ifndef KILN_FRAMES_H
#define KILN_FRAMES_H

/* Bytes of a frame's header: u32 length of what follows it, u8 type, u8 descriptors, u16 zero; little-endian. */
#define FRAME_HEADER ${FRAME.header}
/* Longest payload, bytes. */
#define FRAME_MAX ${FRAME.max}
/* Most descriptors of a frame. */
#define FRAME_DESCRIPTORS ${FRAME.descriptors}

${enumeration('frame_to_daemon', TO_DAEMON)}
${enumeration('frame_to_client', TO_CLIENT)}
/* How FRAME_OPEN wants a file opened. */
${enumeration('open_how', OPEN, 'OPEN')}
#endif
`;
}

export const GUEST_HEADER = join(import.meta.dirname, '../src/guest/wire.h');
export const GUEST_SOURCE = join(import.meta.dirname, '../src/guest/wire.c');

/** The text of src/api/io-kiln.ts, formatted as all of src is. */
export function formattedApiTypes(): string {
  const biome = join(import.meta.dirname, '../node_modules/.bin/biome');
  const options = { input: apiTypes(interfaceText()), encoding: 'utf8' } as const;
  return execFileSync(biome, ['format', '--stdin-file-path', API_TYPES], options);
}

if (import.meta.main) {
  writeFileSync(API_TYPES, formattedApiTypes());
  writeFileSync(API_PAGE, apiPage(interfaceText()));
  writeFileSync(FRAMES_HEADER, framesHeader());
  writeFileSync(GUEST_HEADER, guestHeader());
  writeFileSync(GUEST_SOURCE, guestSource());
}
