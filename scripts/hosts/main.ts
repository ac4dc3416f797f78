/**
 * What scripts/test-hosts runs: builds a host, hands it this checkout and the fixture repository,
 * boots it, lets it run job.ts, and reads the results from its disk.
 *
 * Arguments: `--engine embedded|system` for one engine only, `--only
 * doctor|limits|session|e2e|image` for one check, `--match PATTERN` for ava.
 */
import { mkdir, readFile, rename, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { execa } from 'execa';
import { acquireLock } from '../../src/kernel/flock.ts';
import { TapReader } from '../testing/tap.ts';
import { ensureHostDisk } from './base.ts';
import { runMachine } from './machine.ts';
import { makePayload, readResults } from './payload.ts';

const top = join(import.meta.dirname, '../..');
const cache = join(top, '.cache/hosts');
const results = join(cache, 'results');
const folder = join(cache, 'machine');
const fixtures = process.env.KILN_FIXTURES ?? join(top, '.cache/fixtures');

/** Whether the whole job was done, and what came of it. */
async function report(poweredOff: boolean): Promise<boolean> {
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
  if (reader.planned === undefined) problem('the job did not come to its end: see job.log');
  if (reader.planned !== undefined && reader.planned !== reader.results.length) {
    problem(`${reader.results.length} of ${reader.planned} results came back`);
  }
  const passed = reader.count('passed');
  process.stdout.write(`${passed} passed, ${failed} failed\n`);
  return failed === 0 && passed > 0;
}

await mkdir(cache, { recursive: true });
await using _one = await acquireLock(join(cache, 'lock'));
await rm(folder, { recursive: true, force: true });
await mkdir(folder, { recursive: true });
try {
  const host = await ensureHostDisk(top, cache);
  process.stdout.write('==> the fixture repository\n');
  await execa({ cwd: top, stdio: ['ignore', 'inherit', 'inherit'] })(
    process.execPath,
    ['fixtures/debian-rpms/main.ts'],
    { env: { KILN_FIXTURES: fixtures } },
  );
  process.stdout.write('==> the disk with this checkout\n');
  const job = await makePayload(top, folder, fixtures, process.argv.slice(2));
  process.stdout.write('==> booting host A (emulated: about ten times slower than this machine)\n');
  const poweredOff = await runMachine(host, job, folder);
  await readResults(job, cache);
  await rename(join(folder, 'console.log'), join(results, 'console.log'));
  process.exitCode = (await report(poweredOff)) ? 0 : 1;
} finally {
  await rm(folder, { recursive: true, force: true });
}
