import { join } from 'node:path';
import type { StatePaths } from '../../../host/state/paths.ts';
import { SmallCache } from '../../../host/state/small-cache.ts';
import { digestOf } from '../../../result/digest.ts';
import type { BuildInput } from '../input.ts';
import type { BuildRequest } from '../request.ts';
import { specOptions } from '../rpmbuild.ts';

/** So many are kept; each has some hundred bytes. */
const KEPT = 4000;

/**
 * What a source package turned out to require the last time, so that its build can start in the
 * right image at once. It is a guess: what the package says in the sandbox decides.
 */
export class KnownRequires {
  readonly #cache: SmallCache;
  readonly #name: string;
  #known: string | undefined;

  constructor(paths: StatePaths, input: BuildInput, request: BuildRequest, baseImage: string) {
    this.#cache = new SmallCache(join(paths.cache, 'requires'), KEPT);
    this.#name = digestOf([input.digest, baseImage, specOptions(request)]);
  }

  async read(): Promise<string[] | undefined> {
    const text = await this.#cache.read(this.#name);
    if (!text) return undefined;
    this.#known = text;
    try {
      const requires: unknown = JSON.parse(text);
      const whole = Array.isArray(requires) && requires.every((line) => typeof line === 'string');
      return whole ? requires : undefined;
    } catch {
      return undefined;
    }
  }

  async keep(requires: readonly string[]): Promise<void> {
    const text = JSON.stringify(requires);
    if (text !== this.#known) await this.#cache.write(this.#name, text);
  }
}
