import { join } from 'node:path';
import { z } from 'zod';
import { digestOf } from '../result/digest.ts';
import type { StatePaths } from '../state/paths.ts';
import type { BuildInput } from './input.ts';
import type { BuildRequest } from './request.ts';
import { specOptions } from './rpmbuild.ts';
import { SmallCache } from './small-cache.ts';

const schema = z.array(z.string().max(65536)).max(100_000);

/** So many are kept; each has some hundred bytes. */
const KEPT = 4000;

/**
 * What a source package turned out to require the last time, so that its build can start in the
 * right image at once. It is a guess: what the package says in the box decides.
 */
export class KnownRequires {
  readonly #cache: SmallCache;
  /** Undefined for what is not known by a digest. */
  readonly #name: string | undefined;

  constructor(paths: StatePaths, input: BuildInput, request: BuildRequest, baseImage: string) {
    this.#cache = new SmallCache(join(paths.cache, 'requires'), KEPT);
    this.#name = input.digest && digestOf([input.digest, baseImage, specOptions(request)]);
  }

  async read(): Promise<string[] | undefined> {
    const text = this.#name && (await this.#cache.read(this.#name));
    if (!text) return undefined;
    try {
      return schema.parse(JSON.parse(text));
    } catch {
      return undefined;
    }
  }

  async keep(requires: readonly string[]): Promise<void> {
    if (this.#name !== undefined) await this.#cache.write(this.#name, JSON.stringify(requires));
  }
}
