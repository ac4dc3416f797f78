import { randomInt } from 'node:crypto';
import { readdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { KilnError } from '../../errors.ts';
import type { StatePaths } from '../../state/paths.ts';
import { claim, ensureClaims, type Owner, releaseClaim, releaseClaimsOf } from '../claim.ts';

/** Categories of a policy with MCS: c0 to c1023, in Debian's and Fedora's. */
const CATEGORIES = 1024;

/** Of 523,776 pairs, this many are tried before it is called hopeless. */
const ATTEMPTS = 10_000;

/** Two categories, as in a level `s0:PAIR`: `c12,c345`, the smaller one first. */
export type Pair = string;

function pairDirectory(paths: StatePaths): string {
  return join(paths.hostRun, 'mcs');
}

/** Any pair, each as likely as any other. */
function randomPair(): Pair {
  const first = randomInt(CATEGORIES);
  const other = randomInt(CATEGORIES - 1);
  const second = other < first ? other : other + 1;
  return `c${Math.min(first, second)},c${Math.max(first, second)}`;
}

/**
 * Takes a pair of categories that nobody on this host has: no other box or service, of any state
 * directory, and no process at all, such as libvirt's or podman's. Two labels with different pairs
 * have no access to each other. Throws E_NO_MCS.
 * @param owner whoever has it, see {@link Owner}
 */
export async function allocatePair(paths: StatePaths, owner: Owner): Promise<Pair> {
  const directory = pairDirectory(paths);
  ensureClaims(directory);
  const seen = await pairsOfProcesses();
  for (let attempt = 0; attempt < ATTEMPTS; attempt++) {
    const pair = randomPair();
    if (seen.has(pair)) continue;
    if (await claim(directory, pair, owner)) return pair;
  }
  throw new KilnError('E_NO_MCS', `no pair of categories is free after ${ATTEMPTS} attempts`, {
    hint: 'see `kiln ps`; `kiln gc` destroys what nobody owns any more',
  });
}

/**
 * Takes one certain pair, such as the one that a service's files have had since its last start.
 * False when somebody else has it.
 */
export async function claimPair(paths: StatePaths, pair: Pair, owner: Owner): Promise<boolean> {
  const directory = pairDirectory(paths);
  ensureClaims(directory);
  return await claim(directory, pair, owner);
}

/** Gives back what pairs an owner has. Only when no process with them is left. */
export async function releasePairsOf(paths: StatePaths, owner: Owner): Promise<void> {
  await releaseClaimsOf(pairDirectory(paths), owner);
}

/** Gives a pair back. Only when no process with it is left. */
export async function releasePair(paths: StatePaths, pair: Pair, owner: Owner): Promise<void> {
  await releaseClaim(pairDirectory(paths), pair, owner);
}

/** The pair that a context of SELinux ends in; undefined when it has none or other categories. */
export function pairOf(context: string): Pair | undefined {
  return /:(c\d+,c\d+)$/.exec(context)?.[1];
}

/** The pairs of all processes of this host, in whatever way they came by them. */
async function pairsOfProcesses(): Promise<Set<Pair>> {
  const pids = (await readdir('/proc')).filter((name) => /^\d+$/.test(name));
  const labels = await Promise.all(
    pids.map((pid) => readFile(`/proc/${pid}/attr/current`, 'latin1').catch(() => '')),
  );
  const pairs = labels.map((label) => pairOf(label.replace(/[\0\n]+$/, '')));
  return new Set(pairs.filter((pair) => pair !== undefined));
}
