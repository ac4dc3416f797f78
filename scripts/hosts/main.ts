/**
 * What scripts/test-hosts runs, for each kind of host: builds it, hands it this checkout and the
 * fixture repository, boots it, lets it run job.ts, and reads the results from its disk.
 */
import { mkdir, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { execa } from 'execa';
import { acquireLock } from '../../src/host/files/flock.ts';
import { sweepAtEnd } from '../scratch.ts';
import { refuseCall, scriptOptions } from '../testing/options.ts';
import { ensureHostDisk, TEST_PACKAGES } from './base.ts';
import { type HostKind, hostKinds } from './kinds.ts';
import { Limit } from './limit.ts';
import { runMachine } from './machine.ts';
import { makePayload } from './payload.ts';
import { type Counts, collect } from './results.ts';
import { smoke } from './smoke.ts';

const top = join(import.meta.dirname, '../..');
const cache = join(top, '.cache/hosts');
const folder = join(cache, 'machine');
const fixtures = process.env.KILN_FIXTURES ?? join(top, '.cache/fixtures');

const values = scriptOptions({
  host: { type: 'string' },
  engine: { type: 'string' },
  only: { type: 'string' },
  match: { type: 'string', multiple: true, default: [] },
  smoke: { type: 'boolean', default: false },
  minutes: { type: 'string', default: '120' },
});

/** Whether one of these checks, which are host A's, and `machined` host B's as well, is to run there. */
function needs(
  { name }: HostKind,
  ...checks: ('services' | 'machined' | 'package' | 'walkthrough')[]
): boolean {
  const only = values.only?.split(',') ?? checks;
  return checks.some((check) => (name === 'a' || check === 'machined') && only.includes(check));
}

/** Everything for one host. Its results stay in `.cache/hosts/results-NAME`. */
async function testHost(kind: HostKind): Promise<Counts> {
  await rm(folder, { recursive: true, force: true });
  await mkdir(folder, { recursive: true });
  try {
    const uses = values.only?.split(',').includes('machines') ? ['run', 'machine'] : ['run'];
    const host = await ensureHostDisk(top, cache, TEST_PACKAGES, uses);
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
      services: needs(kind, 'services', 'machined', 'walkthrough'),
      package: needs(kind, 'package', 'walkthrough'),
    });
    process.stdout.write(
      `==> booting ${kind.title}, emulated: about ten times slower than this machine\n`,
    );
    const poweredOff = await runMachine(host, kind.boot, job, folder);
    return await collect(kind, job, folder, cache, poweredOff);
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
}

const minutes = Number(values.minutes);
if (!(minutes > 0)) refuseCall(`--minutes ${values.minutes} is not a number of minutes`);
const limit = new Limit(minutes);
await mkdir(cache, { recursive: true });
await using _one = await acquireLock(join(cache, 'lock'));
sweepAtEnd(folder);
const wanted = hostKinds.filter(({ name }) => values.host === undefined || values.host === name);

async function makeFixtures(...args: readonly string[]): Promise<void> {
  const env = { KILN_FIXTURES: fixtures };
  const main = ['fixtures/debian-rpms/main.ts', ...args];
  await execa(process.execPath, main, { cwd: top, stdio: ['ignore', 'inherit', 'inherit'], env });
}

/** One that cannot begin, or takes too long before there are machines, is one failure. */
async function testBySmoke(): Promise<Counts[]> {
  try {
    await limit.step('the fixture repository', 10, makeFixtures());
    return await smoke(wanted, { top, cache, folder, fixtures }, limit);
  } catch (error) {
    process.stdout.write(`${(error as Error).message}\n`);
    return [{ passed: 0, failed: 1 }];
  }
}

async function testAll(): Promise<Counts[]> {
  process.stdout.write('==> the fixture repository\n');
  await makeFixtures();
  if (wanted.some((kind) => needs(kind, 'services', 'machined', 'walkthrough')))
    await makeFixtures('--set', 'services');
  const all: Counts[] = [];
  for (const kind of wanted) all.push(await testHost(kind));
  return all;
}

let [passed, failed] = [0, wanted.length === 0 ? 1 : 0];
for (const counts of await (values.smoke ? testBySmoke() : testAll())) {
  passed += counts.passed;
  failed += counts.failed;
}
process.stdout.write(`${passed} passed, ${failed} failed\n`);
// What a step that took too long has started ends with this process.
process.exit(failed === 0 && passed > 0 ? 0 : 1);
