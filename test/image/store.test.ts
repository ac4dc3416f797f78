import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, mkdirSync, readdirSync, statSync, utimesSync, writeFileSync } from 'node:fs';
import { mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test from 'ava';
import { execa } from 'execa';
import { KilnError } from '../../src/errors.ts';
import { removeTree } from '../../src/host/files/remove-tree.ts';
import { readRecord, writeRecord } from '../../src/host/state/checked-file.ts';
import { syncStore } from '../../src/image/store/durability.ts';
import { packageDirectory } from '../../src/image/store/entry.ts';
import { collectGarbage } from '../../src/image/store/gc.ts';
import {
  findImage,
  type LeasedImage,
  leaseImage,
  listImages,
  removeImage,
} from '../../src/image/store/images.ts';
import {
  type ImageManifest,
  imageDirectory,
  imageFiles,
  readContents,
  readManifest,
} from '../../src/image/store/manifest.ts';
import { cloneTree, copyTree } from '../../src/image/tree/clone.ts';
import { cleanUpperTree } from '../../src/image/tree/merge-overlay.ts';
import { PATIENCE } from '../support/busybox-state.ts';
import { makeDeepTree } from '../support/deep-tree.ts';
import { eventually } from '../support/eventually.ts';
import { debianRepository, type ImageState, imageState } from './image-state.ts';
import { differences, snapshotTree } from './tree-snapshot.ts';

// Packages without scriptlets make images within a second, and need no sandbox.
const SMALL = 'packages: [base-files, base-passwd]\nscriptlets: { mode: none }';

async function withState(task: (state: ImageState) => Promise<void>): Promise<void> {
  await using state = await imageState();
  await task(state);
}

/** An image nobody has in use, different from others by its name. */
async function build(state: ImageState, name: string, yaml = SMALL): Promise<string> {
  const recipe = await state.recipe(
    name,
    `${yaml}\nfiles: [{ path: /etc/name, content: ${name} }]`,
  );
  const { stdout, stderr, exitCode } = await state.kiln(['image', 'build', recipe]);
  if (exitCode !== 0) throw new Error(String(stderr));
  return String(stdout).trim();
}

test('two builds of one image at once build it once, and both get it', (t) =>
  withState(async (state) => {
    const recipe = await state.recipe('twice', SMALL);
    const results = await Promise.all([1, 2, 3].map(() => state.kiln(['image', 'build', recipe])));
    for (const { exitCode, stderr } of results) t.is(exitCode, 0, String(stderr));
    t.is(new Set(results.map(({ stdout }) => stdout)).size, 1);
    const built = results.filter(({ stderr }) => String(stderr).includes('composing a tree'));
    t.is(built.length, 1);
    t.deepEqual(await readdir(join(state.engine.paths.store, 'work')), []);
  }));

test('the error for a full disk names the disk, and the build resumes when there is room', async (t) => {
  t.timeout(120_000 * PATIENCE);
  const disk = await mkdtemp(join(tmpdir(), 'kiln-full-'));
  await execa('mount', ['-t', 'tmpfs', '-o', 'size=1m,mode=711', 'tmpfs', disk]);
  t.teardown(async () => {
    await execa('umount', ['--lazy', disk]);
    await rm(disk, { recursive: true });
  });
  await withState(async (state) => {
    const recipe = await state.recipe(
      'full',
      'packages: [tzdata, perl-base]\nscriptlets: { mode: none }',
    );
    const build = () =>
      state.kiln(['image', 'build', recipe], {
        env: { ...state.env, KILN_STATE: join(disk, 's') },
      });
    // The package cache, the metadata, the unpacked packages and the tree: each is where it ends once.
    for (const size of ['1m', '2m', '4m', '8m', '12m']) {
      await execa('mount', ['-o', `remount,size=${size}`, disk]);
      const full = await build();
      t.is(full.exitCode, 125, size);
      t.regex(String(full.stderr), /no room is left|ENOSPC|no space left|nearly full/, size);
      t.notRegex(String(full.stderr), /internal error|\n +at /, size);
    }
    await execa('mount', ['-o', 'remount,size=200m', disk]);
    const built = await build();
    t.is(built.exitCode, 0, String(built.stderr));
    const tree = imageFiles.tree(join(disk, 's/store/images', String(built.stdout).trim()));
    t.true(readdirSync(join(tree, 'usr/share/zoneinfo')).includes('Europe'));
    t.deepEqual(await readdir(join(disk, 's/store/work')), []);
  });
});

/** Builds a recipe and kills the build `delay` ms after its log says `moment`. */
async function buildAndKill(
  state: ImageState,
  recipe: string,
  moment: string,
  delay = 0,
): Promise<NodeJS.Signals | null> {
  const child = spawn('bin/kiln', ['image', 'build', recipe], {
    env: state.env,
    stdio: ['ignore', 'ignore', 'pipe'],
  });
  let log = '';
  child.stderr.on('data', (chunk) => {
    const before = log.includes(moment);
    log += chunk;
    if (!before && log.includes(moment)) setTimeout(() => child.kill('SIGKILL'), delay);
  });
  const [, signal] = await once(child, 'close');
  return signal;
}

test('a build that is killed anywhere leaves nothing that disturbs the next one', (t) =>
  withState(async (state) => {
    t.timeout(300_000 * PATIENCE);
    const { paths } = state.engine;
    const recipe = await state.recipe(
      'killed',
      // With many files, so that composing takes long enough to be killed.
      'packages: [base-files, libc6, perl-base, perl, tzdata]\nscriptlets: { mode: none }',
    );
    for (const moment of ['unpacking', 'composing']) {
      // A small image may be done before the signal arrives: then it gets another chance.
      let signal: NodeJS.Signals | null = null;
      for (let chance = 0; chance < 20 && signal === null; chance++) {
        await collectGarbage(paths, { maxSize: 0 });
        t.deepEqual(await listImages(paths), []);
        signal = await buildAndKill(state, recipe, moment);
      }
      t.is(signal, 'SIGKILL', moment);
      const { exitCode, stderr, stdout } = await state.kiln(['image', 'build', recipe]);
      t.is(exitCode, 0, String(stderr));
      const image = (await leaseImage(paths, String(stdout).trim()))!;
      t.true(snapshotTree(image.tree).has('/usr/bin/perl'));
      await image[Symbol.asyncDispose]();
      await workRemoved(state);
    }
  }));

test('killing a build ends the sandbox it is in', (t) =>
  withState(async (state) => {
    t.timeout(300_000 * PATIENCE);
    const { paths } = state.engine;
    const recipe = await state.recipe(
      'sandboxed',
      'packages: [base-files, base-passwd, dash, coreutils, passwd, libc-bin, rpm]',
    );
    // The packages are unpacked once; what is killed are transactions.
    const first = await state.kiln(['image', 'build', recipe]);
    t.is(first.exitCode, 0, String(first.stderr));
    const id = String(first.stdout).trim();
    const before = await snapshotOf(state, id);
    let killed = 0;
    // The last ones only where all before came too late.
    for (const delay of [150, 400, 650, 50, 20, 20, 20]) {
      if (delay < 150 && killed > 0) break;
      await removeImage(paths, id);
      if ((await buildAndKill(state, recipe, 'composing', delay)) === 'SIGKILL') killed++;
      const { exitCode, stderr } = await state.kiln(['image', 'build', recipe]);
      t.is(exitCode, 0, String(stderr));
      t.deepEqual([...differences(before, await snapshotOf(state, id))], [], `${delay} ms`);
    }
    t.true(killed > 0);
    t.is((await state.kiln(['gc'])).exitCode, 0);
    t.true(await eventually(async () => (await readdir(paths.sandboxes)).length === 0));
    await workRemoved(state);
  }));

/**
 * Only the client was killed: kilnd's worker ends the build, which may have been done already, by itself. What it
 * leaves is removed by the next call; one that came before its end has found it at work.
 */
async function workRemoved(state: ImageState): Promise<void> {
  const work = join(state.engine.paths.store, 'work');
  await eventually(async () => {
    if ((await readdir(work)).length === 0) return true;
    await state.kiln(['gc']);
    return undefined;
  });
}

/** Without what tells the time, inode numbers or the order of processes. */
async function snapshotOf(state: ImageState, id: string): Promise<Map<string, string>> {
  await using image = (await leaseImage(state.engine.paths, id))!;
  const snapshot = snapshotTree(image.tree);
  for (const path of snapshot.keys()) {
    if (/\/(?:aux-cache|rpmdb\.sqlite.*)$/.test(path)) snapshot.delete(path);
  }
  return snapshot;
}

test('an image in use is kept: by a process, or by a sandbox that outlives it', (t) =>
  withState(async (state) => {
    const { paths } = state.engine;
    const id = await build(state, 'used');
    const lease = (await leaseImage(paths, id))!;
    const refused = await state.kiln(['image', 'rm', id.slice(0, 12)]);
    t.is(refused.exitCode, 125);
    t.regex(String(refused.stderr), /is in use by a running command/);
    t.true((await listImages(paths))[0]!.inUse);
    t.deepEqual((await collectGarbage(paths, { maxSize: 0, maxAge: 0 })).images, []);
    await lease[Symbol.asyncDispose]();

    const sandbox = join(paths.sandboxes, 'abc');
    mkdirSync(sandbox, { recursive: true });
    writeFileSync(join(sandbox, 'sandbox.json'), JSON.stringify({ id: 'abc', image: id }));
    await t.throwsAsync(removeImage(paths, id), {
      instanceOf: KilnError,
      message: /the sandbox abc/,
    });
    await rm(sandbox, { recursive: true });

    t.is((await state.kiln(['image', 'rm', id.slice(0, 12)])).exitCode, 0);
    t.deepEqual(await listImages(paths), []);
    t.is(await leaseImage(paths, id), undefined);
  }));

test('gc removes the least recently used first, and packages that nobody needs', (t) =>
  withState(async (state) => {
    const { paths } = state.engine;
    const ids: string[] = [];
    for (const name of ['first', 'second', 'third']) ids.push(await build(state, name));
    const libc = await build(state, 'libc', 'packages: [libc6]\nscriptlets: { mode: none }');
    const [first, second, third] = ids as [string, string, string];
    const hours = (id: string, ago: number) => {
      const at = new Date(Date.now() - ago * 3_600_000);
      utimesSync(imageFiles.lease(imageDirectory(paths, id)), at, at);
    };
    hours(first, 30);
    hours(second, 20);
    hours(third, 10);
    hours(libc, 40);
    const order = (await listImages(paths)).map(({ manifest }) => manifest.id);
    t.deepEqual(order, [third, second, first, libc]);

    const { packages } = await readContents(paths, libc);
    const gone = packageDirectory(paths, packages.find(({ name }) => name === 'libc6')!.digest);
    const kept = packageDirectory(
      paths,
      packages.find(({ name }) => name === 'base-files')!.digest,
    );
    const old = new Date(Date.now() - 40 * 3_600_000);
    utimesSync(join(gone, 'package.json'), old, old);

    const aged = await collectGarbage(paths, { maxAge: 25 * 3_600_000 });
    t.deepEqual([...aged.images].sort(), [first, libc].sort());
    t.is(aged.packages, 1);
    const left = readdirSync(paths.packages);
    t.false(left.includes(gone.split('/').at(-1)!));
    t.true(left.includes(kept.split('/').at(-1)!));

    // An image of which nothing is known stops no clearing up.
    await rm(imageFiles.contents(imageDirectory(paths, third)));
    t.deepEqual((await collectGarbage(paths, { maxAge: 25 * 3_600_000 })).images, []);

    // All but one byte fits: a package without an image goes before any image.
    const size = async () => {
      const images = await listImages(paths);
      const own = images.reduce((sum, { manifest }) => sum + manifest.ownBytes, 0);
      return own + (await packageBytes(paths.packages));
    };
    const before = await size();
    const dry = await collectGarbage(paths, { maxSize: before - 1, dryRun: true });
    t.is(await size(), before, 'a dry run removes nothing');
    t.true(dry.bytes > 0);
    const shrunk = await collectGarbage(paths, { maxSize: before - 1 });
    t.deepEqual(
      [shrunk.images, shrunk.packages, shrunk.bytes],
      [dry.images, dry.packages, dry.bytes],
    );
    t.is(before - (await size()), dry.bytes);
    t.deepEqual(shrunk.images, []);
    t.true(shrunk.packages >= 1);
    while ((await collectGarbage(paths, { maxSize: (await size()) - 1 })).images.length === 0);
    t.deepEqual(
      (await listImages(paths)).map(({ manifest }) => manifest.id),
      [third],
    );
    t.deepEqual(await readdir(paths.trash), []);

    const emptied = await collectGarbage(paths, { maxSize: 0 });
    t.deepEqual(emptied.images, [third]);
    t.deepEqual(await readdir(paths.packages), []);
  }));

async function packageBytes(directory: string): Promise<number> {
  let sum = 0;
  for (const name of await readdir(directory)) {
    const text = await readFile(join(directory, name, 'package.json'), 'utf8');
    sum += JSON.parse(text).package.installedSize;
  }
  return sum;
}

test('after a crash of the machine, only what had reached the disk is used', (t) =>
  withState(async (state) => {
    const { paths } = state.engine;
    const id = await build(state, 'crash');
    const file = imageFiles.manifest(imageDirectory(paths, id));
    const manifest = readRecord(file) as ImageManifest;
    const otherBoot = { ...manifest.made, boot: '00000000-0000-0000-0000-000000000000' };
    const syncPoints = join(paths.store, 'sync-points.json');
    // What the command has begun in the background must not end in the midst of this. It waits
    // for whatever anybody has written to this file system.
    await eventually(async () => existsSync(syncPoints));
    await rm(syncPoints);
    t.not(readManifest(paths, id), undefined);

    writeRecord(file, { ...manifest, made: otherBoot });
    t.is(readManifest(paths, id), undefined);
    t.is(await leaseImage(paths, id), undefined);

    // What that boot had synced after the image was made is good.
    await writeFile(
      syncPoints,
      JSON.stringify({ points: [{ ...otherBoot, uptime: otherBoot.uptime + 1 }] }),
    );
    t.not(readManifest(paths, id), undefined);
    await syncStore(paths);
    t.not(readManifest(paths, id), undefined);

    await writeFile(
      syncPoints,
      JSON.stringify({ points: [{ ...otherBoot, uptime: otherBoot.uptime - 1 }] }),
    );
    await collectGarbage(paths, {});
    t.deepEqual(await readdir(paths.images), []);
  }));

test('the id of an image depends on content and owner, not on the recipe’s name', (t) =>
  withState(async (state) => {
    const { paths } = state.engine;
    const yaml = (content: string) => `${SMALL}\nfiles: [{ path: /etc/x, content: ${content} }]`;
    const open = async (name: string, content: string) =>
      await state.open(await state.recipe(name, yaml(content)));
    const a: LeasedImage = await open('a', 'one');
    const b = await open('b', 'one');
    const c = await open('c', 'two');
    t.is(a.manifest.id, b.manifest.id);
    t.not(a.manifest.id, c.manifest.id);
    t.is(await findImage({ paths, owner: undefined }, a.manifest.id.slice(0, 10)), a.manifest.id);
    t.is(await readFile(join(c.tree, 'etc/x'), 'utf8'), 'two');
    // Two builds of one lock give one tree.
    const before = snapshotTree(c.tree);
    await c[Symbol.asyncDispose]();
    await removeImage(paths, c.manifest.id);
    const again = await open('c', 'two');
    t.deepEqual([...differences(before, snapshotTree(again.tree))], []);
  }));

test('garbage of any depth is collected, and what cannot go holds nothing up', (t) =>
  withState(async (state) => {
    const { paths } = state.engine;
    mkdirSync(paths.trash, { recursive: true });
    makeDeepTree(join(paths.trash, 'deep'), 20);
    t.deepEqual((await collectGarbage(paths, {})).failures, []);
    t.deepEqual(await readdir(paths.trash), []);

    mkdirSync(join(paths.trash, 'a'));
    mkdirSync(join(paths.trash, 'b', 'busy'), { recursive: true });
    mkdirSync(join(paths.trash, 'c'));
    await execa('mount', ['-t', 'tmpfs', 'tmpfs', join(paths.trash, 'b', 'busy')]);
    try {
      const report = await collectGarbage(paths, {});
      t.is(report.trees, 2);
      t.deepEqual(
        report.failures.map(({ code }) => code),
        ['E_REMOVE'],
      );
      t.deepEqual(await readdir(paths.trash), ['b']);
    } finally {
      await execa('umount', [join(paths.trash, 'b', 'busy')]);
    }
    t.is((await collectGarbage(paths, {})).trees, 1);
  }));

test('image rm deletes the tree at once, and unneeded packages on request', (t) =>
  withState(async (state) => {
    const { paths } = state.engine;
    const [first, second] = [await build(state, 'one'), await build(state, 'two')];
    const trash = await readdir(paths.trash);
    const removed = await state.kiln(['image', 'rm', first]);
    t.is(removed.exitCode, 0, String(removed.stderr));
    t.is(removed.stdout, first);
    t.regex(String(removed.stderr), /^kiln: freed \d+\.\dM$/);
    t.deepEqual(await readdir(paths.trash), trash);
    const packages = await readdir(paths.packages);
    t.true(packages.length > 0);
    const kept = await build(state, 'three', SMALL.replace('base-passwd', 'base-passwd, debconf'));
    const last = await state.kiln(['image', 'rm', kept]);
    t.regex(
      String(last.stderr),
      /[1-9]\d* packages? that no image uses .* --packages removes them/,
    );
    const again = await build(state, 'three', SMALL.replace('base-passwd', 'base-passwd, debconf'));
    const all = await state.kiln(['image', 'rm', '--packages', again]);
    t.is(all.exitCode, 0, String(all.stderr));
    t.notRegex(String(all.stderr), /no image uses/);
    t.deepEqual((await readdir(paths.packages)).sort(), packages.sort());
    t.deepEqual(
      (await listImages(paths)).map(({ manifest }) => manifest.id),
      [second],
    );
  }));

test('a copied tree takes no more room than its model, since holes stay holes', async (t) => {
  const directory = await mkdtemp(join(tmpdir(), 'kiln-sparse-'));
  t.teardown(() => removeTree(directory));
  mkdirSync(join(directory, 'model'));
  const file = join(directory, 'model', 'file');
  await execa('truncate', ['-s', '1T', file]);
  await execa('dd', [
    ...['if=/dev/urandom', `of=${file}`, 'bs=1M', 'count=9', 'seek=700000', 'conv=notrunc'],
  ]);
  copyTree(join(directory, 'model'), join(directory, 'copy'));
  const copy = join(directory, 'copy', 'file');
  t.deepEqual([statSync(copy).size, statSync(copy).blocks], [2 ** 40, statSync(file).blocks]);
  // Both begin in a hole, and end in one.
  const part = ['--ignore-initial', String(699_999 * 2 ** 20), '--bytes', String(12 * 2 ** 20)];
  await t.notThrowsAsync(execa('cmp', [...part, copy, file]));
});

test('a tree that is too deep to copy is refused by name', async (t) => {
  const directory = await mkdtemp(join(tmpdir(), 'kiln-deep-'));
  t.teardown(() => removeTree(directory));
  makeDeepTree(join(directory, 'allowed'), 100);
  copyTree(join(directory, 'allowed'), join(directory, 'copy'));
  makeDeepTree(join(directory, 'deep'), 1500);
  for (const copy of [copyTree, cloneTree]) {
    const make = () => copy(join(directory, 'deep'), join(directory, copy.name));
    t.is(t.throws(make, { instanceOf: KilnError })?.code, 'E_TREE_DEPTH');
  }
  const clamp = { after: 0n, to: 0n };
  const clean = () => cleanUpperTree(join(directory, 'deep'), clamp);
  t.is(t.throws(clean, { instanceOf: KilnError })?.code, 'E_TREE_DEPTH');
});

test('a local package that is missing, or is not the locked one, is not unpacked', (t) =>
  withState(async (state) => {
    const { directory, key } = await debianRepository();
    const copy = join(state.directory, 'copy');
    await execa('cp', ['-rs', directory, copy]);
    const repository = { id: 'copy', directory: copy, ...(key === undefined ? {} : { key }) };
    const recipe = await state.recipe('changed', SMALL, [repository]);
    const locked = await state.kiln(['image', 'lock', '--allow-host', recipe]);
    t.is(locked.exitCode, 0, String(locked.stderr));
    const name = (await readdir(copy)).find((file) => /^base-passwd-.*\.rpm$/.test(file))!;
    const content = await readFile(join(copy, name));
    await rm(join(copy, name));
    for (const change of ['gone', 'other']) {
      if (change === 'other') {
        content[content.length - 1]! ^= 1;
        await writeFile(join(copy, name), content);
      }
      const error = await t.throwsAsync<KilnError>(state.open(recipe));
      t.is(error?.code, 'E_PACKAGE_CHANGED', `${change}: ${error}`);
      t.deepEqual(await readdir(state.engine.paths.packages), [], change);
      t.deepEqual(await readdir(join(state.engine.paths.store, 'work')), [], change);
    }
  }));
