/**
 * Writes what is made from tables: dist/wire/numbers.h from src/host/calls/system-call.ts, dist/wire/frames.h from
 * src/daemon/frames.ts, dist/wire/travels.h from the options of `kiln run`, dist/wire/wire.h and wire.c from
 * src/sandbox/wire/table.ts, dist/wire/port-wire.h from src/sandbox/wire/port.ts, dist/wire/confined.h from
 * src/host/confine/task.ts and what else the reader of layers has to know, src/api/io-kiln.ts from the API's interface,
 * and types.py and sync.py of the Python package. The build does it first, and `npm run check`. With --docs it writes
 * docs/reference/api*.md, too, which a test compares.
 */
import { mkdirSync, readFileSync, renameSync, writeFileSync } from 'node:fs';
import { basename, dirname, join } from 'node:path';
import { type CopyLimits, DEFAULT_LIMITS, LIMIT_TEXT } from '../../src/artifacts/budget.ts';
import { alwaysTravels } from '../../src/cli/remote/ways.ts';
import { FRAME, OPEN, TO_CLIENT, TO_DAEMON } from '../../src/daemon/frames.ts';
import { CALLS } from '../../src/host/calls/system-call.ts';
import {
  DEEP,
  DESTINATION_FD,
  defaultLimits,
  FIRST_FD,
  REPLY_FD,
  USER_NAMESPACE_FD,
} from '../../src/host/confine/task.ts';
import { KILN_VERSION } from '../../src/host/state/paths.ts';
import { LONGEST_MESSAGE } from '../../src/jobs/changes/read-layers.ts';
import { flagOf, type Row } from '../../src/options/row.ts';
import { RUN } from '../../src/options/sandbox.ts';
import { CONFIGURATION_MAX } from '../../src/users/configuration-file.ts';
import { apiPages } from './api-reference.ts';
import { apiTypes } from './api-types.ts';
import { guestHeader, guestSource } from './guest-wire.ts';
import { portHeader } from './port-wire.ts';
import { pythonSync, pythonTypes } from './python.ts';
import { interfaceText } from './varlink.ts';

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

function framesHeader(): string {
  return `/* Written by scripts/write/wire.ts from src/daemon/frames.ts, which says what each is. Do not edit. */
#ifndef KILN_FRAMES_H
#define KILN_FRAMES_H

#define KILN_VERSION "${KILN_VERSION}"

/* Bytes of a frame's header: u32 length of what follows it, u8 type, u8 descriptors, u16 zero; little-endian. */
#define FRAME_HEADER ${FRAME.header}
/* Longest payload, bytes. */
#define FRAME_MAX ${FRAME.max}
/* Most descriptors of a frame. */
#define FRAME_DESCRIPTORS ${FRAME.descriptors}
/* Longest configuration of a caller, bytes. */
#define CONFIGURATION_MAX ${CONFIGURATION_MAX}

${enumeration('frame_to_daemon', TO_DAEMON)}
${enumeration('frame_to_client', TO_CLIENT)}
/* How FRAME_OPEN wants a file opened. */
${enumeration('opened_as', OPEN, 'OPEN')}
#endif
`;
}

/** Descriptors and limits of a confined child that is no Node. */
function confinedHeader(): string {
  const kinds: readonly (keyof CopyLimits)[] = ['visited', 'paths', 'bytes', 'depth'];
  const limits = kinds.map((kind) => {
    const [name, most] = [kind.toUpperCase(), DEFAULT_LIMITS[kind]];
    return `#define ${name}_MAX ${most}ULL\n#define ${name}_TEXT "${LIMIT_TEXT[kind](most)}"\n`;
  });
  return `/* Written by scripts/write/wire.ts from src/host/confine/task.ts, src/artifacts/budget.ts and
   src/jobs/changes/read-layers.ts. Do not edit. */
#ifndef KILN_CONFINED_H
#define KILN_CONFINED_H

#define REPLY_FD ${REPLY_FD}
#define USER_NAMESPACE_FD ${USER_NAMESPACE_FD}
#define DESTINATION_FD ${DESTINATION_FD}
#define FIRST_FD ${FIRST_FD}

#define MEMORY_MAX ${defaultLimits.memory}
#define CPU_SECONDS_MAX ${defaultLimits.cpuSeconds}
/* Descriptors. */
#define FILES_MAX ${DEEP}
/* Bytes. */
#define MESSAGE_MAX ${LONGEST_MESSAGE}

/* What is looked at, and how an error says that it is more. */
${limits.join('')}
#endif
`;
}

