import { mkdir, open, readdir, readFile, rm, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { KilnError } from '../errors.ts';
import { hasErrno } from '../kernel/libc.ts';
import type { StatePaths } from '../state/paths.ts';

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
 * Takes an id range that no other live box of this host has, for the box that lives in `boxDirectory`
 * (which must exist: a range whose box is gone counts as free). Throws E_NO_RANGE.
 *
 * The claim is a file made with O_EXCL whose content names the box.
 */
export async function allocateRange(paths: StatePaths, boxDirectory: string): Promise<IdRange> {
  const directory = rangeDirectory(paths);
  await mkdir(directory, { recursive: true, mode: 0o755 });
  const block = await idBlock();
  const total = Math.floor(block.count / RANGE_SIZE);
  const taken = new Set(await readdir(directory));
  for (let index = 1; index < total; index++) {
    const name = String(block.start + index * RANGE_SIZE);
    if (taken.has(name) && !(await reclaim(join(directory, name)))) continue;
    try {
      await using file = await open(join(directory, name), 'wx', 0o600);
      await file.writeFile(boxDirectory);
      return { base: Number(name), count: RANGE_SIZE };
    } catch (error) {
      if (!hasErrno(error, 'EEXIST')) throw error;
    }
  }
  throw new KilnError('E_NO_RANGE', `all ${total - 1} id ranges are taken by live boxes`, {
    hint: 'see `kiln ps`; `kiln gc` destroys what nobody owns any more',
  });
}

/** Frees a range whose maker died before its box existed, or whose box is gone. */
async function reclaim(file: string): Promise<boolean> {
  const owner = await readFile(file, 'utf8').catch(() => undefined);
  if (owner === undefined) return true;
  // An empty file is being written right now; give it time before calling it abandoned.
  const age = Date.now() - (await stat(file).catch(() => ({ mtimeMs: 0 }))).mtimeMs;
  if (owner === '' && age < 10_000) return false;
  if (owner !== '' && (await stat(owner).catch(() => undefined))) return false;
  await rm(file, { force: true });
  return true;
}

/** Gives a range back. Only when no process with its ids is left. */
export async function releaseRange(paths: StatePaths, range: IdRange): Promise<void> {
  await rm(join(rangeDirectory(paths), String(range.base)), { force: true });
}
