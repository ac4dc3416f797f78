import type { Readable, Writable } from 'node:stream';

const waits = new WeakMap<Writable, Promise<void>>();

/** All that wait for one stream share its listeners: one chunk may have dozens of frames. */
export function roomIn(stream: Writable): Promise<void> {
  const known = waits.get(stream);
  if (known !== undefined) return known;
  const room = new Promise<void>((resolve) => {
    const go = () => {
      stream.off('drain', go).off('close', go);
      waits.delete(stream);
      resolve();
    };
    stream.on('drain', go).on('close', go);
  });
  waits.set(stream, room);
  return room;
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