/** The system calls of src/host/calls, with the numbers that they have where this is compiled. */
function numbersHeader(): string {
  return `/* Written by scripts/write/wire.ts from src/host/calls/system-call.ts. Do not edit. */
#include <sys/syscall.h>

static const struct {
  const char *name;
  long number;
} call_numbers[] = {
${CALLS.map((name) => `    {"${name}", SYS_${name}},\n`).join('')}};
`;
}

/** The options of `kiln run` that go to another machine as they are: what the client does without a Node. */
function travelsHeader(): string {
  const ways = Object.entries(RUN).flatMap(([name, row]: [string, Row]) => {
    const way =
      name === 'image'
        ? 'IMAGE'
        : name === 'env'
          ? 'PAIR'
          : alwaysTravels(row)
            ? wayOfValue(row)
            : '';
    // A job's file is read here, and names other files.
    if (way === '' || name === 'file') return [];
    const flags = [flagOf(name, row), ...(row.short === undefined ? [] : [`-${row.short}`])];
    return flags.map((flag) => `    {"${flag}", WAY_${way}},\n`);
  });
  return `/* Written by scripts/write/wire.ts from src/options/sandbox.ts. Do not edit. */
#ifndef KILN_TRAVELS_H
#define KILN_TRAVELS_H

/* What follows an option: nothing; a word; one behind \`=\`, or nothing; an image's name; NAME=VALUE. */
enum way { WAY_FLAG, WAY_WORD, WAY_OPTIONAL, WAY_IMAGE, WAY_PAIR };

static const struct {
  const char *name;
  enum way way;
} travels[] = {
${ways.join('')}    {0},
};

#endif
`;
}

function wayOfValue({ kind, preset }: Row): string {
  if (kind.term === undefined) return 'FLAG';
  return preset === undefined ? 'WORD' : 'OPTIONAL';
}

/** Writes a file whole, and only if its content changes: the build looks at times. */
function write(path: string, text: string): void {
  mkdirSync(dirname(path), { recursive: true });
  try {
    if (readFileSync(path, 'utf8') === text) return;
  } catch {
    // It is not there yet.
  }
  const temporary = join(dirname(path), `.${basename(path)}-${process.pid}`);
  writeFileSync(temporary, text);
  renameSync(temporary, path);
}

export function writeGenerated(): void {
  const top = join(import.meta.dirname, '../..');
  write(join(top, 'dist/wire/numbers.h'), numbersHeader());
  write(join(top, 'dist/wire/frames.h'), framesHeader());
  write(join(top, 'dist/wire/travels.h'), travelsHeader());
  write(join(top, 'dist/wire/wire.h'), guestHeader());
  write(join(top, 'dist/wire/wire.c'), guestSource());
  write(join(top, 'dist/wire/port-wire.h'), portHeader());
  write(join(top, 'dist/wire/confined.h'), confinedHeader());
  write(join(top, 'src/api/io-kiln.ts'), apiTypes(interfaceText()));
  const python = join(top, 'packaging/python/kiln');
  write(join(python, 'types.py'), pythonTypes(interfaceText()));
  write(join(python, 'sync.py'), pythonSync(readFileSync(join(python, 'aio.py'), 'utf8')));
}

if (import.meta.main) {
  writeGenerated();
  if (process.argv.includes('--docs')) {
    for (const [path, text] of apiPages(interfaceText())) writeFileSync(path, text);
  }
}
