import { join } from 'node:path';
import { KilnError } from '../../errors.ts';
import type { LeasedImage } from '../../image/store/images.ts';
import { discard } from '../../image/store/work-directory.ts';
import type { NetworkPhase } from '../../options/build.ts';
import type { RepositorySet } from '../../packages/repository/open.ts';
import type { Bind } from '../../sandbox/policy/specification.ts';
import type { BuildRun } from './build-run.ts';
import { BuildSandbox } from './build-sandbox.ts';
import type { BuildBase } from './buildroot/base.ts';
import {
  buildRepositories,
  type Layer,
  NO_LAYER,
  openLayer,
  solveLayer,
} from './buildroot/layer.ts';
import { type BuildInput, dynamicRequires, inputFiles, knownRequires, makeSrpm } from './input.ts';
import { leaveSandbox } from './keep.ts';
import { networkIn } from './request.ts';

const MAX_ROUNDS = 20;

export interface PreparedBuild {
  readonly sandbox: BuildSandbox;
  readonly image: LeasedImage;
  readonly layer: Layer;
  readonly prepDone: boolean;
  readonly dynamic: boolean;
  readonly requires: readonly string[];
  close(failure?: unknown): Promise<void>;
}

interface PrepareOptions {
  readonly base: BuildBase;
  readonly input: BuildInput;
  readonly binds: readonly Bind[];
  readonly env: Readonly<Record<string, string>>;
  readonly topDirectory?: string | undefined;
  readonly layer?: Layer | undefined;
  readonly sourceOnly: boolean;
}

/**
 * Makes the source package in the base image, asks it for its requirements, and goes on in the image that has
 * them, until nothing new is required. After an earlier build of it, the first image is mostly the right one.
 * @throws KilnError E_BUILD_SRPM, E_BUILD_SPEC, E_BUILD_FAILED, E_BUILD_LOOP, and what solving and making images
 * throws
 */
export async function prepareBuild(run: BuildRun, options: PrepareOptions): Promise<PreparedBuild> {
  const rounds = new Rounds(run, options);
  try {
    return await rounds.settle();
  } catch (error) {
    await rounds.abandon(error);
    throw error;
  }
}

class Rounds {
  readonly #run: BuildRun;
  readonly #options: PrepareOptions;
  #sandbox: BuildSandbox | undefined;
  #image: LeasedImage | undefined;
  #layer = NO_LAYER;
  #repositories: RepositorySet | undefined;
  readonly #answers = new Map<string, Layer>();

  constructor(run: BuildRun, options: PrepareOptions) {
    this.#run = run;
    this.#options = options;
  }

