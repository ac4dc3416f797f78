/** The campaign: jobs are killed one after the other while bystanders run, and all is looked over. */
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { daemonPid, endDaemon } from '../../test/support/daemon.ts';
import { Aim } from './aim.ts';
import { type Bystander, startBystander } from './bystander.ts';
import { type Ground, type Job, kiln } from './jobs.ts';
import { remains } from './remains.ts';
import { TARGETS, type Target } from './victim.ts';

/** What a campaign has seen. */
export interface Tally {
  /** All that can be killed of the jobs. */
  readonly targets: readonly Target[];
  /** Kills by job and phase, as `run: sandbox`, and by what was killed. */
  readonly phases: Map<string, Map<Target, number>>;
  kills: number;
  /** Runs that had ended before they could be killed. */
  missed: number;
  /** Times everything was looked over. */
  looks: number;
  bystanders: number;
  /** What is wrong, a line each. */
  readonly wrong: string[];
}

/** How long a campaign goes on and what it says meanwhile. */
export interface CampaignOptions {
  readonly kills: number;
  /** No end before each phase had so many. */
  readonly each?: number;
  /** No end before this is true of the tally. */
  readonly until?: (tally: Tally) => boolean;
  /** Only these, where given. */
  readonly phase?: string;
  readonly target?: Target;
  /** After so many kills everything is looked over. */
  readonly every: number;
  /** Milliseconds since 1970 at which it ends, however many kills there were. */
  readonly deadline?: number;
  readonly say: (line: string) => void;
  readonly signal?: AbortSignal;
}

/** Folders without a record are left alone by sweeps for five seconds: their makers may be at work. */
const UNRECORDED = 5500;

/** Bystanders at a time. */
const BYSTANDERS = 2;

/** Kills until enough; every job is done again to its end after each kill, and is then right. */
export async function crash(
  ground: Ground,
  jobs: readonly Job[],
  options: CampaignOptions,
): Promise<Tally> {
  const aim = new Aim(jobs, options.phase, options.target);
  const tally: Tally = {
    targets: TARGETS.filter((target) => jobs.some((job) => job.targets.includes(target))),
    phases: new Map(aim.points.map((point) => [point.key, new Map()])),
    ...{ kills: 0, missed: 0, looks: 0, bystanders: 0, wrong: [] },
  };
  const enough = () =>
    tally.kills >= options.kills &&
    aim.points.every(({ key }) => count(tally, key) >= (options.each ?? 0)) &&
    (options.until?.(tally) ?? true);
  const goesOn = () =>
    !enough() &&
    options.signal?.aborted !== true &&
    Date.now() < (options.deadline ?? Number.POSITIVE_INFINITY);
  let rounds = 0;
  while (goesOn()) {
    const bystanders: Bystander[] = [];
    for (let i = 0; i < BYSTANDERS; i++) {
      const directory = join(ground.directory, `bystander-${rounds}-${i}`);
      bystanders.push(await startBystander(ground.paths, ground.env, ground.image, directory));
    }
    const until = tally.kills + options.every;
    while (goesOn() && tally.kills < until) await killAndMend(ground, aim, tally, options);
    await lookOver(ground, jobs, tally, bystanders);
    rounds++;
    options.say(describeTally(tally));
  }
  return tally;
}

/** How many kills there were in a phase. */
function count(tally: Tally, key: string): number {
  return [...(tally.phases.get(key)?.values() ?? [])].reduce((sum, n) => sum + n, 0);
}

