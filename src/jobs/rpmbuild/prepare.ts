import { join } from 'node:path';
import { counted } from '../../counted.ts';
import { KilnError } from '../../errors.ts';
import type { LeasedImage } from '../../image/store/images.ts';
import { discard } from '../../image/store/work-directory.ts';
import type { NetworkPhase } from '../../options/build.ts';
import type { RepositorySet } from '../../packages/repository/open.ts';
import type { Bind } from '../../sandbox/policy/specification.ts';
import type { BuildJob } from './build-job.ts';
import { BuildSandbox } from './build-sandbox.ts';
import type { BuildBase } from './buildroot/base.ts';
import {
  buildRepositories,
  type Layer,
  NO_LAYER,
  openLayer,
  solveLayer,
} from './buildroot/layer.ts';
import type { BuildStart } from './commands.ts';
import { type BuildInput, dynamicRequires, inputFiles, knownRequires, makeSrpm } from './input.ts';
import { inBuildSandbox } from './keep.ts';
import type { Steps } from './outcome/report.ts';
import type { BuildRequest } from './request.ts';

const MAX_ROUNDS = 20;

/** An image, and a sandbox on it that has the source of a build. */
interface Opened {
  readonly sandbox: BuildSandbox;
  readonly image: LeasedImage;
  readonly layer: Layer;
}

export interface PreparedBuild extends Opened, BuildStart {
  readonly requires: readonly string[];
}

interface PrepareOptions {
  readonly base: BuildBase;
  readonly input: BuildInput;
  readonly binds: readonly Bind[];
  readonly env: Readonly<Record<string, string>>;
  readonly topDirectory?: string | undefined;
  /** Solved already. */
  readonly layer?: Layer | undefined;
  readonly sourceOnly: boolean;
}

/**
 * Makes the source package in the base image, asks it for its requirements, and goes on in the image that has
 * them, until nothing new is required. After an earlier build of it, the first image is mostly the right one.
 * @param use what is done in the last sandbox
 * @throws KilnError E_BUILD_SRPM, E_BUILD_SPEC, E_BUILD_FAILED, E_BUILD_LOOP, and what solving and making images
 * throws
 */
export async function* prepareBuild<Value>(
  job: BuildJob,
  options: PrepareOptions,
  use: (prepared: PreparedBuild) => Steps<Value>,
): Steps<Value> {
  const { engine, request } = job;
  const { base, input, sourceOnly } = options;
  const solved = layerSolver(job, options);
  const kept = knownRequires(engine.paths, input, request, base.image.manifest.id);
  const seen = new Set<string>();
  let isSettled = false;
  let layer = sourceOnly
    ? (options.layer ?? NO_LAYER)
    : await firstLayer(job, solved, await kept.read());
  const round = async function* (opened: Opened): Steps<{ value: Value } | { next: Layer }> {
    const { requires, dynamic, nvr } = await makeSrpm(job, opened.sandbox);
    yield { nvr };
    const prepared = (prepDone: boolean) => ({ ...opened, requires: [...seen], dynamic, prepDone });
    if (isSettled) return { value: yield* use(prepared(false)) };
    for (const name of requires) seen.add(name);
    if (sourceOnly) return { value: yield* use(prepared(false)) };
    let next = await solved([...seen]);
    if (dynamic && hasAll(opened.layer, next)) {
      for (const name of await dynamicRequires(job, opened.sandbox)) seen.add(name);
      next = await solved([...seen]);
    }
    if (isSame(opened.layer, next)) {
      await kept.keep([...seen]);
      isSettled = true;
      if (isSameNetwork(request)) return { value: yield* use(prepared(dynamic)) };
    }
    return { next };
  };
  for (let rounds = 0; rounds < MAX_ROUNDS; rounds++) {
    const end = yield* enter(job, options, layer, isSettled ? 'build' : 'buildrequires', round);
    if ('value' in end) return end.value;
    layer = end.next;
  }
  const what = `%generate_buildrequires still asks for more packages after ${MAX_ROUNDS} rounds`;
  throw new KilnError('E_BUILD_LOOP', what, { hint: 'build.log shows what it asks for' });
}

type Solve = (requires: readonly string[]) => Promise<Layer>;

/** Solves each list of requirements once, unless there is a layer already. */
function layerSolver(job: BuildJob, options: PrepareOptions): Solve {
  const { request } = job;
  const { packages: additionalPackages = [] } = request;
  const context = contextOf(job, options);
  const answers = new Map<string, Layer>();
  let repositories: RepositorySet | undefined;
  return async (wanted) => {
    const requires = [...wanted].sort();
    const key = JSON.stringify(requires);
    const known = options.layer ?? answers.get(key);
    if (known !== undefined) return known;
    const isEmpty = requires.length + additionalPackages.length === 0;
    const solve = async () => {
      repositories ??= await buildRepositories(context, request);
      return await solveLayer(repositories, context, { requires, additionalPackages });
    };
    const layer = isEmpty ? NO_LAYER : await job.phase('dependencies', solve);
    answers.set(key, layer);
    return layer;
  };
}

async function firstLayer(
  { timeline }: BuildJob,
  solved: Solve,
  known: readonly string[] | undefined,
): Promise<Layer> {
  if (known === undefined) return await solved([]);
  return await solved(known).catch(async () => {
    // A guess that cannot be solved any more is no failure.
    timeline.failed = undefined;
    return await solved([]);
  });
}

function contextOf({ engine, request, onProgress, signal }: BuildJob, { base }: PrepareOptions) {
  return { engine, base, offline: request.offline === true, onProgress, signal };
}

function isSameNetwork({ networkPhases = [] }: BuildRequest): boolean {
  return networkPhases.includes('buildrequires') === networkPhases.includes('build');
}

function isSame(a: Layer, b: Layer): boolean {
  return a.whole === b.whole && digests(a).join() === digests(b).join();
}

function hasAll(layer: Layer, wanted: Layer): boolean {
  const here = new Set(digests(layer));
  return layer.whole === wanted.whole && digests(wanted).every((digest) => here.has(digest));
}

function digests({ lock }: Layer): string[] {
  return lock?.packages.map(({ digest }) => digest) ?? [];
}

async function* enter<Value>(
  job: BuildJob,
  options: PrepareOptions,
  layer: Layer,
  phase: NetworkPhase,
  steps: (opened: Opened) => Steps<Value>,
): Steps<Value> {
  const { engine, request, timeline } = job;
  for (const message of layer.warnings) job.warn({ code: 'solver', message });
  const { scratch } = request;
  for (const name of scratch?.fresh === true ? ['upper', 'work'] : []) {
    await discard(engine.paths, join(scratch!.path, name));
  }
  await using image = await job.phase('image', async () => {
    const { image, packages } = options.base;
    const { name, id } = image.manifest;
    job.say(`image ${name} (${id.slice(0, 12)}): ${counted(packages.length, 'package')}`);
    // Packages of a layer that exists already are told as well: the build has them.
    for (const { nevra, repository } of layer.lock?.packages ?? []) {
      job.say(`installing ${nevra} (${repository})`);
    }
    return await openLayer(contextOf(job, options), layer);
  });
  const { binds, env, topDirectory } = options;
  const { name, digest: sourceDigest } = options.input;
  const wanted = { ...job.opening(phase), image, binds, env, topDirectory };
  const opening = {
    open: () => BuildSandbox.open({ ...wanted, samples: timeline.samples }),
    copyIn: inputFiles(request, topDirectory),
  };
  return yield* inBuildSandbox(job, { name, sourceDigest }, opening, (sandbox) =>
    steps({ sandbox, image, layer }),
  );
}
