import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test from 'ava';
import { execa } from 'execa';
import { type StatePaths, statePaths } from '../../src/host/state/paths.ts';
import {
  allocateRange,
  firstIndex,
  idBlock,
  RANGE_SIZE,
  releaseRange,
} from '../../src/host/state/reservation.ts';

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
    import { allocateRange } from '${join(import.meta.dirname, '../../src/host/state/reservation.ts')}';
    const paths = JSON.parse(process.argv[1]);
    for (let i = 0; i < 5; i++) console.log((await allocateRange(paths, paths.hostRun)).base);`;
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

test('containers of one boot begin to search for a range at different places', (t) => {
  const total = 4096;
  t.is(firstIndex(total, 'pid:[4026531836]', 'boot'), 1, 'the host, at the first');
  const of = (namespace: number, boot = 'a') => firstIndex(total, `pid:[${namespace}]`, boot);
  const first = Array.from({ length: 100 }, (_, index) => of(4026532000 + index));
  t.true(first.every((index) => index >= 1 && index < total));
  // By chance alone two or three of a hundred meet.
  t.true(new Set(first).size > 90);
  t.is(of(4026532000), first[0]!, 'always the same');
  t.not(of(4026532000, 'b'), first[0]);
  t.is(firstIndex(2, 'pid:[4026532000]', 'a'), 1);
});

test('in a pid namespace of its own, kiln can have all ranges, each once', async (t) => {
  await using paths = await privatePaths();
  const source = `
    import { allocateRange } from '${join(import.meta.dirname, '../../src/host/state/reservation.ts')}';
    const paths = JSON.parse(process.argv[1]);
    for (let i = 0; i < 9; i++) console.log((await allocateRange(paths, paths.hostRun)).base);
    await allocateRange(paths, paths.hostRun).catch(({ code }) => console.log(code));`;
  const etc = join(paths.hostRun, 'etc');
  await mkdir(etc);
  await writeFile(join(etc, 'subuid'), 'kiln:3000000:655360\n');
  const script = `mount --bind "$1" /etc/subuid; shift; exec "$@"`;
  const { stdout } = await execa('unshare', [
    ...['--mount', '--pid', '--fork', '--mount-proc', 'sh', '-c', script, 'sh'],
    ...[join(etc, 'subuid'), process.execPath, '--input-type=module', '-e', source],
    JSON.stringify(paths),
  ]);
  const bases = stdout.split('\n');
  t.is(bases.pop(), 'E_NO_RANGE');
  const all = Array.from({ length: 9 }, (_, index) => String(3_000_000 + (index + 1) * RANGE_SIZE));
  t.deepEqual(bases.toSorted(), all);
});

test('a range is free again when it is released, or when its sandbox is gone', async (t) => {
  await using paths = await privatePaths();
  const [sandbox, other] = ['sandbox', 'other'].map((name) => join(paths.hostRun, name)) as [
    string,
    string,
  ];
  await mkdir(sandbox);
  await mkdir(other);
  const first = await allocateRange(paths, sandbox);
  const second = await allocateRange(paths, other);
  t.not(second.base, first.base);
  await rm(sandbox, { recursive: true });
  t.is((await allocateRange(paths, other)).base, first.base);
  await releaseRange(paths, first, sandbox);
  t.not((await allocateRange(paths, other)).base, first.base, 'it is somebody else’s by now');
  await releaseRange(paths, second, other);
  t.is((await allocateRange(paths, other)).base, second.base);
});

test('a dead sandbox’s range goes to one of many that find it at once', async (t) => {
  await using paths = await privatePaths();
  const ranges = join(paths.hostRun, 'ranges');
  await mkdir(ranges);
  for (let index = 1; index <= 60; index++) {
    const base = String(0x7000_0000 + index * RANGE_SIZE);
    await writeFile(join(ranges, base), join(paths.hostRun, 'gone'));
  }
  const source = `
    import { allocateRange } from '${join(import.meta.dirname, '../../src/host/state/reservation.ts')}';
    const paths = JSON.parse(process.argv[1]);
    const all = Array.from({ length: 10 }, () => allocateRange(paths, paths.hostRun));
    for (const range of all) console.log((await range).base);`;
  const children = Array.from({ length: 6 }, () =>
    execa(process.execPath, ['--input-type=module', '-e', source, JSON.stringify(paths)]),
  );
  const bases = (await Promise.all(children)).flatMap(({ stdout }) => stdout.split('\n'));
  t.is(new Set(bases).size, 60);
});

test('the administrator can set the block of ids', async (t) => {
  await using paths = await privatePaths();
  const subuid = join(paths.hostRun, 'subuid');
  await writeFile(subuid, 'someone:100000:65536\nkiln:3000000:655360\n');
  t.deepEqual(await idBlock(subuid), { start: 3_000_000, count: 655_360 });
  await writeFile(subuid, 'kiln:3000000:65536\n');
  await t.throwsAsync(idBlock(subuid), { code: 'E_SUBUID' });
});
