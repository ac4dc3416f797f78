/** The campaign: jobs are killed one after the other while bystanders run, and all is looked over. */
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { type Bystander, startBystander } from './bystander.ts';
import { type Ground, type Job, kiln } from './jobs.ts';
import { remains } from './remains.ts';
import { killOne, TARGETS, type Target } from './victim.ts';

/** What a campaign has seen. */
export interface Tally {
  /** Kills by job and phase, as `run: sandbox`. */
  readonly phases: Map<string, number>;
  readonly targets: Map<Target, number>;
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
  const tally: Tally = {
    phases: new Map(
      jobs.flatMap(({ name, phases }) => Object.keys(phases).map((it) => [`${name}: ${it}`, 0])),
    ),
    targets: new Map(TARGETS.map((target) => [target, 0])),
    kills: 0,
    missed: 0,
    looks: 0,
    bystanders: 0,
    wrong: [],
  };
  const goesOn = () =>
    tally.kills < options.kills &&
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
    while (goesOn() && tally.kills < until) await killAndMend(ground, jobs, tally, options.say);
    await lookOver(ground, jobs, tally, bystanders);
    rounds++;
    options.say(`${tally.kills} kills, ${tally.wrong.length} wrong`);
  }
  return tally;
}

/** Whichever phase has had the fewest kills, of any job. */
function rarest(jobs: readonly Job[], tally: Tally): { job: Job; phase: string } {
  const all = jobs.flatMap((job) => Object.keys(job.phases).map((phase) => ({ job, phase })));
  const count = ({ job, phase }: { job: Job; phase: string }) =>
    (tally.phases.get(`${job.name}: ${phase}`) ?? 0) + Math.random() * 0.9;
  return all.map((it) => ({ it, n: count(it) })).sort((a, b) => a.n - b.n)[0]!.it;
}

async function killAndMend(
  ground: Ground,
  jobs: readonly Job[],
  tally: Tally,
  say: (line: string) => void,
): Promise<void> {
  const { job, phase } = rarest(jobs, tally);
  const target = TARGETS[tally.kills % TARGETS.length] ?? 'runner';
  await job.prepare();
  const kill = await killOne({
    ...{ paths: ground.paths, env: ground.env, args: job.args, target },
    // A box is there some time after its maker has begun to compose the image.
    phase: phase === 'scriptlets' ? 'compose' : phase,
    within: (job.phases[phase] ?? 0) + (phase === 'scriptlets' ? (job.phases.compose ?? 0) : 0),
  });
  const where = `kill ${tally.kills} (${kill.target} in ${job.name}: ${kill.phase})`;
  const report = (problems: readonly string[]) => {
    for (const problem of problems) {
      tally.wrong.push(`${where}: ${problem}`);
      say(`WRONG ${where}: ${problem}`);
    }
  };
  if (kill.phase === undefined) {
    tally.missed++;
  } else {
    const key = `${job.name}: ${kill.phase}`;
    tally.phases.set(key, (tally.phases.get(key) ?? 0) + 1);
    tally.targets.set(kill.target, (tally.targets.get(kill.target) ?? 0) + 1);
    tally.kills++;
  }
  if (kill.hung !== undefined) report([`the runner did not end: ${kill.hung}`]);
  report(await job.check(kill.end?.exitCode === 0));
  // The next command: it works, and it is right.
  const next = await kiln(ground, job.args);
  if (next.exitCode !== 0) report([`the next one ended with ${next.exitCode}: ${next.stderr}`]);
  else report(await job.check(true));
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
    boxes: bystanders.map(({ box }) => box),
    runners: bystanders.map(({ runner }) => runner),
  };
  const after = `after ${tally.kills} kills and gc`;
  for (const left of await remains(ground.paths, living, directories)) {
    tally.wrong.push(`${after}: ${left}`);
  }
  for (const bystander of bystanders) {
    const problem = await bystander.end();
    tally.bystanders++;
    if (problem !== undefined) tally.wrong.push(problem);
  }
  tally.looks++;
}

/** The tally, for people. */
export function describeTally(tally: Tally): string {
  const bar = (count: number) => '#'.repeat(Math.min(60, count));
  const rows = [...tally.phases]
    .sort(([a], [b]) => a.localeCompare(b))
    .map(([name, count]) => `  ${name.padEnd(30)} ${String(count).padStart(4)} ${bar(count)}`);
  return [
    `${tally.kills} kills, ${tally.missed} runs over too soon, ${tally.bystanders} bystanders, ${tally.looks} times looked over`,
    ...[...tally.targets].map(
      ([name, count]) => `  ${name.padEnd(30)} ${String(count).padStart(4)}`,
    ),
    'by phase:',
    ...rows,
    `wrong: ${tally.wrong.length}`,
    ...tally.wrong.map((line) => `  ${line}`),
  ].join('\n');
}
