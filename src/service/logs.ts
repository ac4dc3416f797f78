import { closeSync, fstatSync, openSync, readSync, statSync, watch } from 'node:fs';
import type { InstanceFiles } from './instance-files.ts';

/** The end of a log is looked for in so many bytes of its newest file. */
const TAIL_BYTES = 4 * 2 ** 20;
/** File events may be lost; after so long (ms) it is looked anyway. */
const LOOK_PAUSE = 1000;

/** The last lines of a service's log, the oldest first. */
export function readLog(files: InstanceFiles, count: number): string[] {
  const older = `${files.log}.1`;
  const lines = tailLines(files.log);
  if (lines.length < count) lines.unshift(...tailLines(older));
  return lines.slice(-count);
}

function tailLines(path: string): string[] {
  if (!statSync(path, { throwIfNoEntry: false })?.isFile()) return [];
  const fd = openSync(path, 'r');
  try {
    const { size } = fstatSync(fd);
    const start = Math.max(0, size - TAIL_BYTES);
    const bytes = Buffer.alloc(size - start);
    const count = readSync(fd, bytes, 0, bytes.length, start);
    const lines = bytes.toString('utf8', 0, count).split('\n');
    if (start > 0) lines.shift();
    return lines.filter((line) => line !== '');
  } finally {
    closeSync(fd);
  }
}

/** Calls `write` with what is added to a log from now on, across rotations, until aborted. */
export async function followLog(
  files: InstanceFiles,
  write: (text: string) => void,
  signal: AbortSignal,
): Promise<void> {
  let fd = openSync(files.log, 'r');
  let at = fstatSync(fd).size;
  const buffer = Buffer.alloc(65536);
  const drain = () => {
    for (;;) {
      const count = readSync(fd, buffer, 0, buffer.length, at);
      if (count === 0) break;
      at += count;
      write(buffer.toString('utf8', 0, count));
    }
  };
  const look = () => {
    drain();
    const now = statSync(files.log, { throwIfNoEntry: false });
    if (now === undefined || now.ino === fstatSync(fd).ino) return;
    closeSync(fd);
    fd = openSync(files.log, 'r');
    at = 0;
    drain();
  };
  const watcher = watch(files.logs, look);
  const timer = setInterval(look, LOOK_PAUSE);
  try {
    await new Promise<void>((resolve) => {
      if (signal.aborted) resolve();
      signal.addEventListener('abort', () => resolve(), { once: true });
    });
  } finally {
    watcher.close();
    clearInterval(timer);
    look();
    closeSync(fd);
  }
}
