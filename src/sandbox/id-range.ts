import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { KilnError } from '../errors.ts';
import type { StatePaths } from '../state/paths.ts';
import { claim, ensureClaims, type Owner, releaseClaim } from './claim.ts';

/** Ids in one range: what a distribution's images use (uid 65534 is nobody). */
export const RANGE_SIZE = 65536;

/**
 * 0x70000000 to 0x7fffffff, which systemd's UIDS-GIDS document leaves unused. Range 0 belongs to
 * the confined parsers (src/confine).
 */
const DEFAULT_BLOCK = { start: 0x7000_0000, count: 0x1000_0000 };

/** `count` ids from `base` on the host are 0, 1, … in a box. */
export interface IdRange {
  readonly base: number;
  readonly count: number;
}

/** The ids kiln may give to boxes: the line `kiln:START:COUNT` of /etc/subuid, or the default block. */
export async function idBlock(subuid = '/etc/subuid'): Promise<{ start: number; count: number }> {
  const text = await readFile(subuid, 'utf8').catch(() => '');
  for (const line of text.split('\n')) {
    const [user, start, count] = line.split(':');
    if (user !== 'kiln') continue;
    const block = { start: Number(start), count: Number(count) };
    if (block.start > 0 && block.count >= 2 * RANGE_SIZE) return block;
    throw new KilnError('E_SUBUID', `${subuid}: the entry of kiln is too small: ${line}`, {
      hint: `give it at least ${2 * RANGE_SIZE} ids, or remove the line to use the default block`,
    });
  }
  return DEFAULT_BLOCK;
}

function rangeDirectory(paths: StatePaths): string {
  return join(paths.hostRun, 'ranges');
}

/**
 * Takes an id range that no other live box of this host has. Throws E_NO_RANGE.
 * @param owner where the box lives, see {@link Owner}
 */
export async function allocateRange(paths: StatePaths, owner: Owner): Promise<IdRange> {
  const directory = rangeDirectory(paths);
  ensureClaims(directory);
  const block = await idBlock();
  const total = Math.floor(block.count / RANGE_SIZE);
  for (let index = 1; index < total; index++) {
    const base = block.start + index * RANGE_SIZE;
    if (await claim(directory, String(base), owner)) return { base, count: RANGE_SIZE };
  }
  throw new KilnError('E_NO_RANGE', `all ${total - 1} id ranges are taken by live boxes`, {
    hint: 'see `kiln ps`; `kiln gc` destroys what nobody owns any more',
  });
}

/** Gives a range back. Only when no process with its ids is left. */
export async function releaseRange(paths: StatePaths, range: IdRange, owner: Owner): Promise<void> {
  await releaseClaim(rangeDirectory(paths), String(range.base), owner);
}
