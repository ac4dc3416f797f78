import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import test, { type ExecutionContext } from 'ava';
import { execa } from 'execa';
import { KilnError } from '../../src/errors.ts';
import { attempt } from '../../src/host/calls/libc.ts';
import { removeTree } from '../../src/host/files/remove-tree.ts';
import { treeUsage } from '../../src/host/files/tree-usage.ts';
import { DiskWatch } from '../../src/host/state/disk-watch.ts';
import { PATIENCE } from '../support/busybox-state.ts';
import { makeDeepTree, perl } from '../support/deep-tree.ts';
import { until } from '../support/eventually.ts';

const MIB = 2 ** 20;

/** An ext4 of its own, so that nothing else writes to it. */
async function ownDisk(t: ExecutionContext, size: string): Promise<string> {
  const directory = mkdtempSync(join(tmpdir(), 'kiln-disk-'));
  const image = `${directory}.ext4`;
  await execa('truncate', ['-s', size, image]);
  await execa('mkfs.ext4', ['-q', '-m', '0', image]);
  await execa('mount', ['-o', 'loop', image, directory]);
  t.teardown(async () => {
    await execa('umount', [directory]);
    await removeTree(directory);
    await removeTree(image);
  });
  return directory;
}

function bound(tree: string, bytes: number) {
  return { tree, bytes, who: 'the test', hint: 'none' };
}

/** A process that writes as fast as it can. */
function writer(t: ExecutionContext, directory: string, script: string): ChildProcess {
  const child = spawn('sh', ['-c', script], { cwd: directory, stdio: 'ignore' });
  t.teardown(() => child.kill('SIGKILL'));
  return child;
}

async function freeOf(directory: string): Promise<number> {
  const { stdout } = await execa('stat', ['-f', '-c', '%a %S', directory]);
  const [blocks = 0, size = 0] = stdout.split(' ').map(Number);
  return blocks * size;
}

/** Blocks this thread, as composing a tree does. */
function busy(milliseconds: number): void {
  Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, milliseconds);
}

test.serial(
  'a writer is killed before the disk is full, even while this thread is busy',
  async (t) => {
    const directory = await ownDisk(t, '1G');
    using watch = new DiskWatch(directory, undefined, 200 * MIB);
    const child = writer(t, directory, 'exec cat /dev/zero > fill');
    watch.kills(child.pid!);
    await watch.ready();
    const ended = once(child, 'exit');
    const isDead = () => / Z /.test(readFileSync(`/proc/${child.pid}/stat`, 'utf8'));
    const last = Date.now() + 20_000 * PATIENCE;
    while (!isDead() && Date.now() < last) busy(1);
    // Whoever finds it dead learns why, though this thread has heard nothing yet.
    const error = await t.throwsAsync<KilnError>(watch.throwIfKilled());
    t.is(error?.code, 'E_DISK_LOW');
    t.deepEqual(await ended, [null, 'SIGKILL']);
    t.true((await freeOf(directory)) > 0);
  },
);

test.serial('a tree may grow by its bound, and other writers do not count', async (t) => {
  const directory = await ownDisk(t, '2G');
  const tree = join(directory, 'tree');
  mkdirSync(tree);
  writeFileSync(join(tree, 'before'), Buffer.alloc(80 * MIB));
  using watch = new DiskWatch(directory, bound(tree, 100 * MIB), 50 * MIB);
  await watch.ready();
  writeFileSync(join(directory, 'of-others'), Buffer.alloc(400 * MIB));
  writeFileSync(join(tree, 'some'), Buffer.alloc(60 * MIB));
  await sleep(1500);
  t.false(watch.signal.aborted);
  const child = writer(t, tree, 'while :; do head -c 5M /dev/zero >> more; done');
  watch.kills(child.pid!);
  t.deepEqual(await once(child, 'exit'), [null, 'SIGKILL']);
  t.true(await until(() => watch.signal.aborted));
  const { code, message } = watch.signal.reason as KilnError;
  t.is(code, 'E_DISK');
  t.regex(message, /the test put more than 100\.0M on/);
  t.true((await freeOf(directory)) > 600 * MIB);
});