async function killAndMend(
  ground: Ground,
  aim: Aim,
  tally: Tally,
  options: CampaignOptions,
): Promise<void> {
  const { job, phase, key, target, within } = aim.next((it) => count(tally, it));
  await job.prepare(phase);
  const kill = await job.kill({
    ...{ paths: ground.paths, env: ground.env, args: job.args, within },
    target: options.target ?? target,
    // A sandbox is there some time after its maker has begun to compose the image.
    phase: phase === 'scriptlets' ? 'compose' : phase,
  });
  aim.learn(job, kill.took);
  const where = `kill ${tally.kills} (${kill.target} in ${job.name}: ${kill.phase}, meant: ${key})`;
  const report = (problems: readonly string[]) => {
    for (const problem of problems) {
      tally.wrong.push(`${where}: ${problem}`);
      options.say(`WRONG ${where}: ${problem}`);
    }
  };
  if (kill.phase === undefined) {
    tally.missed++;
  } else {
    const found = `${job.name}: ${kill.phase}`;
    const targets = tally.phases.get(found) ?? new Map<Target, number>();
    tally.phases.set(found, targets.set(kill.target, (targets.get(kill.target) ?? 0) + 1));
    tally.kills++;
  }
  if (kill.hung !== undefined) report([`the runner did not end: ${kill.hung}`]);
  report(await job.check(kill.end?.exitCode === 0));
  // The next command: it works, and it is right.
  const next = await kiln(ground, job.next ?? job.args);
  if (next.exitCode !== 0) report([`the next one ended with ${next.exitCode}: ${next.stderr}`]);
  else if (job.next === undefined) report(await job.check(true));
}

async function lookOver(
  ground: Ground,
  jobs: readonly Job[],
  tally: Tally,
  bystanders: readonly Bystander[],
): Promise<void> {
  await sleep(UNRECORDED);
  const gc = await kiln(ground, ['gc']);
  if (gc.exitCode !== 0) tally.wrong.push(`kiln gc: ${gc.stderr}`);
  const directories = jobs.flatMap((job) => job.resultDirectory ?? []);
  const living = {
    sandboxes: bystanders.map(({ sandbox }) => sandbox),
    runners: bystanders.map(({ runner }) => runner),
  };
  const after = `after ${tally.kills} kills and gc`;
  const daemon = daemonPid(ground.paths.root);
  // The daemon and its spare worker may wait for others; they leave nothing at their end.
  const serving = { ...living, runners: [...living.runners, ...(daemon ? [daemon] : [])] };
  const left = await remains(ground.paths, serving, directories);
  await endDaemon(ground.paths.root).catch((error: Error) => left.push(error.message));
  left.push(...(await remains(ground.paths, living, directories)));
  for (const one of new Set(left)) tally.wrong.push(`${after}: ${one}`);
  for (const bystander of bystanders) {
    const problem = await bystander.end();
    tally.bystanders++;
    if (problem !== undefined) tally.wrong.push(problem);
  }
  for (const job of jobs.filter(({ next }) => next !== undefined)) {
    const { exitCode, stderr } = await kiln(ground, job.args);
    const problems = exitCode === 0 ? await job.check(true) : [`status ${exitCode}: ${stderr}`];
    for (const problem of problems) tally.wrong.push(`${job.name} ${after}: ${problem}`);
  }
  tally.looks++;
}

/** The tally, for people. */
export function describeTally(tally: Tally): string {
  const heads = [...tally.targets, 'all'];
  const row = (name: string, targets: ReadonlyMap<Target, number>) => {
    const counts = tally.targets.map((target) => targets.get(target) ?? 0);
    const all = counts.reduce((sum, n) => sum + n, 0);
    const columns = [...counts, all].map((n, i) => String(n).padStart(heads[i]?.length ?? 0));
    return `  ${name.padEnd(30)} ${columns.join('  ')} ${'#'.repeat(Math.min(60, all))}`;
  };
  return [
    `${tally.kills} kills, ${tally.missed} runs over too soon, ${tally.bystanders} bystanders, ${tally.looks} times looked over`,
    `  ${'killed in'.padEnd(30)} ${heads.join('  ')}`,
    ...[...tally.phases]
      .sort(([a], [b]) => a.localeCompare(b))
      .map(([name, targets]) => row(name, targets)),
    row('all', targetsOf(tally)),
    `wrong: ${tally.wrong.length}`,
    ...tally.wrong.map((line) => `  ${line}`),
  ].join('\n');
}

/** How often each was killed, in whatever phase. */
export function targetsOf(tally: Tally): ReadonlyMap<Target, number> {
  const sum = new Map<Target, number>(tally.targets.map((target) => [target, 0]));
  for (const targets of tally.phases.values()) {
    for (const [target, n] of targets) sum.set(target, (sum.get(target) ?? 0) + n);
  }
  return sum;
}
