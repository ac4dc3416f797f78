import { mkdtemp, rm, truncate, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test from 'ava';
import { execa } from 'execa';
import { readUserFile } from '../../src/kernel/user-file.ts';

test('a fifo, a device, a folder, a file without end: an error at once', async (t) => {
  const directory = await mkdtemp(join(tmpdir(), 'kiln-user-file-'));
  t.teardown(() => rm(directory, { recursive: true }));
  const at = (name: string) => join(directory, name);
  await execa('mkfifo', [at('fifo')]);
  await writeFile(at('sparse'), '');
  await truncate(at('sparse'), 2 ** 40);
  for (const path of [at('fifo'), '/dev/zero', '/dev/tty', directory]) {
    t.throws(() => readUserFile(path, 100), { message: /not a regular file|ENXIO/ }, path);
  }
  t.throws(() => readUserFile(at('sparse'), 1000), { message: /larger than 1000 bytes/ });
  // The sizes of these are said to be 0.
  t.regex(readUserFile('/proc/self/status', 100_000).toString(), /^Name:/);
  await writeFile(at('text'), 'x'.repeat(1000));
  t.is(readUserFile(at('text'), 1000).toString(), 'x'.repeat(1000));
  t.throws(() => readUserFile(at('text'), 999), { message: /larger/ });
});
