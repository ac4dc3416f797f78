import type { Readable, Writable } from 'node:stream';

export function roomIn(stream: Writable): Promise<void> {
  return new Promise((resolve) => {
    const go = () => {
      stream.off('drain', go).off('close', go);
      resolve();
    };
    stream.on('drain', go).on('close', go);
  });
}

/** Writes bytes to a stream, and has `from` wait while there is no room. One that has failed takes all. */
export function pass(from: Readable, bytes: Buffer, to: Writable): void {
  if (to.destroyed || to.write(bytes)) return;
  from.pause();
  roomIn(to).then(
    () => from.resume(),
    () => undefined,
  );
}
