import { statfsSync } from 'node:fs';
import { KilnError } from '../errors.ts';

/** What a box writes to the host's disk has no quota: so much of that is never taken. */
const RESERVE_BYTES = 2 * 2 ** 30;
/** Of a small disk less is kept free. */
const RESERVE_SHARE = 0.05;

/** Milliseconds between two looks: a disk that takes 1 GB/s is not full before the next one. */
const INTERVAL = 500;

/** Aborts when the disk is nearly full; disposing of it ends the watch. */
export interface DiskGuard extends Disposable {
  readonly signal: AbortSignal;
}

/**
 * Watches the disk that `path` lies on while a box writes to it. The signal's reason is
 * E_DISK_LOW. `reserve`: bytes that stay free.
 */
export function guardDisk(path: string, reserve?: number): DiskGuard {
  const controller = new AbortController();
  const look = () => {
    const { bavail, blocks, bsize } = statfsSync(path);
    const kept = reserve ?? Math.min(RESERVE_BYTES, blocks * bsize * RESERVE_SHARE);
    if (bavail * bsize >= kept) return;
    clearInterval(timer);
    controller.abort(
      new KilnError(
        'E_DISK_LOW',
        `the disk that ${path} lies on is nearly full: what wrote to it was ended`,
        {
          hint: '`kiln gc --max-size` gives room back, `kiln-mock --clean` removes a root',
        },
      ),
    );
  };
  const timer = setInterval(look, INTERVAL);
  timer.unref();
  return { signal: controller.signal, [Symbol.dispose]: () => clearInterval(timer) };
}
