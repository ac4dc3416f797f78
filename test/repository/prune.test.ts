import { hash } from 'node:crypto';
import { utimesSync } from 'node:fs';
import { mkdir, readdir, stat, utimes, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { setImmediate as nextTurn } from 'node:timers/promises';
import test from 'ava';
import { acquireLock } from '../../src/host/files/flock.ts';
import { Cache } from '../../src/packages/repository/cache.ts';
import { pruneCache } from '../../src/packages/repository/prune.ts';
import { temporaryDirectory } from './rpm-repository.ts';

const HOUR = 3600_000;

test('a file that a build finds while others are removed stays', async (t) => {
  const root = await temporaryDirectory(t);
  const cache = new Cache({ cache: root });
  const digests = ['one', 'two'].map((text) => `sha256:${hash('sha256', text, 'hex')}`);
  for (const [index, text] of ['one', 'two'].entries()) {
    const path = cache.object(digests[index]!);
    await mkdir(dirname(path), { recursive: true });
    await writeFile(path, text);
    const used = new Date(Date.now() - (100 - index) * HOUR);
    await utimes(path, used, used);
  }
  // Asked between the listing and each removal: a build finds both meanwhile.
  const { signal } = new AbortController();
  const now = new Date();
  const found = () => {
    for (const digest of digests) utimesSync(cache.object(digest), now, now);
  };
  Object.defineProperty(signal, 'throwIfAborted', { value: found });
  const removed = await pruneCache({ cache: root }, { maxAge: 0, signal });
  t.deepEqual(removed, { files: 0, bytes: 0 });
  for (const digest of digests) t.truthy(await cache.find(digest));
});

test('a file counts as used from the moment it is looked for', async (t) => {
  const root = await temporaryDirectory(t);
  const cache = new Cache({ cache: root });
  const content = Buffer.alloc(64 << 20);
  const digest = `sha256:${hash('sha256', content, 'hex')}`;
  const path = cache.object(digest);
  await mkdir(dirname(path), { recursive: true });
  await writeFile(path, content);
  const used = new Date(Date.now() - 100 * HOUR);
  await utimes(path, used, used);
  let over = false;
  const found = cache.find(digest).finally(() => {
    over = true;
  });
  while ((await stat(path)).mtimeMs <= used.getTime() && !over) await nextTurn();
  t.false(over, 'gc could have removed it while it was read');
  t.is(await found, path);
});

test('old files go, then the least recently used; downloads stay', async (t) => {
  const cache = await temporaryDirectory(t);
  const make = async (path: string, hours: number, bytes = 1000) => {
    await mkdir(dirname(join(cache, path)), { recursive: true });
    await writeFile(join(cache, path), Buffer.alloc(bytes));
    const used = new Date(Date.now() - hours * HOUR);
    await utimes(join(cache, path), used, used);
  };
  await make('objects/sha256/aa/ancient', 1000);
  await make('objects/sha256/bb/old', 50);
  await make('objects/sha256/cc/newer', 20);
  await make('objects/sha256/dd/now', 0, 5000);
  await make('solv/x.solv.1.2.tmp', 30);
  await make('solv/y.solv.1.2.tmp', 2);
  await make('solv/x.solv.lock', 2000, 0);
  await make('partial/sha256-abandoned', 30);
  await make('partial/sha256-running', 30);
  await make('partial/sha256-young', 3);
  // Sandboxes write there: a path could lead out of it by the time that it is removed.
  await make('builds/0/ccache/old', 9999);
  await using _held = await acquireLock(join(cache, 'partial/sha256-running'));
  const removed = await pruneCache({ cache }, { maxSize: 7500, maxAge: 500 * HOUR });
  const entries = await readdir(cache, { recursive: true });
  const left: string[] = [];
  for (const entry of entries) if ((await stat(join(cache, entry))).isFile()) left.push(entry);
  t.deepEqual(left.sort(), [
    'builds/0/ccache/old',
    'objects/sha256/cc/newer',
    'objects/sha256/dd/now',
    'partial/sha256-running',
    'partial/sha256-young',
    'solv/x.solv.lock',
    'solv/y.solv.1.2.tmp',
  ]);
  t.deepEqual(removed, { files: 4, bytes: 4000 });
  t.deepEqual(await pruneCache({ cache: join(cache, 'none') }, { maxSize: 0, maxAge: 0 }), {
    files: 0,
    bytes: 0,
  });
});
