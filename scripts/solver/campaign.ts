/** Asks kiln and dnf the same random questions, and tells where they differ. */
import { mkdir, mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { ExecaError } from 'execa';
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
import {
  makeWorld,
  PLATFORM,
  type World,
  type WorldQuestion,
  type WorldRepository,
} from './world.ts';

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
  /**
   * What dnf finds where a package requires the rich requests: then it takes them for what rpm does.
   * Only where there are any, and the answers differ.
   */
  readonly requiring?: DnfAnswer;
  /** Whether kiln's packages, and no others, meet the rich requests in dnf's eyes. */
  readonly meets?: boolean;
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
      if (same(outcome.kiln, outcome.dnf)) continue;
      const why = explain(outcome);
      if (why === undefined) unexplained.push(outcome);
      else explained.set(why, (explained.get(why) ?? 0) + 1);
    }
    options.say(`${asked} questions asked, ${unexplained.length} unexplained differences`);
  }
  return { asked, solved, explained, unexplained };
}

/** Whether two answers are the same packages, or none. */
export function same(kiln: DnfAnswer, dnf: DnfAnswer): boolean {
  if (kiln.packages === undefined || dnf.packages === undefined)
    return kiln.packages === dnf.packages;
  return kiln.packages.join() === dnf.packages.join();
}

async function askBoth(worlds: readonly World[], confined: boolean): Promise<Difference[]> {
  const work = await mkdtemp(join(tmpdir(), 'kiln-campaign-'));
  try {
    const questions: DnfQuestion[] = [];
    for (const world of worlds) questions.push(...(await writeWorld(work, world)));
    const dnf = await askEach(
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
    return await askRequiring(work, questions, outcomes);
  } finally {
    await rm(work, { recursive: true, force: true });
  }
}

/** What dnf says where its library aborts, as it does with some problems that it has no words for. */
export const ABORTED = 'dnf aborted';

/** Asks dnf; a question at which it aborts costs no other its answer. */
async function askEach(questions: readonly DnfQuestion[]): Promise<DnfAnswer[]> {
  try {
    return await askDnfWhy(questions);
  } catch (error) {
    if (!(error instanceof ExecaError) || error.signal !== 'SIGABRT') throw error;
    if (questions.length === 1) return [{ error: ABORTED }];
    const half = Math.ceil(questions.length / 2);
    return [
      ...(await askEach(questions.slice(0, half))),
      ...(await askEach(questions.slice(half))),
    ];
  }
}

/** A package of which dnf finds what it requires. */
const REQUIRING = 'requires-what-is-asked';

/** Asks dnf again where rich requests made a difference: as what a package requires. */
async function askRequiring(
  work: string,
  questions: readonly DnfQuestion[],
  outcomes: readonly Difference[],
): Promise<Difference[]> {
  const again = new Map<number, DnfQuestion>();
  for (const [at, { question, kiln, dnf }] of outcomes.entries()) {
    const rich = question.install.filter(isRich);
    if (rich.length === 0 || same(kiln, dnf)) continue;
    const directory = join(work, `requiring-${at}`);
    await mkdir(directory);
    await writeRepository(directory, requiringRepository(rich));
    const { directories, install } = questions[at]!;
    const others = install.filter((spec) => !isRich(spec) && !spec.startsWith('@'));
    again.set(at, {
      ...questions[at]!,
      directories: [...directories, directory],
      install: [...others, REQUIRING],
    });
  }
  const numbers = [...again.keys()];
  const required = await askAgain([...again.values()]);
  // Where it finds others: whether kiln's packages are an answer as well.
  const exact = await askAgain(
    [...again].map(([at, question]) => ({
      ...question,
      install: [...(outcomes[at]?.kiln.packages ?? []), REQUIRING],
      members: [],
    })),
  );
  return outcomes.map((outcome, at) => {
    const place = numbers.indexOf(at);
    if (place === -1) return outcome;
    const meets = same(outcome.kiln, exact[place]!);
    return { ...outcome, requiring: required[place]!, meets };
  });
}

/** What dnf says, without the package that requires what is asked for. */
async function askAgain(questions: readonly DnfQuestion[]): Promise<DnfAnswer[]> {
  if (questions.length === 0) return [];
  return (await askEach(questions)).map((answer) => {
    const packages = answer.packages?.filter((nevra) => !nevra.startsWith(REQUIRING));
    return packages === undefined ? answer : { packages };
  });
}

/** Whether dnf and rpm read it as a rich dependency. */
function isRich(spec: string): boolean {
  return spec.startsWith('(');
}

function requiringRepository(requires: readonly string[]): WorldRepository {
  const none = { recommends: [], suggests: [], supplements: [], provides: [], conflicts: [] };
  const version = { epoch: 0, version: '1', release: '1', arch: 'noarch' };
  return {
    packages: [{ name: REQUIRING, ...version, ...none, requires, obsoletes: [], files: [] }],
    ...{ groups: [], streams: [], defaults: {}, priority: 99, cost: 1000 },
    ...{ excludepkgs: [], includepkgs: [], moduleHotfixes: false },
  };
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
  for (const { seed, number, question, kiln, dnf, requiring } of unexplained) {
    lines.push(`seed ${seed}, question ${number}: ${JSON.stringify(question)}`);
    lines.push(`  kiln: ${kiln.packages?.join(' ') ?? kiln.error}`);
    lines.push(`  dnf:  ${dnf.packages?.join(' ') ?? dnf.error}`);
    if (requiring === undefined) continue;
    lines.push(`  dnf, requiring: ${requiring.packages?.join(' ') ?? requiring.error}`);
  }
  lines.push(`${unexplained.length} unexplained`);
  return lines.join('\n');
}
