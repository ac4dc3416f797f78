import { mkdir, readdir, stat, utimes } from 'node:fs/promises';
import { join } from 'node:path';
import { removeTree } from '../files/remove-tree.ts';
import { readCached, writeSealed } from './checked-file.ts';

/**
 * Small texts that are quicker to read than to compute, in files of one folder. Nothing depends on them: a text
 * that cannot be read is computed again, and one that cannot be written is not kept.
 */
export class SmallCache {
  readonly #directory: string;
  readonly #kept: number;

  /** @param kept how many files are kept; those that were used longest ago go */
  constructor(directory: string, kept: number) {
    this.#directory = directory;
    this.#kept = kept;
  }

  async read(name: string): Promise<string | undefined> {
    const path = join(this.#directory, name);
    try {
      const found = readCached(path);
      if (found === undefined) return undefined;
      const now = new Date();
      await utimes(path, now, now);
      return found.toString('utf8');
    } catch {
      return undefined;
    }
  }

  async write(name: string, text: string): Promise<void> {
    const path = join(this.#directory, name);
    try {
      await mkdir(this.#directory, { recursive: true, mode: 0o700 });
      writeSealed(path, text);
      await this.#prune();
    } catch {
      // The text is computed again.
    }
  }

  async #prune(): Promise<void> {
    const names = await readdir(this.#directory);
    if (names.length <= this.#kept) return;
    const dated = await Promise.all(
      names.map(async (name) => {
        const path = join(this.#directory, name);
        return { path, used: (await stat(path).catch(() => undefined))?.mtimeMs ?? 0 };
      }),
    );
    dated.sort((a, b) => a.used - b.used);
    // Deletes half of them, so that the folder is not read for each new text.
    const gone = dated.slice(0, names.length - Math.floor(this.#kept / 2));
    for (const { path } of gone) await removeTree(path);
  }
}
