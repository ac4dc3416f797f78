/** What `kiln apply` itself has changed in a folder, so that a later one does not take it for somebody else's change. */
import { type BigIntStats, readFileSync, renameSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { ByteString } from '../../artifacts/byte-string.ts';
import { attempt } from '../../host/calls/libc.ts';

export class Ours implements Disposable {
  readonly #file: string;
  readonly #target: string;
  #isChanged = false;
  readonly #all: Record<string, Record<ByteString, string>>;

  /** @param directory the sandbox's own, which goes with it; only root reaches it */
  constructor(directory: string, target: string) {
    this.#file = join(directory, 'applied.json');
    this.#target = target;
    // Without it, what was applied is a conflict the next time.
    this.#all = attempt(() => JSON.parse(readFileSync(this.#file, 'utf8'))) ?? {};
  }

  add(path: ByteString, stats: BigIntStats): void {
    this.#all[this.#target] ??= {};
    this.#all[this.#target]![path] = stateOf(stats);
    this.#isChanged = true;
  }

  has(path: ByteString, stats: BigIntStats): boolean {
    const known = this.#all[this.#target] ?? {};
    return Object.hasOwn(known, path) && known[path] === stateOf(stats);
  }

  forget(): void {
    delete this.#all[this.#target];
    this.#isChanged = true;
  }

  [Symbol.dispose](): void {
    if (!this.#isChanged) return;
    // The sandbox may have been killed meanwhile, and its folder with it.
    attempt(() => {
      writeFileSync(`${this.#file}.new`, JSON.stringify(this.#all), { mode: 0o600 });
      renameSync(`${this.#file}.new`, this.#file);
    });
  }
}

function stateOf({ ino, ctimeNs }: BigIntStats): string {
  return `${ino} ${ctimeNs}`;
}
