/**
 * What scripts/test-hosts runs, for each kind of host: builds it, hands it this checkout and the
 * fixture repository, boots it, lets it run job.ts, and reads the results from its disk.
 */
import { mkdir, readFile, rename, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { execa } from 'execa';
import { acquireLock } from '../../src/host/files/flock.ts';
import { scriptOptions } from '../testing/options.ts';
import { TapReader } from '../testing/tap.ts';
import { ensureHostDisk, TEST_PACKAGES } from './base.ts';
import { type HostKind, hostKinds } from './kinds.ts';
import { runMachine } from './machine.ts';
import { makePayload, readResults } from './payload.ts';

const top = join(import.meta.dirname, '../..');
const cache = join(top, '.cache/hosts');
const folder = join(cache, 'machine');
const fixtures = process.env.KILN_FIXTURES ?? join(top, '.cache/fixtures');

const values = scriptOptions({
  host: { type: 'string' },
  engine: { type: 'string' },
  only: { type: 'string' },
  match: { type: 'string', multiple: true, default: [] },
});

/** How many results a host had. */
interface Counts {
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
  if (reader.planned === undefined) problem('the job did not come to its end: see job.log');
  if (reader.planned !== undefined && reader.planned !== reader.results.length) {
    problem(`${reader.results.length} of ${reader.planned} results came back`);
  }
  return { passed: reader.count('passed'), failed };
}

/** Whether a check of host A's alone is to run there: `services`, with Apache, or `package`, with the .deb. */
function needs(check: 'services' | 'package', { name }: HostKind): boolean {
  return name === 'a' && (values.only === undefined || values.only.split(',').includes(check));
}

/** Everything for one host. Its results stay in `.cache/hosts/results-NAME`. */
async function testHost(kind: HostKind): Promise<Counts> {
  await rm(folder, { recursive: true, force: true });
  await mkdir(folder, { recursive: true });
  try {
    const host = await ensureHostDisk(top, cache, TEST_PACKAGES);
    process.stdout.write('==> the disk with this checkout\n');
    const { engine, only, match } = values;
    const words = [
      ...Object.entries({ engine, only })
        .filter(([, value]) => value !== undefined)
        .map(([name, value]) => `--${name}=${value}`),
      ...match.map((pattern) => `--match=${pattern}`),
    ];
    const args = [...words, `--host=${kind.name}`];
    const job = await makePayload(top, folder, fixtures, kind.prepare, args, {
      services: needs('services', kind),
      package: needs('package', kind),
    });
    process.stdout.write(
      `==> booting ${kind.title}, emulated: about ten times slower than this machine\n`,
    );
    const poweredOff = await runMachine(host, kind.boot, job, folder);
    const results = join(cache, `results-${kind.name}`);
    await readResults(job, results);
    await rename(join(folder, 'console.log'), join(results, 'console.log'));
    return await count(results, poweredOff);
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
}

await mkdir(cache, { recursive: true });
await using _one = await acquireLock(join(cache, 'lock'));
process.stdout.write('==> the fixture repository\n');
const makeFixtures = execa({
  cwd: top,
  stdio: ['ignore', 'inherit', 'inherit'],
  env: { KILN_FIXTURES: fixtures },
});
await makeFixtures(process.execPath, ['fixtures/debian-rpms/main.ts']);
const wanted = hostKinds.filter(({ name }) => values.host === undefined || values.host === name);
if (wanted.some((kind) => needs('services', kind))) {
  await makeFixtures(process.execPath, ['fixtures/debian-rpms/main.ts', '--set', 'services']);
}
let [passed, failed] = [0, wanted.length === 0 ? 1 : 0];
for (const kind of wanted) {
  const counts = await testHost(kind);
  passed += counts.passed;
  failed += counts.failed;
}
process.stdout.write(`${passed} passed, ${failed} failed\n`);
process.exitCode = failed === 0 && passed > 0 ? 0 : 1;
