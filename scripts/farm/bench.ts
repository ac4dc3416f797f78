/**
 * Measures a chain of twenty on one, two and three machines of a slot each, and on this machine alone.
 * `--plan 2000`: what a chain of so many packages takes of the submitting machine.
 */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { execa } from 'execa';
import { sourcePackage } from '../../test/build/source-packages.ts';
import { interruption, scratchFolder } from '../scratch.ts';
import { measureLongChain } from './long-chain.ts';
import { Pool } from './pool.ts';
import { SAME, twentyPackages } from './twenty.ts';

/** Times of one step, seconds, from DAGMan's own log and from what the worker says. */
interface StepTimes {
  /** Writing the plan; taking the results. */
  readonly prepare: number;
  readonly publish: number;
  /** From submitted to begun. */
  readonly dispatch: number;
  /** Begun to ended, as HTCondor sees it, without what kiln took. */
  readonly condor: number;
  /** What kiln took on the worker. */
  readonly step: number;
  /** Of that, the build. */
  readonly build: number;
}

/** DAGMan's JOBSTATE_LOG: `SECONDS NODE EVENT …`. */
function stepTimes(farm: string): StepTimes[] {
  const events = new Map<string, Map<string, number>>();
  for (const line of readFileSync(join(farm, 'chain.jobstate'), 'utf8').split('\n')) {
    const [time, node = '', event = ''] = line.split(' ');
    if (!/^s\d+$/.test(node)) continue;
    const own = events.get(node) ?? new Map<string, number>();
    events.set(node, own.set(event, Number(time)));
  }
  return [...events].map(([node, times]) => {
    const between = (from: string, to: string) =>
      (times.get(to) ?? Number.NaN) - (times.get(from) ?? Number.NaN);
    const outcome = JSON.parse(readFileSync(join(farm, node, 'outcome.json'), 'utf8'));
    const step = (outcome.ended - outcome.started) / 1000;
    return {
      prepare: between('PRE_SCRIPT_STARTED', 'PRE_SCRIPT_SUCCESS'),
      dispatch: between('SUBMIT', 'EXECUTE'),
      condor: between('EXECUTE', 'JOB_TERMINATED') - step,
      step,
      build: outcome.durationMs / 1000,
      publish: between('POST_SCRIPT_STARTED', 'POST_SCRIPT_SUCCESS'),
    };
  });
}

function row(times: readonly StepTimes[]): string {
  const names = ['prepare', 'dispatch', 'step', 'build', 'condor', 'publish'] as const;
  const mean = (name: (typeof names)[number]) =>
    times.reduce((sum, one) => sum + one[name], 0) / times.length;
  return names.map((name) => `${name} ${mean(name).toFixed(1)}`).join(', ');
}

async function measurePools(directory: string, signal: AbortSignal): Promise<void> {
  const fixtures = process.env.KILN_FIXTURES ?? join(import.meta.dirname, '../../.cache/fixtures');
  const say = (text: string) => process.stdout.write(`${text}\n`);
  await using pool = await Pool.start({ directory, fixtures, workers: 3, signal });
  const packages: string[] = [];
  for (const spec of twentyPackages())
    packages.push(await sourcePackage(join(pool.home, 'srpms'), spec));
  await execa('chmod', ['-R', 'a+rX', join(pool.home, 'srpms')]);
  for (const state of [pool.state, ...pool.workers.map((worker) => worker.state)]) {
    await execa(pool.kilnProgram, ['image', 'build', 'debian-build'], {
      env: pool.rootEnvironment(state),
    });
  }
  const chain = async (name: string, ...options: string[]) => {
    signal.throwIfAborted();
    const argv = [
      'build',
      '--chain',
      '-r',
      'debian-build',
      ...SAME,
      ...options,
      '--resultdir',
      name,
      ...packages,
    ];
    const started = performance.now();
    const { exitCode, stderr } = await pool.kiln(argv, { cancelSignal: signal });
    if (exitCode !== 0) throw new Error(String(stderr));
    return (performance.now() - started) / 1000;
  };
  // The first fills caches of packages; it counts for nobody.
  await chain('warm', '--farm');
  for (const count of [3, 2, 1]) {
    const name = `on-${count}`;
    const makespan = await chain(name, '--farm');
    const times = stepTimes(join(pool.home, name, '.kiln/farm'));
    say(`${count} machines: makespan ${makespan.toFixed(1)} s; of a step, seconds: ${row(times)}`);
    const last = pool.workers[count - 1];
    if (last !== undefined && count > 1) await pool.stopWorker(last);
  }
  say(`one at a time, without a pool: makespan ${(await chain('local')).toFixed(1)} s`);
}

const directory = scratchFolder('farm');
const [option, count] = process.argv.slice(2);
if (option === '--plan') await measureLongChain(Number(count ?? 2000));
else {
  /** The network and the user of a pool are taken away by its own end. */
  const signal = interruption();
  await measurePools(directory, signal).catch((error: unknown) => {
    if (!signal.aborted) throw error;
  });
}
