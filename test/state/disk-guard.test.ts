import { once } from 'node:events';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test from 'ava';
import { execa } from 'execa';
import { KilnError } from '../../src/errors.ts';
import { guardDisk } from '../../src/state/disk-guard.ts';

test('what writes to a root is ended before the disk is full', async (t) => {
  const directory = await mkdtemp(join(tmpdir(), 'kiln-disk-'));
  await execa('mount', ['-t', 'tmpfs', '-o', 'size=16m', 'tmpfs', directory]);
  t.teardown(async () => {
    await execa('umount', [directory]);
    await rm(directory, { recursive: true });
  });
  // The watch itself keeps no process alive.
  const alive = setInterval(() => undefined, 100);
  t.teardown(() => clearInterval(alive));
  using guard = guardDisk(directory, 4 * 2 ** 20);
  const aborted = once(guard.signal, 'abort');
  await writeFile(join(directory, 'some'), Buffer.alloc(8 * 2 ** 20));
  const early = await Promise.race([
    aborted,
    new Promise((resolve) => setTimeout(resolve, 1200, 'no')),
  ]);
  t.is(early, 'no');
  await writeFile(join(directory, 'more'), Buffer.alloc(6 * 2 ** 20));
  await aborted;
  t.true(guard.signal.reason instanceof KilnError);
  t.is((guard.signal.reason as KilnError).code, 'E_DISK_LOW');
});
