import { execFileSync, spawnSync } from 'node:child_process';
import { existsSync, readdirSync, readFileSync, rmdirSync, rmSync } from 'node:fs';
import { join } from 'node:path';

/** What the tests' files may take, and what must be free before that, bytes. They take 2 GiB, and sandboxes as much. */
const SIZE = 12 * 2 ** 30;
const FREE = 16 * 2 ** 30;

/** A mount's source: who has mounted it. */
const SOURCE = /^kiln-test-(\d+) (\S+) tmpfs /gm;

/** What a mount of this run's has as its source. */
export const memorySource = () => `kiln-test-${process.pid}`;

/**
 * Puts a new folder into memory where there is much of it: tests make and remove trees all the time, and on a disk a
 * tenth of the processors' time goes to its journal. Returns whether it did.
 */
export function mountMemory(folder: string): boolean {
  if (process.geteuid?.() !== 0) return false;
  unmountAbandoned();
  if (process.availableMemory() < FREE) return false;
  const options = `size=${SIZE},mode=711`;
  const mount = ['-t', 'tmpfs', '-o', options, memorySource(), folder];
  return spawnSync('mount', mount, { stdio: 'inherit' }).status === 0;
}

export function unmountMemory(folder: string): void {
  // Somebody else's libvirtd that was started meanwhile has the mount, too, in a table of its own: free the memory.
  const hasNoMounts = !readFileSync('/proc/mounts', 'utf8').includes(` ${folder}/`);
  for (const name of hasNoMounts ? readdirSync(folder) : []) {
    rmSync(join(folder, name), { recursive: true, force: true });
  }
  // Lazily: a daemon that ends later may have it open.
  execFileSync('umount', ['--lazy', folder]);
}

/** Of runs that were killed: their memory would be taken for as long as the machine runs. */
function unmountAbandoned(): void {
  for (const [, pid, folder = ''] of readFileSync('/proc/mounts', 'utf8').matchAll(SOURCE)) {
    if (existsSync(`/proc/${pid}`)) continue;
    unmountMemory(folder);
    rmdirSync(folder);
  }
}
