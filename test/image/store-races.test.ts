/** Two calls of kiln that remove from one store at once, on records without trees. */
import { mkdirSync } from 'node:fs';
import { mkdtemp, readdir, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test from 'ava';
import { withLock } from '../../src/host/files/flock.ts';
import { writeRecord } from '../../src/host/state/checked-file.ts';
import { type StatePaths, statePaths } from '../../src/host/state/paths.ts';
import { IMAGE_FORMAT } from '../../src/image/key.ts';
import { currentMoment } from '../../src/image/store/durability.ts';
import { entryFile, noteReader, packageDirectory } from '../../src/image/store/entry.ts';
import { removeUnusedPackages } from '../../src/image/store/gc.ts';
import { leaseImage, listImages } from '../../src/image/store/images.ts';
import { type ImageManifest, imageDirectory, writeImage } from '../../src/image/store/manifest.ts';
import { storageLeft } from '../../src/image/store/user-storage.ts';
import {
  ensureStore,
  openWorkDirectory,
  packagesLock,
} from '../../src/image/store/work-directory.ts';

const USER = { uid: 4711 };
const IMAGE_BYTES = 1000;

async function withStore(task: (paths: StatePaths) => Promise<void>): Promise<void> {
  const directory = await mkdtemp(join(tmpdir(), 'kiln-store-'));
  try {
    const paths = statePaths({ KILN_STATE: join(directory, 'state') });
    ensureStore(paths);
    await task(paths);
  } finally {
    await rm(directory, { recursive: true });
  }
}

/** An image that kiln has made for a build of the user's. */
async function addImage(
  paths: StatePaths,
  digit: string,
  linked: readonly string[] = [],
): Promise<string> {
  const id = digit.repeat(64);
  const directory = imageDirectory(paths, id);
  mkdirSync(join(directory, 'tree'), { recursive: true });
  const manifest = {
    ...{ format: IMAGE_FORMAT, id, made: currentMoment(), created: 1, ownBytes: IMAGE_BYTES },
    ...{ environment: {}, user: { uid: 0, gid: 0 }, accounts: [] },
  } as unknown as ImageManifest;
  const contents = { inputs: null, packages: [], linked, exactReasons: [] };
  const owner = { name: `image-${digit}`, private: false, forBuilds: true };
  await writeImage(directory, manifest, contents, { uid: USER.uid, owner });
  return id;
}

function addPackage(paths: StatePaths, digit: string): string {
  const digest = `sha256:${digit.repeat(64)}`;
  const directory = packageDirectory(paths, digest);
  mkdirSync(directory);
  writeRecord(entryFile(directory), { package: { installedSize: 10 } });
  noteReader(directory, USER, false);
  return digest;
}

function owner(storage: number) {
  return { ...USER, share: { memory: 0, pids: 0, disk: 0, storage } };
}

test('builds that make room at once tolerate that another one removes an image', (t) =>
  withStore(async (paths) => {
    for (const digit of '12345678') await addImage(paths, digit);
    const left = () => storageLeft(paths, owner(8 * IMAGE_BYTES), 6 * IMAGE_BYTES);
    const rooms = await Promise.all([left(), left(), left(), left()]);
    t.deepEqual(rooms, [2000, 2000, 2000, 2000]);
    const kept = await listImages(paths);
    t.true(kept.length <= 2, `${kept.length} images stay`);
  }));

test('an image in use is not removed to make room', (t) =>
  withStore(async (paths) => {
    const used = await addImage(paths, '1');
    await addImage(paths, '2');
    await using lease = await leaseImage(paths, used);
    t.truthy(lease);
    const twoMore = storageLeft(paths, owner(2 * IMAGE_BYTES), 2 * IMAGE_BYTES);
    await t.throwsAsync(twoMore, { code: 'E_DISK' });
    t.is(await storageLeft(paths, owner(2 * IMAGE_BYTES), IMAGE_BYTES), 0);
    t.deepEqual(
      (await listImages(paths)).map(({ manifest }) => manifest.id),
      [used],
    );
  }));

test('gc takes the lock of all image makers only if there is something to remove', (t) =>
  withStore(async (paths) => {
    await addImage(paths, '1', [addPackage(paths, 'a')]);
    const nothing = { count: 0, bytes: 0 };
    await withLock(packagesLock(paths), async () => {
      t.deepEqual(await removeUnusedPackages(paths, USER), nothing);
    });
    t.deepEqual(await removeUnusedPackages(paths), nothing);
  }));

test('a package that becomes needed while gc waits is kept', (t) =>
  withStore(async (paths) => {
    const [linked, needed] = [addPackage(paths, 'a'), addPackage(paths, 'b')];
    addPackage(paths, 'c');
    await using work = await openWorkDirectory(paths);
    const removed = await withLock(packagesLock(paths), async () => {
      const removal = removeUnusedPackages(paths, USER);
      await addImage(paths, '1', [linked]);
      writeRecord(join(work.path, 'needed.json'), { needed: [needed] });
      return { removal };
    });
    t.deepEqual(await removed.removal, { count: 1, bytes: 10 });
    t.deepEqual((await readdir(paths.packages)).sort(), ['a'.repeat(64), 'b'.repeat(64)]);
  }));
