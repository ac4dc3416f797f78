/** Asks kiln and dnf the same random questions, and tells where they differ. */
import { mkdir, mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { KilnError } from '../../src/errors.ts';
import { openRepositories } from '../../src/packages/repository/open.ts';
import { solve } from '../../src/packages/solver/solve.ts';
import { repository } from '../../test/repository/open.ts';
import {
  askDnfWhy,
  type DnfAnswer,
  type DnfQuestion,
  type DnfRepository,
} from '../../test/solver/dnf.ts';
import { explain } from './explain.ts';
import { SolverInProcess } from './in-process.ts';
import { writeRepository } from './metadata.ts';
import { makeWorld, PLATFORM, type World, type WorldQuestion } from './world.ts';

/** Worlds whose questions one process of dnf's answers. */
const WORLDS_AT_ONCE = 20;

export interface CampaignOptions {
  /** The seed of the first world; the next has the next number. */
  readonly first: number;
  /** Questions in all. */
  readonly count: number;
  /** Questions to each world. */
  readonly each?: number;
  /** Ask kiln as recipes ask it, in confined children: a hundred times as slow. */
  readonly confined: boolean;
  readonly say: (line: string) => void;
}

export interface Difference {
  readonly seed: number;
  /** Its number in the world, from 0. */
  readonly number: number;
  readonly question: WorldQuestion;
  readonly kiln: DnfAnswer;
  readonly dnf: DnfAnswer;
}

export interface CampaignReport {
  readonly asked: number;
  /** Questions that dnf found packages for. */
  readonly solved: number;
  /** How often each of the known differences was met. */
  readonly explained: ReadonlyMap<string, number>;
  readonly unexplained: readonly Difference[];
}

/** Runs the campaign; what it makes is deleted. */
export async function campaign(options: CampaignOptions): Promise<CampaignReport> {
  const each = options.each ?? 3;
  const explained = new Map<string, number>();
  const unexplained: Difference[] = [];
  let solved = 0;
  let asked = 0;
  for (let seed = options.first; asked < options.count; ) {
    const worlds: World[] = [];
    for (let left = options.count - asked; left > 0 && worlds.length < WORLDS_AT_ONCE; seed++) {
      worlds.push(makeWorld(seed, Math.min(each, left)));
      left -= each;
    }
    for (const outcome of await askBoth(worlds, options.confined)) {
      asked++;
      if (outcome.dnf.packages !== undefined) solved++;
      if (same(outcome)) continue;
      const why = explain(outcome);
      if (why === undefined) unexplained.push(outcome);
      else explained.set(why, (explained.get(why) ?? 0) + 1);
    }
    options.say(`${asked} questions asked, ${unexplained.length} unexplained differences`);
  }
  return { asked, solved, explained, unexplained };
}

function same({ kiln, dnf }: Difference): boolean {
  if (kiln.packages === undefined || dnf.packages === undefined)
    return kiln.packages === dnf.packages;
  return kiln.packages.join() === dnf.packages.join();
}

async function askBoth(worlds: readonly World[], confined: boolean): Promise<Difference[]> {
  const work = await mkdtemp(join(tmpdir(), 'kiln-campaign-'));
  try {
    const questions: DnfQuestion[] = [];
    for (const world of worlds) questions.push(...(await writeWorld(work, world)));
    const dnf = await askDnfWhy(
      questions.map((question) => ({
        ...question,
        install: question.install.filter((spec) => !spec.startsWith('@')),
      })),
    );
    const inProcess = new SolverInProcess(join(work, 'solv'));
    const ask = (question: DnfQuestion) =>
      confined ? solveConfined(join(work, 'cache'), question) : inProcess.ask(question);
    const outcomes: Difference[] = [];
    for (const world of worlds) {
      for (const [number, question] of world.questions.entries()) {
        const at = outcomes.length;
        const kiln = await answerOf(() => ask(questions[at]!));
        outcomes.push({ seed: world.seed, number, question, kiln, dnf: dnf[at]! });
      }
    }
    return outcomes;
  } finally {
    await rm(work, { recursive: true, force: true });
  }
}

/** Writes a world's repositories below `work`. @returns its questions. */
async function writeWorld(work: string, world: World): Promise<DnfQuestion[]> {
  const directories: DnfRepository[] = [];
  for (const [index, one] of world.repositories.entries()) {
    const directory = join(work, `${world.seed}-${index}`);
    await mkdir(directory, { recursive: true });
    await writeRepository(directory, one);
    const { priority, cost, excludepkgs, includepkgs, moduleHotfixes } = one;
    directories.push({
      ...{ directory, priority, cost, excludepkgs, includepkgs },
      module_hotfixes: moduleHotfixes,
    });
  }
  const groups = world.repositories.flatMap((one) => one.groups);
  return world.questions.map((question) => {
    const asked = groups.filter(({ id }) => question.install.includes(`@${id}`));
    const members = asked
      .flatMap((group) => group.members)
      .filter(({ type }) => type !== 'optional')
      .map(({ name, requires }) => ({ name, ...(requires === undefined ? {} : { requires }) }));
    return { ...question, directories, members, platform: PLATFORM };
  });
}

/** What kiln says: packages, or why there is no solution. */
async function answerOf(ask: () => Promise<DnfAnswer>): Promise<DnfAnswer> {
  try {
    return await ask();
  } catch (error) {
    if (!(error instanceof KilnError) || !error.code.startsWith('E_SOLVER_')) throw error;
    return { error: `${error.code} ${error.message}` };
  }
}

/** Asks as a recipe would, with all that lies between. */
async function solveConfined(cache: string, question: DnfQuestion): Promise<DnfAnswer> {
  const repositories = question.directories.map((entry, index) => {
    const options: DnfRepository = typeof entry === 'string' ? { directory: entry } : entry;
    const { excludepkgs = [], includepkgs = [], ...rest } = options;
    return repository({
      id: `r${index}`,
      ...rest,
      ...(excludepkgs.length > 0 ? { excludepkgs: [...excludepkgs] } : {}),
      ...(includepkgs.length > 0 ? { includepkgs: [...includepkgs] } : {}),
    });
  });
  const set = await openRepositories(repositories, { paths: { cache } });
  const { lock } = await solve(set, {
    arch: 'x86_64',
    install: question.install,
    exclude: question.exclude,
    recommends: question.weak,
    modules: {
      enable: [...(question.enable ?? [])],
      disable: [...(question.disable ?? [])],
      platform: question.platform,
    },
  });
  return { packages: lock.packages.map(({ nevra }) => nevra).sort() };
}

/** A report for people. */
export function describeCampaign({
  asked,
  solved,
  explained,
  unexplained,
}: CampaignReport): string {
  const lines = [`${asked} questions, of which dnf solved ${solved}`];
  for (const [why, count] of explained) lines.push(`  ${count} explained: ${why}`);
  for (const { seed, number, question, kiln, dnf } of unexplained) {
    lines.push(`seed ${seed}, question ${number}: ${JSON.stringify(question)}`);
    lines.push(`  kiln: ${kiln.packages?.join(' ') ?? kiln.error}`);
    lines.push(`  dnf:  ${dnf.packages?.join(' ') ?? dnf.error}`);
  }
  lines.push(`${unexplained.length} unexplained`);
  return lines.join('\n');
}
