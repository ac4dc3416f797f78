import { mkdir, mkdtemp, rename, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test from 'ava';
import { execa } from 'execa';
import { allocateRange, idBlock, RANGE_SIZE, releaseRange } from '../../src/sandbox/id-range.ts';
import { type StatePaths, statePaths } from '../../src/state/paths.ts';

async function privatePaths(): Promise<StatePaths & AsyncDisposable> {
  const directory = await mkdtemp(join(tmpdir(), 'kiln-ranges-'));
  const dispose = () => rm(directory, { recursive: true });
  return {
    ...statePaths({ KILN_STATE: directory }),
    hostRun: directory,
    [Symbol.asyncDispose]: dispose,
  };
}

test('many processes at once never get the same range', async (t) => {
  await using paths = await privatePaths();
  const source = `
    import { allocateRange } from '${join(import.meta.dirname, '../../src/sandbox/id-range.ts')}';
    const paths = JSON.parse(process.argv[1]);
    for (let i = 0; i < 5; i++) console.log((await allocateRange(paths, [paths.hostRun])).base);`;
  const children = Array.from({ length: 6 }, () =>
    execa(process.execPath, ['--input-type=module', '-e', source, JSON.stringify(paths)]),
  );
  const bases = (await Promise.all(children)).flatMap(({ stdout }) => stdout.split('\n'));
  t.is(bases.length, 30);
  t.is(new Set(bases).size, 30);
  for (const base of bases.map(Number)) {
    t.is(base % RANGE_SIZE, 0);
    t.true(base > 0x7000_0000 && base < 0x8000_0000);
  }
});

test('a range is free again when it is released, or when its box is gone', async (t) => {
  await using paths = await privatePaths();
  const [box, parked, other] = ['box', 'parked', 'other'].map((name) =>
    join(paths.hostRun, name),
  ) as [string, string, string];
  await mkdir(box);
  await mkdir(other);
  const first = await allocateRange(paths, [box, parked, box]);
  const second = await allocateRange(paths, [other]);
  t.not(second.base, first.base);
  await rename(box, parked);
  const third = await allocateRange(paths, [other]);
  t.not(third.base, first.base, 'a parked box is alive');
  await rm(parked, { recursive: true });
  t.is((await allocateRange(paths, [other])).base, first.base);
  await releaseRange(paths, first, [box, parked, box]);
  t.not((await allocateRange(paths, [other])).base, first.base, 'it is somebody else’s by now');
  await releaseRange(paths, second, [other]);
  t.is((await allocateRange(paths, [other])).base, second.base);
});

test('what dead boxes had is given to one of many that find it at once', async (t) => {
  await using paths = await privatePaths();
  const ranges = join(paths.hostRun, 'ranges');
  await mkdir(ranges);
  for (let index = 1; index <= 60; index++) {
    const base = String(0x7000_0000 + index * RANGE_SIZE);
    await writeFile(join(ranges, base), join(paths.hostRun, 'gone'));
  }
  const source = `
    import { allocateRange } from '${join(import.meta.dirname, '../../src/sandbox/id-range.ts')}';
    const paths = JSON.parse(process.argv[1]);
    const all = Array.from({ length: 10 }, () => allocateRange(paths, [paths.hostRun]));
    for (const range of all) console.log((await range).base);`;
  const children = Array.from({ length: 6 }, () =>
    execa(process.execPath, ['--input-type=module', '-e', source, JSON.stringify(paths)]),
  );
  const bases = (await Promise.all(children)).flatMap(({ stdout }) => stdout.split('\n'));
  t.is(new Set(bases).size, 60);
});

test('the block is the administrator’s to set', async (t) => {
  await using paths = await privatePaths();
  const subuid = join(paths.hostRun, 'subuid');
  await writeFile(subuid, 'someone:100000:65536\nkiln:3000000:655360\n');
  t.deepEqual(await idBlock(subuid), { start: 3_000_000, count: 655_360 });
  await writeFile(subuid, 'kiln:3000000:65536\n');
  await t.throwsAsync(idBlock(subuid), { code: 'E_SUBUID' });
});