  async settle(): Promise<PreparedBuild> {
    const { engine, request } = this.#run;
    const { base, input } = this.#options;
    const kept = knownRequires(engine.paths, input, request, base.image.manifest.id);
    const known = this.#options.sourceOnly ? undefined : await kept.read();
    await this.#enter(await this.#firstLayer(known), 'buildrequires');
    await input.name;
    const seen = new Set<string>();
    for (let round = 0; round < MAX_ROUNDS; round++) {
      const asked = await makeSrpm(this.#run, this.#opened());
      const { dynamic } = asked;
      if (this.#options.sourceOnly)
        return this.#prepared(asked.requires, { dynamic, prepDone: false });
      for (const name of asked.requires) seen.add(name);
      let next = await this.#solved([...seen]);
      if (dynamic && this.#hasAll(next)) {
        for (const name of await dynamicRequires(this.#run, this.#opened())) seen.add(name);
        next = await this.#solved([...seen]);
      }
      if (this.#isHere(next)) {
        await kept.keep([...seen]);
        if (this.#sameNetwork()) {
          return this.#prepared([...seen], { dynamic, prepDone: dynamic });
        }
        await this.#enter(next, 'build');
        await makeSrpm(this.#run, this.#opened());
        return this.#prepared([...seen], { dynamic, prepDone: false });
      }
      await this.#enter(next, 'buildrequires');
    }
    const what = `%generate_buildrequires still asks for more packages after ${MAX_ROUNDS} rounds`;
    throw new KilnError('E_BUILD_LOOP', what, { hint: 'build.log shows what it asks for' });
  }

  async abandon(failure?: unknown): Promise<void> {
    if (this.#sandbox !== undefined) await leaveSandbox(this.#run, this.#sandbox, failure);
    await this.#image?.[Symbol.asyncDispose]();
  }

  async #firstLayer(known: readonly string[] | undefined): Promise<Layer> {
    if (this.#options.layer !== undefined) return this.#options.layer;
    const additional = this.#run.request.packages ?? [];
    if (this.#options.sourceOnly || (known === undefined && additional.length === 0)) {
      return this.#layer;
    }
    // A guess that cannot be solved any more is no failure.
    const guess = known && (await this.#solved(known).catch(() => undefined));
    return guess ?? (await this.#solved([]));
  }

  async #solved(requires: readonly string[]): Promise<Layer> {
    if (this.#options.layer !== undefined) return this.#options.layer;
    const additionalPackages = this.#run.request.packages ?? [];
    const wanted = [...requires].sort();
    const key = JSON.stringify(wanted);
    const before = this.#answers.get(key);
    if (before !== undefined) return before;
    const layer =
      wanted.length + additionalPackages.length === 0
        ? NO_LAYER
        : await this.#run.phase('dependencies', async () => {
            const context = this.#context();
            this.#repositories ??= await buildRepositories(context, this.#run.request);
            return await solveLayer(this.#repositories, context, {
              requires: wanted,
              additionalPackages,
            });
          });
    this.#answers.set(key, layer);
    return layer;
  }

  #context() {
    const { engine, request, onProgress, signal } = this.#run;
    const offline = request.offline === true;
    return { engine, base: this.#options.base, offline, onProgress, signal };
  }

  #sameNetwork(): boolean {
    const { networkPhases = [] } = this.#run.request;
    return networkPhases.includes('buildrequires') === networkPhases.includes('build');
  }

  #isHere(layer: Layer): boolean {
    return JSON.stringify(digests(layer)) === JSON.stringify(digests(this.#layer));
  }

  #hasAll(layer: Layer): boolean {
    const here = new Set(this.#layer.lock?.packages.map(({ digest }) => digest));
    const wanted = layer.lock?.packages ?? [];
    return layer.whole === this.#layer.whole && wanted.every(({ digest }) => here.has(digest));
  }

  async #enter(layer: Layer, phase: NetworkPhase): Promise<void> {
    await this.abandon();
    this.#sandbox = undefined;
    const run = this.#run;
    for (const message of layer.warnings) run.warn({ code: 'solver', message });
    const { scratch } = run.request;
    if (scratch?.fresh === true) {
      for (const name of ['upper', 'work']) {
        await discard(run.engine.paths, join(scratch.path, name));
      }
    }
    const image = await run.phase('image', async () => {
      const { manifest } = this.#options.base.image;
      const { packages } = this.#options.base;
      run.say(`image ${manifest.name} (${manifest.id.slice(0, 12)}): ${packages.length} packages`);
      // Packages of a layer that exists already are told as well: the build has them.
      for (const { nevra, repository } of layer.lock?.packages ?? []) {
        run.say(`installing ${nevra} (${repository})`);
      }
      return await openLayer(this.#context(), layer);
    });
    this.#image = image;
    this.#layer = layer;
    this.#sandbox = await run.phase('sandbox', async () => {
      const { binds, env, topDirectory } = this.#options;
      const { engine, request } = run;
      const sandbox = await BuildSandbox.open({
        engine,
        request,
        image,
        network: networkIn(request, phase),
        egress: run.egress(phase),
        binds,
        env,
        topDirectory,
        signal: run.signal,
        samples: run.timeline.samples,
      });
      try {
        const files = inputFiles(request, sandbox.topDirectory);
        await sandbox.sandbox.copyIn(files, run.warn, run.signal);
      } catch (error) {
        await sandbox.close();
        throw error;
      }
      return sandbox;
    });
  }

  #opened(): BuildSandbox {
    if (this.#sandbox === undefined) throw new TypeError('no sandbox is open');
    return this.#sandbox;
  }

  #prepared(
    requires: readonly string[],
    start: Pick<PreparedBuild, 'dynamic' | 'prepDone'>,
  ): PreparedBuild {
    return {
      ...{ sandbox: this.#opened(), image: this.#image!, layer: this.#layer, requires, ...start },
      close: (failure) => this.abandon(failure),
    };
  }
}

function digests({ lock, whole }: Layer) {
  return [whole, lock?.packages.map(({ digest }) => digest) ?? []];
}
