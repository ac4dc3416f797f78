import { randomUUID } from 'node:crypto';
import { mkdir, readdir, readFile, rename, rm, stat, utimes, writeFile } from 'node:fs/promises';
import { join } from 'node:path';

/**
 * Small texts that are quicker to read than to find out, in files of one folder. Nothing depends on
 * them: what cannot be read is found out again, what cannot be written is not kept.
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
      const text = await readFile(path, 'utf8');
      const now = new Date();
      await utimes(path, now, now);
      return text;
    } catch {
      return undefined;
    }
  }

  async write(name: string, text: string): Promise<void> {
    const path = join(this.#directory, name);
    const temporary = `${path}.${randomUUID()}.tmp`;
    try {
      await mkdir(this.#directory, { recursive: true, mode: 0o700 });
      await writeFile(temporary, text);
      await rename(temporary, path);
      await this.#prune();
    } catch {
      await rm(temporary, { force: true }).catch(() => undefined);
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
    // Half of them: not each new one is to read the whole folder.
    const gone = dated.slice(0, names.length - Math.floor(this.#kept / 2));
    for (const { path } of gone) await rm(path, { force: true });
  }
}
