/** Has layers read by a confined child: the program whose sources are in `reader/`. */
import { type ByteString, toBytes } from '../../artifacts/byte-string.ts';
import { runConfined } from '../../host/confine/run.ts';
import type { IdRange } from '../../host/state/reservation.ts';

/** Bytes. It sends what it has found before there is as much. */
export const LONGEST_MESSAGE = 1 << 20;

export interface ReadRequest<Message> {
  /** What to do, and numbers for that: see reader/main.c. */
  readonly words: readonly (string | number)[];
  /** Only these, and what is below; all if there are none. */
  readonly only: readonly ByteString[];
  /** Mount points, which the init has made. */
  readonly mounts?: readonly ByteString[];
  readonly fds: readonly number[];
  /** To whom the files belong. */
  readonly range: IdRange;
  readonly signal?: AbortSignal | undefined;
  readonly validate: (value: unknown) => Message;
}

/** @throws KilnError E_ARTIFACT_LIMIT where it is too much, what runConfined() throws; the signal's reason */
export function readLayers<Message>(request: ReadRequest<Message>): AsyncIterable<Message> {
  const { words, only, mounts = [], fds, range, signal, validate } = request;
  const paths = [...only.map((path) => `<${path}`), ...mounts.map((path) => `@${path}`)];
  const input = toBytes([...words, ...paths, '.', ''].join('\0'));
  const { base, count } = range;
  const task = `changes-${words[0]}`;
  const program = 'kiln-changes';
  return runConfined({
    ...{ task, program, input, fds, ids: { base, count }, signal, validate },
    longestMessage: LONGEST_MESSAGE,
  });
}
