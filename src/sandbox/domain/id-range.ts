import { createHash } from 'node:crypto';
import { readFileSync, readlinkSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { KilnError } from '../../errors.ts';
import type { StatePaths } from '../../host/state/paths.ts';
import { claim, ensureClaims, type Owner, releaseClaim, releaseClaimsOf } from './claim.ts';

/** Ids in one range: as many as distributions' images use (uid 65534 is nobody). */
export const RANGE_SIZE = 65536;

/**
 * 0x70000000 to 0x7fffffff, which systemd's UIDS-GIDS document leaves unused. Range 0 is for the confined
 * children (src/host/confine).
 */
const DEFAULT_BLOCK = { start: 0x7000_0000, count: 0x1000_0000 };

/** The initial pid namespace: PROC_PID_INIT_INO of linux/proc_ns.h. */
const HOST_PIDS = 'pid:[4026531836]';

/** The host's ids from `base` on, `count` of them, are 0, 1, … in a sandbox. */
export interface IdRange {
  readonly base: number;
  readonly count: number;
}

/**
 * The ids that kiln may give to sandboxes: the line `kiln:START:COUNT` of /etc/subuid, or the default block.
 */
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

/**
 * Where the search for a free range begins. Containers cannot see each other's claims, but share the kernel's
 * ids. So each begins at another place, chosen by the boot and its pid namespace; two rarely meet. The host
 * begins at the first.
 */
export function firstIndex(total: number, namespace: string, boot: string): number {
  if (namespace === HOST_PIDS || total < 2) return 1;
  const hash = createHash('sha256').update(`${boot}\n${namespace}`).digest();
  return 1 + (hash.readUInt32LE() % (total - 1));
}

function ownFirstIndex(total: number): number {
  try {
    const boot = readFileSync('/proc/sys/kernel/random/boot_id', 'utf8');
    return firstIndex(total, readlinkSync('/proc/self/ns/pid'), boot);
  } catch {
    // Without the namespace the search begins at the first range; claims are exclusive anyway.
    return 1;
  }
}

function rangeDirectory(paths: StatePaths): string {
  return join(paths.hostRun, 'ranges');
}

/**
 * Takes an id range that no other live sandbox with this /run/kiln has: those of the host, or of one container.
 * Throws E_NO_RANGE.
 * @param owner where the sandbox lives, see {@link Owner}
 */
export async function allocateRange(paths: StatePaths, owner: Owner): Promise<IdRange> {
  const directory = rangeDirectory(paths);
  ensureClaims(directory);
  const block = await idBlock();
  const total = Math.floor(block.count / RANGE_SIZE);
  const first = ownFirstIndex(total);
  for (let tried = 0; tried < total - 1; tried++) {
    // Skips range 0.
    const index = 1 + ((first - 1 + tried) % (total - 1));
    const base = block.start + index * RANGE_SIZE;
    if (await claim(directory, String(base), owner)) return { base, count: RANGE_SIZE };
  }
  throw new KilnError('E_NO_RANGE', `all ${total - 1} id ranges are taken by live sandboxes`, {
    hint: 'see `kiln ps`; `kiln gc` destroys what nobody owns any more',
  });
}

/** Gives back all ranges of an owner. No process with their ids may be left. */
export async function releaseRangesOf(paths: StatePaths, owner: Owner): Promise<void> {
  await releaseClaimsOf(rangeDirectory(paths), owner);
}

/** Gives a range back. No process with its ids may be left. */
export async function releaseRange(paths: StatePaths, range: IdRange, owner: Owner): Promise<void> {
  await releaseClaim(rangeDirectory(paths), String(range.base), owner);
}
