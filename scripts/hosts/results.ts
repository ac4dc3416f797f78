/** What comes back from a host: TAP, logs. */
import { mkdir, readFile, rename, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { execa } from 'execa';
import { TapReader } from '../testing/tap.ts';
import type { HostKind } from './kinds.ts';

/** How many results a host had. */
export interface Counts {
  readonly passed: number;
  readonly failed: number;
}

/** What came of a host's job; what is missing from it counts as failed. */
async function count(results: string, poweredOff: boolean): Promise<Counts> {
  const text = await readFile(join(results, 'tap.txt'), 'utf8').catch(() => '');
  const reader = new TapReader();
  for (const line of text.split('\n')) reader.line(line);
  let failed = reader.count('failed') + reader.count('skipped') + reader.count('todo');
  const problem = (what: string) => {
    failed++;
    process.stdout.write(`  ${what}\n`);
  };
  process.stdout.write(`\nResults, journal and console: ${results}\n`);
  if (!poweredOff) problem('the machine did not power off by itself');
  if (reader.planned === undefined) {
    const last = /.*^# (.*)$/ms.exec(text)?.[1];
    problem(
      `the job did not come to its end: ${last === undefined ? 'see job.log' : `“${last}” was the last`}`,
    );
  }
  if (reader.planned !== undefined && reader.planned !== reader.results.length) {
    problem(`${reader.results.length} of ${reader.planned} results came back`);
  }
  return { passed: reader.count('passed'), failed };
}

/**
 * Puts a host's results in place of those in the folder `cache`, and counts them.
 * @param machine the folder with its console.log
 */
export async function collect(
  { name }: HostKind,
  job: string,
  machine: string,
  cache: string,
  poweredOff: boolean,
): Promise<Counts> {
  const results = join(cache, `results-${name}`);
  await readResults(job, results);
  await rename(join(machine, 'console.log'), join(results, 'console.log'));
  return await count(results, poweredOff);
}

/** Puts the disk's results in place of the folder `target`, without mounting it; its machine is off. */
async function readResults(disk: string, target: string): Promise<void> {
  const half = `${target}.${process.pid}`;
  await mkdir(half, { recursive: true });
  try {
    // debugfs takes a blank in a path for the next word.
    await execa('debugfs', ['-R', 'rdump /results .', disk], { cwd: half });
    // A host that was cut off may not have written any.
    await mkdir(join(half, 'results'), { recursive: true });
    await rm(target, { recursive: true, force: true });
    await rename(join(half, 'results'), target);
  } finally {
    await rm(half, { recursive: true, force: true });
  }
}
