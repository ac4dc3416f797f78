import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test from 'ava';
import { execa } from 'execa';
import { busyboxState, IMAGE } from '../support/busybox-state.ts';

test('a box starts from a state directory on a file system mounted nosuid,nodev', async (t) => {
  const directory = await mkdtemp(join(tmpdir(), 'kiln-mount-'));
  await execa('mount', ['-t', 'tmpfs', '-o', 'nosuid,nodev,mode=755', 'kiln-test', directory]);
  try {
    await using state = await busyboxState(directory);
    const result = await state.kiln(['run', '-r', IMAGE, '--', 'sh', '-c', 'echo up; exit 3']);
    t.is(result.exitCode, 3, String(result.stderr));
    t.is(result.stdout, 'up');
  } finally {
    await execa('umount', [directory]);
    await rm(directory, { recursive: true });
  }
});
