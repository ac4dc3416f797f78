import { mkdir, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { text } from 'node:stream/consumers';
import test from 'ava';
import { DEFAULT_DISK } from '../../src/host/state/disk-watch.ts';
import { planFromRecipe } from '../../src/image/plan.ts';
import type { LeasedImage } from '../../src/image/store/images.ts';
import { readContents } from '../../src/image/store/manifest.ts';
import { obtainPackages } from '../../src/image/store/packages.ts';
import { rpmIn } from '../fixtures/roots.ts';
import { PATIENCE } from '../support/busybox-state.ts';
import { asRoot, PlainSandbox } from '../support/plain-sandbox.ts';
import { sandboxSpecification } from '../support/specification.ts';
import { debianRepository, type ImageState, imageState } from './image-state.ts';
import { differences, snapshotTree } from './tree-snapshot.ts';

let state: ImageState;
let image: LeasedImage;
let storeBefore: Map<string, string>;

test.before(async (t) => {
  t.timeout(300_000 * PATIENCE);
  // By the same code: only once in a run of all tests.
  state = await imageState({ unpacked: 'all' });
  const recipe = await state.recipe('debian-build', 'groups: [buildsys-build]');
  const { paths } = state.engine;
  await obtainPackages(paths, (await planFromRecipe(state.engine, { path: recipe }, {})).lock, {
    disk: DEFAULT_DISK,
  });
  storeBefore = snapshotTree(paths.packages);
  image = await state.open(recipe);
});
test.after.always(() => state[Symbol.asyncDispose]());

/** Where the tree may differ from rpm's, and why. */
const EXCEPTIONS: Readonly<Record<string, string>> = {
  '/var/cache/ldconfig/aux-cache': 'ldconfig notes inode numbers and times in it',
  '/var/lib/rpm/rpmdb.sqlite': 'holds the time of the installation',
  '/var/lib/rpm/rpmdb.sqlite-shm': 'shared memory of the processes that had the database open',
  '/var/lib/rpm/rpmdb.sqlite-wal': 'write-ahead log of the same',
};

test.serial('the tree is the one that rpm makes of the same packages', async (t) => {
  t.timeout(300_000 * PATIENCE);
  t.is(image.manifest.transaction, 'fast');
  t.deepEqual(image.manifest.warnings, []);
  const { directory } = await debianRepository();
  const { packages } = await readContents(state.engine.paths, image.manifest.id);
  t.true(packages.length > 180);
  const root = join(state.directory, 'oracle');
  await mkdir(root);
  const files = packages.map((entry) => join(directory, entry.location));
  const installed = await rpmIn(root, ['--nosignature', '-i', ...files]);
  t.is(installed.exitCode, 0, String(installed.stderr));
  const found = differences(snapshotTree(root), snapshotTree(image.tree));
  for (const path of Object.keys(EXCEPTIONS)) found.delete(path);
  t.deepEqual([...found], []);

  // Both databases tell the same about every file of every package.
  const query = ['-qa', '--qf', '%{NEVRA} %{FILESTATES} [%{FILENAMES}|%{FILESTATES:fstate}\n]'];
  const lines = async (at: string) =>
    String((await rpmIn(at, query)).stdout)
      .split('\n')
      .sort();
  t.deepEqual(await lines(image.tree), await lines(root));
});

/** A command in the image as `kiln run` runs it, with nothing but the image. */
async function inImage(command: readonly string[]) {
  await using sandbox = await PlainSandbox.open(
    state.engine,
    sandboxSpecification({ root: image.tree, image: image.manifest.id, privateTmp: false }),
  );
  const child = await sandbox.spawn(command, await asRoot(state.engine.paths, sandbox));
  const [stdout, stderr] = await Promise.all([text(child.stdout), text(child.stderr)]);
  return { stdout, stderr };
}

test.serial('folders have the times that their packages say', async (t) => {
  const query = ['-qa', '--qf', '[%{FILEMODES:perms} %{FILEMTIMES} %{FILENAMES}\n]'];
  const times = new Map<string, number[]>();
  for (const line of String((await rpmIn(image.tree, query)).stdout).split('\n')) {
    const [, time, path = ''] = /^d\S+ (\d+) (.*)$/.exec(line) ?? [];
    if (time !== undefined) times.set(path, [...(times.get(path) ?? []), Number(time)]);
  }
  t.true(times.size > 1000, `${times.size}`);
  for (const [path, wanted] of times) {
    const { mtimeMs } = await stat(join(image.tree, path));
    t.true(wanted.includes(mtimeMs / 1000), `${path}: ${mtimeMs / 1000}, not ${wanted}`);
  }
});

test.serial('rpm -Va, run inside, finds every file as its package says', async (t) => {
  t.timeout(120_000 * PATIENCE);
  const { stdout, stderr } = await inImage(['rpm', '-Va']);
  t.is(stderr, '');
  // A sandbox has a /proc of its own there.
  t.is(stdout.replace(/^\.M\.\.\.UG\.\. {4}\/proc\n/, ''), '');
});

test.serial('building and using images does not change the package store', (t) => {
  t.true(storeBefore.size > 13_000);
  const now = snapshotTree(state.engine.paths.packages);
  t.deepEqual([...differences(storeBefore, now)], []);
});

test.serial('the image holds hard links to the store, not copies', async (t) => {
  t.true(image.manifest.bytes > 400e6);
  t.true(image.manifest.ownBytes < image.manifest.bytes / 20, `${image.manifest.ownBytes}`);
  const gcc = await stat(join(image.tree, 'usr/bin/x86_64-linux-gnu-gcc-14'));
  t.true(gcc.nlink >= 2);
});
