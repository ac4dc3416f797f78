import { readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Kiln } from '../../src/kiln.ts';
import { refill, setParkTarget } from '../../src/sandbox/parking.ts';
import { sweepBoxes } from '../../src/sandbox/sweep.ts';
import { PATIENCE } from './busybox-state.ts';

/** Ends the boxes that wait, and has no other one started. */
export async function noneWaits({ paths, engine }: Kiln): Promise<void> {
  setParkTarget(paths, 0);
  await sweepBoxes(paths, engine.connect, { parkedToo: true });
}

/** Sees to it that one box waits, and gives its folder. */
export async function oneWaits({ paths, engine }: Kiln, lifetime?: number): Promise<string> {
  setParkTarget(paths, 1);
  await refill(paths, engine.connect, {
    wait: true,
    ...(lifetime === undefined ? {} : { lifetime }),
  });
  const [id = ''] = await readdir(paths.parked);
  return join(paths.parked, id);
}

/** As libvirt sees it. */
export async function domainNames({ engine }: Kiln): Promise<string[]> {
  const connection = await engine.connect();
  return (await connection.listDomains()).map(({ name }) => name);
}

/** Those that have not ended by themselves after 20 s. */
export async function domainsLeft(kiln: Kiln): Promise<string[]> {
  const until = Date.now() + 20_000 * PATIENCE;
  for (;;) {
    const names = await domainNames(kiln);
    if (names.length === 0 || Date.now() > until) return names;
    await sleep(100);
  }
}
