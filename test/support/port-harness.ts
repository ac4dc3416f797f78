import { join } from 'node:path';
import { execa } from 'execa';
import { FRAMES, type Frame, PORT } from '../../src/sandbox/wire/port.ts';

const top = join(import.meta.dirname, '../..');

/** Compiles the relay with sanitizers, without what starts it, into `directory`. Gives the program. */
export async function buildPortHarness(directory: string): Promise<string> {
  const program = join(directory, 'port-harness');
  const [relay, machine] = [join(top, 'src/relay'), join(top, 'src/guest/machine')];
  await execa('cc', [
    ...['-std=gnu17', '-D_GNU_SOURCE', '-DPTS="/dev/pts"', '-O1', '-g'],
    ...[`-I${relay}`, `-I${machine}`, `-I${join(top, 'dist/wire')}`, '-o', program],
    ...['-fsanitize=address,undefined', '-fno-sanitize-recover=all'],
    ...[join(top, 'test/fuzz/port-harness.c')],
    ...['kiln.c', 'likes.c', 'passing.c', 'serve.c'].map((name) => join(relay, name)),
    ...['connection.c', 'port.c', 'stream.c'].map((name) => join(machine, name)),
  ]);
  return program;
}

/** Has a relay read each case, as a guest's. Gives for each whether it refused it. */
export async function readByRelay(
  program: string,
  directory: string,
  cases: readonly Buffer[],
): Promise<boolean[]> {
  const input = cases.flatMap((bytes) => [Buffer.from(Uint32Array.of(bytes.length).buffer), bytes]);
  // Listeners have names in a network, and each relay has one of its own.
  const argv = ['-n', program, directory];
  const { stdout } = await execa('unshare', argv, { input: Buffer.concat(input) });
  return stdout.split('\n').map((line) => line === 'refused');
}

export function frame(type: number, stream: number, payload: Buffer = Buffer.alloc(0)): Buffer {
  const header = Buffer.alloc(8);
  header.writeUInt32LE(payload.length, 0);
  header.writeUInt16LE(type, 4);
  header.writeUInt16LE(stream, 6);
  return Buffer.concat([header, payload]);
}

export function words(...numbers: number[]): Buffer {
  return Buffer.from(Uint32Array.from(numbers).buffer);
}

/** Streams of the command that the harness has started: its input, its output, and a carrier. */
export const OPEN = { input: 1, output: 2, errors: 3, carrier: 4 } as const;

/** The length of what comes before a frame's bytes. */
export function wordBytes({ words: parts }: Frame): number {
  return Object.values(parts).reduce((all, word) => all + (word === 'u32' ? 4 : 8), 0);
}

export const GUEST_FRAMES = Object.entries<Frame>(FRAMES).filter(([, { from }]) => from !== 'host');
export const HOST_FRAMES = Object.entries<Frame>(FRAMES).filter(([, { from }]) => from === 'host');

/** A number of the guest's own for a new stream. */
export const NEW = PORT.guest + 1;