test.serial('files count as well as bytes, and folders too deep are reported', async (t) => {
  const directory = mkdtempSync(join(tmpdir(), 'kiln-disk-'));
  t.teardown(() => removeTree(directory));
  using many = new DiskWatch(directory, { ...bound(directory, 100 * MIB), entries: 1000 });
  await many.ready();
  perl(directory, 'for (1..2000) { open F, ">", "f$_" }');
  const error = await t.throwsAsync(many.finish(), { instanceOf: KilnError });
  t.is((error as KilnError).code, 'E_DISK');
  t.regex(error.message, /more than 1000 files/);

  using deep = new DiskWatch(directory, bound(directory, 100 * MIB));
  await deep.ready();
  makeDeepTree(join(directory, 'deep'), 1500);
  t.is((await t.throwsAsync<KilnError>(deep.finish()))?.code, 'E_TREE_DEPTH');
});

test.serial('the last look finds late growth, and growth within the bound is fine', async (t) => {
  const directory = mkdtempSync(join(tmpdir(), 'kiln-disk-'));
  t.teardown(() => removeTree(directory));
  using fine = new DiskWatch(directory, bound(directory, 10 * MIB));
  await fine.ready();
  writeFileSync(join(directory, 'some'), Buffer.alloc(8 * MIB));
  await fine.finish();
  using watch = new DiskWatch(directory, bound(directory, 10 * MIB));
  await watch.ready();
  writeFileSync(join(directory, 'more'), Buffer.alloc(11 * MIB));
  t.is((await t.throwsAsync<KilnError>(watch.finish()))?.code, 'E_DISK');
});

test.serial('usage is what du says: without holes, and each file once', async (t) => {
  const directory = mkdtempSync(join(tmpdir(), 'kiln-usage-'));
  t.teardown(() => removeTree(directory));
  perl(
    directory,
    `mkdir "a"; mkdir "a/b"; open F, ">", "a/b/f"; print F "x" x 100000; close F; link "a/b/f", "a/g";
     symlink "/", "a/l"; open F, ">", "hole"; truncate F, 1e12`,
  );
  const most = { bytes: Number.POSITIVE_INFINITY, entries: Number.POSITIVE_INFINITY };
  const { stdout } = await execa('du', ['-s', '-B1', directory]);
  const own = (await execa('stat', ['-c', '%b', directory])).stdout;
  const usage = treeUsage(directory, most);
  t.is(usage.bytes, Number(stdout.split('\t')[0]) - Number(own) * 512);
  t.is(usage.entries, 6);
});

test.serial('the thread of a watch ends with the watch, and leaves nothing open', async (t) => {
  const directory = mkdtempSync(join(tmpdir(), 'kiln-disk-'));
  t.teardown(() => removeTree(directory));
  for (let index = 0; index < 2000; index++)
    mkdirSync(join(directory, `d${index}/e`), { recursive: true });
  // By Node's name for them: V8 and libuv have threads of their own, which come and go.
  const threads = () =>
    readdirSync('/proc/self/task').filter(
      (thread) =>
        attempt(() => readFileSync(`/proc/self/task/${thread}/comm`, 'latin1')) ===
        'WorkerThread\n',
    ).length;
  const open = () => readdirSync('/proc/self/fd').length;
  t.true(await until(() => threads() === 0), 'those of the tests before');
  const before = open();
  for (const pause of [0, 5, 20, 50]) {
    // The first ends before its thread has begun, others while they count.
    using _ = new DiskWatch(directory, bound(directory, MIB * 100));
    await sleep(pause);
  }
  t.true(await until(() => threads() === 0));
  t.true(await until(() => open() <= before), `${open()} descriptors instead of ${before}`);
});
