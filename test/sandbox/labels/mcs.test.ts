import { once } from 'node:events';
import { mkdir, mkdtemp, readdir, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test from 'ava';
import { execa } from 'execa';
import { type StatePaths, statePaths } from '../../../src/host/state/paths.ts';
import { releaseReservation, reserve } from '../../../src/host/state/reservation.ts';
import { allocatePair, pairDirectory, pairOf } from '../../../src/sandbox/labels/selinux.ts';

const module = join(import.meta.dirname, '../../../src/sandbox/labels/selinux.ts');

async function privatePaths(): Promise<StatePaths & AsyncDisposable> {
  const directory = await mkdtemp(join(tmpdir(), 'kiln-mcs-'));
  const dispose = () => rm(directory, { recursive: true });
  return {
    ...statePaths({ KILN_STATE: directory }),
    hostRun: directory,
    [Symbol.asyncDispose]: dispose,
  };
}

/** A process that takes pairs without end, for a directory of its own, and says which. */
function taker(paths: StatePaths, home: string) {
  const source = `
    import { allocatePair } from '${module}';
    const [paths, home] = process.argv.slice(1).map((text) => JSON.parse(text));
    for (;;) console.log(await allocatePair(paths, home));`;
  const words = [JSON.stringify(paths), JSON.stringify(home)];
  return execa(process.execPath, ['--input-type=module', '-e', source, ...words], {
    reject: false,
  });
}

/** Whether it is two categories of 0 to 1023, in order, as the kernel itself writes them. */
function isPair(pair: string): boolean {
  const [, first, second] = /^c(0|[1-9]\d*),c(0|[1-9]\d*)$/.exec(pair) ?? [];
  return Number(first) < Number(second) && Number(second) <= 1023;
}

test('many processes at once, killed at any moment, never have the same pair', async (t) => {
  await using paths = await privatePaths();
  const directory = join(paths.hostRun, 'mcs');
  const takers = [];
  for (let index = 0; index < 6; index++) {
    const home = join(paths.hostRun, `home-${index}`);
    await mkdir(home);
    const process = taker(paths, home);
    takers.push({ home, process, started: once(process.stdout, 'data') });
  }
  await Promise.all(takers.map(({ started }) => started));
  const pairs: string[] = [];
  for (const { process } of takers) {
    process.kill('SIGKILL');
    // The last line may be cut.
    pairs.push(...(await process).stdout.split('\n').slice(0, -1));
  }
  t.true(pairs.length > 6, `${pairs.length} pairs`);
  t.deepEqual(
    pairs.filter((pair) => !isPair(pair)),
    [],
  );
  t.is(new Set(pairs).size, pairs.length);
  const reserved = await readdir(directory);
  t.true(pairs.every((pair) => reserved.includes(pair)));

  // What the killed ones had is nobody’s only once their homes are gone.
  const [pair] = pairs as [string];
  t.false(await reserve(pairDirectory(paths), pair, paths.hostRun));
  for (const { home } of takers) await rm(home, { recursive: true });
  t.true(await reserve(pairDirectory(paths), pair, paths.hostRun));
});

test('a pair is free again when its owner releases it, and only then', async (t) => {
  await using paths = await privatePaths();
  const [one, other] = [join(paths.hostRun, 'one'), join(paths.hostRun, 'other')] as const;
  for (const home of [one, other]) await mkdir(home);
  const pair = await allocatePair(paths, one);
  await releaseReservation(pairDirectory(paths), pair, other);
  t.false(await reserve(pairDirectory(paths), pair, other));
  await releaseReservation(pairDirectory(paths), pair, one);
  t.true(await reserve(pairDirectory(paths), pair, other));
});

test('the pair of a context is its two categories', (t) => {
  t.is(pairOf('system_u:system_r:container_t:s0:c5,c812'), 'c5,c812');
  t.is(pairOf('system_u:system_r:container_t:s0'), undefined);
  t.is(pairOf('unconfined_u:unconfined_r:unconfined_t:s0-s0:c0.c1023'), undefined);
  t.is(pairOf('docker-default (enforce)'), undefined);
});
