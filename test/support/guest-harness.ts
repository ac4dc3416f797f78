import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { execa } from 'execa';
import { FIELDS, type Part, REQUESTS } from '../../src/sandbox/wire/table.ts';

const guest = join(import.meta.dirname, '../../src/guest');
const wire = join(import.meta.dirname, '../../dist/wire');

/** One connection's worth of messages, and how many descriptors come with its first byte. */
export interface GuestCase {
  readonly bytes: Buffer;
  readonly descriptors: number;
}

function snake(name: string): string {
  return name.replace(/-/g, '_').replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`);
}

/** C that reads every part of a field, whatever fields there are. */
function lookAtFields(): string {
  const cases = Object.entries(FIELDS).flatMap(([name, { tag, parts }]) => {
    const entries = Object.entries<Part>(parts);
    const isRead = Object.values(REQUESTS).some((request) => name in request.fields);
    if (!isRead || entries.length === 0) return [];
    const one = entries.length === 1 && entries[0]?.[1].kind !== 'bytes';
    const looks = entries.map(([part, { kind }]) => {
      const value = one ? 'v' : `v.${snake(part)}`;
      if (kind === 'bytes') return `look(${value}, ${value}_length);`;
      const text = kind === 'text' || kind === 'path' || kind === 'name';
      return text ? `look(${value}, strlen(${value}) + 1);` : `look(&${value}, sizeof ${value});`;
    });
    const get = `__typeof__(wire_get_${snake(name)}(field)) v = wire_get_${snake(name)}(field);`;
    return [`  case ${tag}: { ${get} ${looks.join(' ')} break; }`];
  });
  return `static void look_at(const struct field *field) {\n  switch (field->tag) {\n${cases.join('\n')}\n  }\n}\n`;
}

/** Compiles the init's reader of messages with sanitizers, into `directory`. Gives the program. */
export async function buildGuestHarness(directory: string): Promise<string> {
  const program = join(directory, 'harness');
  await writeFile(join(directory, 'look.h'), lookAtFields());
  await execa('cc', [
    ...['-std=gnu17', '-D_GNU_SOURCE', '-O1', '-g'],
    ...[`-I${guest}`, `-I${wire}`, `-I${directory}`, '-o', program],
    ...['-fsanitize=address,undefined', '-fno-sanitize-recover=all'],
    ...[join(import.meta.dirname, '../fuzz/guest-harness.c')],
    ...[join(guest, 'protocol.c'), join(wire, 'wire.c')],
  ]);
  return program;
}

/**
 * Has the init's reader read each case. Gives for each how many messages it took, and whether it refused what came
 * then; without a refusal the connection was at its end.
 */
export async function readByGuest(
  program: string,
  cases: readonly GuestCase[],
): Promise<{ readonly taken: number; readonly refused: boolean }[]> {
  const input = cases.flatMap(({ bytes, descriptors }) => [
    Buffer.from(Uint32Array.of(descriptors, bytes.length).buffer),
    bytes,
  ]);
  const { stdout } = await execa(program, { input: Buffer.concat(input) });
  return stdout.split('\n').map((line) => {
    const [taken, end] = line.split(' ');
    return { taken: Number(taken), refused: end === 'refused' };
  });
}
