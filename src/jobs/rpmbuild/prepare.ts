import { join } from 'node:path';
import { KilnError } from '../../errors.ts';
import type { LeasedImage } from '../../image/store/images.ts';
import { discard } from '../../image/store/work-directory.ts';
import type { RepositorySet } from '../../packages/repository/open.ts';
import type { Bind } from '../../sandbox/policy/specification.ts';
import type { BuildRun } from './build-run.ts';
import { BuildSandbox } from './build-sandbox.ts';
import type { BuildBase } from './buildroot/base.ts';
import { KnownRequires } from './buildroot/known-requires.ts';
import { buildRepositories, type Layer, openLayer, solveLayer } from './buildroot/layer.ts';
import { type BuildInput, inputFiles } from './input.ts';
import { leaveSandbox } from './keep.ts';
import { egressIn, type NetworkPhase, networkIn } from './request.ts';
import { dynamicRequires, makeSrpm } from './srpm.ts';

/** Rounds of installing what was asked for and asking again; more never come to rest. */
const MAX_ROUNDS = 20;

/** A sandbox with the source package made in it, in the image that has everything it requires. */
export interface PreparedBuild {
  readonly sandbox: BuildSandbox;
  readonly image: LeasedImage;
  readonly layer: Layer;
  /** %prep has run in the sandbox, for the dynamic requirements' sake. */
  readonly prepDone: boolean;
  /** What the spec requires, statically and dynamically. */
  readonly requires: readonly string[];
  /** Ends the use of the image, and the sandbox; after a failure in the sandbox it may be kept. */
  close(failure?: unknown): Promise<void>;
}

/** How sandboxes are opened. */
export interface PrepareOptions {
  readonly base: BuildBase;
  readonly input: BuildInput;
  readonly binds: readonly Bind[];
  readonly env: Readonly<Record<string, string>>;
  readonly topDirectory?: string | undefined;
  /** Nothing is solved: this is what comes on top. */
  readonly layer?: Layer | undefined;
  /** End with the source package made in the base. */
  readonly sourceOnly: boolean;
}

/**
 * Makes the source package in the base image, asks it what it requires, and goes on in the image
 * that has that, until nothing new is asked for. Where the answer is known from an earlier build,
 * the first image is the right one.
 * @throws KilnError E_BUILD_SRPM, E_BUILD_SPEC, E_BUILD_FAILED, E_BUILD_LOOP, and what solving and
 * making images throws.
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
  #layer: Layer = { lock: null, whole: false, warnings: [] };
  #repositories: RepositorySet | undefined;
  readonly #answers = new Map<string, Layer>();

  constructor(run: BuildRun, options: PrepareOptions) {
    this.#run = run;
    this.#options = options;
  }

  async settle(): Promise<PreparedBuild> {
    const { engine, request } = this.#run;
    const { base, input } = this.#options;
    const kept = new KnownRequires(engine.paths, input, request, base.image.manifest.id);
    const known = this.#options.sourceOnly ? undefined : await kept.read();
    await this.#enter(await this.#firstLayer(known), 'buildrequires');
    await input.name;
    const seen = new Set<string>();
    for (let round = 0; round < MAX_ROUNDS; round++) {
      const asked = await makeSrpm(this.#run, this.#opened());
      if (this.#options.sourceOnly) return this.#prepared(asked.requires, false);
      for (const name of asked.requires) seen.add(name);
      let next = await this.#solved([...seen]);
      if (asked.dynamic && this.#hasAll(next)) {
        const dynamic = await dynamicRequires(this.#run, this.#opened());
        for (const name of dynamic) seen.add(name);
        next = await this.#solved([...seen]);
      }
      if (this.#isHere(next)) {
        await kept.keep([...seen]);
        if (this.#sameNetwork()) return this.#prepared([...seen], asked.dynamic);
        await this.#enter(next, 'build');
        await makeSrpm(this.#run, this.#opened());
        return this.#prepared([...seen], false);
      }
      await this.#enter(next, 'buildrequires');
    }
    throw new KilnError(
      'E_BUILD_LOOP',
      `%generate_buildrequires still asks for more packages after ${MAX_ROUNDS} rounds`,
      {
        hint: 'build.log shows what it asks for',
      },
    );
  }

  /** Ends the sandbox there is; after a failure in it, it may be kept. */
  async abandon(failure?: unknown): Promise<void> {
    if (this.#sandbox !== undefined) await leaveSandbox(this.#run, this.#sandbox, failure);
    await this.#image?.[Symbol.asyncDispose]();
  }

  async #firstLayer(known: readonly string[] | undefined): Promise<Layer> {
    if (this.#options.layer !== undefined) return this.#options.layer;
    const additional = this.#run.request.additionalPackages ?? [];
    if (this.#options.sourceOnly || (known === undefined && additional.length === 0)) {
      return this.#layer;
    }
    // A guess that cannot be had any more is no failure.
    const guess = known && (await this.#solved(known).catch(() => undefined));
    return guess ?? (await this.#solved([]));
  }

  async #solved(requires: readonly string[]): Promise<Layer> {
    if (this.#options.layer !== undefined) return this.#options.layer;
    const additionalPackages = this.#run.request.additionalPackages ?? [];
    const wanted = [...requires].sort();
    const key = JSON.stringify(wanted);
    const before = this.#answers.get(key);
    if (before !== undefined) return before;
    const layer =
      wanted.length + additionalPackages.length === 0
        ? { lock: null, whole: false, warnings: [] }
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

  /** Whether the sandbox is closed as it is to be for the build itself. */
  #sameNetwork(): boolean {
    const { request } = this.#run;
    const inPhase = (phase: NetworkPhase) => [networkIn(request, phase), egressIn(request, phase)];
    const [before, after] = [inPhase('buildrequires'), inPhase('build')];
    return before.every((part, index) => part === after[index]);
  }

  #isHere(layer: Layer): boolean {
    return JSON.stringify(digests(layer)) === JSON.stringify(digests(this.#layer));
  }

  /** Whether the sandbox has what `layer` has; it may have more, if it was guessed. */
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
      // Said of what is there already, too: it is what the build has.
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
        await sandbox.sandbox.copyIn(
          inputFiles(request, sandbox.topDirectory),
          run.warn,
          run.signal,
        );
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

  #prepared(requires: readonly string[], prepDone: boolean): PreparedBuild {
    const sandbox = this.#opened();
    const image = this.#image!;
    return {
      sandbox,
      image,
      layer: this.#layer,
      prepDone,
      requires,
      close: async (failure) => {
        await leaveSandbox(this.#run, sandbox, failure);
        await image[Symbol.asyncDispose]();
      },
    };
  }
}

function digests({ lock, whole }: Layer) {
  return [whole, lock?.packages.map(({ digest }) => digest) ?? []];
}
