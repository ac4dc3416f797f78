import { setTimeout as sleep } from 'node:timers/promises';
import { PATIENCE } from './busybox-state.ts';

/** Looks until there is something to see, for a minute at most; errors meanwhile count as nothing. */
export async function eventually<Found>(
  look: () => Promise<Found | undefined | false>,
): Promise<Found> {
  for (const end = Date.now() + 60_000 * PATIENCE; ; await sleep(200)) {
    const found = await look().catch(() => undefined);
    if (found !== undefined && found !== false) return found;
    if (Date.now() > end) throw new Error('it did not happen in time');
  }
}

/** Waits until something is so, for twenty seconds at most; whether it is. */
export async function until(isSo: () => boolean): Promise<boolean> {
  for (let i = 0; i < 1000 * PATIENCE; i++) {
    // Looked at once: what was so may be over in the next moment.
    if (isSo()) return true;
    await sleep(20);
  }
  return isSo();
}
