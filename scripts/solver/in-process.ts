/**
 * kiln's solver in this process: its tasks as confined children run them, without the children, since a
 * thousand questions would start five thousand. Descriptors and memory are given back when it ends.
 */
import { createHash } from 'node:crypto';
import { openSync } from 'node:fs';
import { mkdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { SingleTask } from '../../src/host/confine/task.ts';
import { task as modulesTask } from '../../src/packages/repository/metadata/modules-task.ts';
import type { Group, MetadataFile } from '../../src/packages/repository/metadata/read-index.ts';
import { task as convertTask } from '../../src/packages/solver/convert-task.ts';
import { expandGroups } from '../../src/packages/solver/solve-anew.ts';
import type { SolveInput } from '../../src/packages/solver/solve-input.ts';
import {
  type SolveOutput,
  solverError,
  takeSolveOutput,
} from '../../src/packages/solver/solve-output.ts';
import { task as solveTask } from '../../src/packages/solver/solve-task.ts';
import type { DnfAnswer, DnfQuestion, DnfRepository } from '../../test/solver/dnf.ts';

/** A repository of a question, converted. */
interface Converted {
  readonly options: DnfRepository;
  readonly groups: readonly Group[];
  readonly primary: string;
  readonly filelists: string;
  /** Undefined where it has no modules. */
  readonly modules: string | undefined;
}

/** Answers questions; what it converts is kept in memory by folder. */
export class SolverInProcess {
  readonly #work: string;
  readonly #converted = new Map<string, Promise<Converted>>();

  /** @param work a folder for converted metadata */
  constructor(work: string) {
    this.#work = work;
  }

  /** @throws KilnError E_SOLVER_… where there is no solution */
  async ask(question: DnfQuestion): Promise<DnfAnswer> {
    const repositories = await Promise.all(
      question.directories.map((entry) =>
        this.#convert(typeof entry === 'string' ? { directory: entry } : entry),
      ),
    );
    const answer = await solveOnce(question, repositories, false);
    const final =
      answer.kind === 'incomplete' ? await solveOnce(question, repositories, true) : answer;
    if (final.kind !== 'solved') throw solverError(final);
    return { packages: final.packages.map(({ nevra }) => nevra).sort() };
  }

  #convert(options: DnfRepository): Promise<Converted> {
    const { directory } = options;
    const known = this.#converted.get(directory) ?? convert(this.#work, options);
    this.#converted.set(directory, known);
    return known;
  }
}

/** The last conversion that was begun. */
let converting: Promise<unknown> = Promise.resolve();

/** One after the other: each blocks a thread of Node's pool until other threads have fed it. */
function convertNext(task: SingleTask, input: object, fds: readonly number[]): Promise<unknown> {
  const next = converting.then(() => runTask(task, input, fds));
  converting = next.catch(() => undefined);
  return next;
}

async function convert(work: string, options: DnfRepository): Promise<Converted> {
  const { directory } = options;
  const name = directory.replaceAll('/', '_');
  await mkdir(work, { recursive: true });
  const path = (suffix: string) => join(work, `${name}.${suffix}`);
  const metadata = (type: string) => metadataFile(directory, type);
  const [primary, filelists, group, modules] = await Promise.all(
    ['primary', 'filelists', 'group', 'modules'].map(metadata),
  );
  const run = async (input: object, output: string, sources: readonly string[]) => {
    const fds = [openSync(output, 'w+'), ...sources.map((source) => openSync(source, 'r'))];
    return await convertNext('kind' in input ? convertTask : modulesTask, input, fds);
  };
  const file = ({ location }: MetadataFile) => join(directory, location);
  const groups = await run(
    { kind: 'primary', file: primary, ...(group === undefined ? {} : { group }) },
    path('solv'),
    [file(primary!), ...(group === undefined ? [] : [file(group)])],
  );
  const input = { kind: 'filelists', file: filelists };
  await run(input, path('solvx'), [file(filelists!), path('solv')]);
  if (modules !== undefined) await run({ file: modules }, path('modules'), [file(modules)]);
  return {
    options,
    groups: groups as Group[],
    primary: path('solv'),
    filelists: path('solvx'),
    modules: modules === undefined ? undefined : path('modules'),
  };
}

/** What {@link writeRepository} wrote; undefined where there is no such file. */
async function metadataFile(directory: string, type: string): Promise<MetadataFile | undefined> {
  const location = `repodata/${type}.${type === 'modules' ? 'yaml' : 'xml'}`;
  const content = await readFile(join(directory, location)).catch(() => undefined);
  if (content === undefined) return undefined;
  const digest = `sha256:${createHash('sha256').update(content).digest('hex')}`;
  return { type, location, compression: 'none', digest, size: content.length };
}

async function solveOnce(
  question: DnfQuestion,
  repositories: readonly Converted[],
  complete: boolean,
): Promise<SolveOutput> {
  const groups = question.install.filter((spec) => spec.startsWith('@'));
  const expanded = expandGroups(
    repositories.flatMap((one) => one.groups),
    groups.map((spec) => spec.slice(1)),
  );
  const input: SolveInput = {
    ...{ arch: 'x86_64', multilib: false, complete, requires: [], keep: [] },
    repositories: repositories.map(({ options, modules }, index) => ({
      id: `r${index}`,
      priority: options.priority ?? 99,
      cost: options.cost ?? 1000,
      excludepkgs: [...(options.excludepkgs ?? [])],
      includepkgs: [...(options.includepkgs ?? [])],
      filelists: complete,
      modules: modules !== undefined,
      moduleHotfixes: options.module_hotfixes ?? false,
    })),
    install: question.install.filter((spec) => !spec.startsWith('@')),
    ...expanded,
    exclude: [...(question.exclude ?? [])],
    modules: {
      ...{ install: [], obsoletes: false },
      enable: [...(question.enable ?? [])],
      disable: [...(question.disable ?? [])],
      ...(question.platform === undefined ? {} : { platform: question.platform }),
    },
    recommends: question.weak ?? false,
  };
  const paths = repositories.flatMap((one) => [
    one.primary,
    ...(complete ? [one.filelists] : []),
    ...(one.modules === undefined ? [] : [one.modules]),
  ]);
  const fds = paths.map((path) => openSync(path, 'r'));
  return takeSolveOutput(await runTask(solveTask, input, fds));
}

async function runTask(task: SingleTask, input: object, fds: readonly number[]): Promise<unknown> {
  let said: unknown;
  await task.prepare?.();
  const emit = (value: unknown) => {
    said = value;
  };
  await task.run(input, { fds, emit });
  return said;
}
