import { mkdtemp, rm, truncate, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test from 'ava';
import { execa } from 'execa';
import { readUserFile } from '../../src/host/files/user-file.ts';

test('a fifo, a device, a folder and an endless file are errors at once', async (t) => {
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

test('a pipe that the caller names is read to its end, and one without a writer is given up', async (t) => {
  const directory = await mkdtemp(join(tmpdir(), 'kiln-user-file-'));
  t.teardown(() => rm(directory, { recursive: true }));
  const fifo = join(directory, 'fifo');
  await execa('mkfifo', [fifo]);
  const script = `import { readUserFile } from ${JSON.stringify(join(import.meta.dirname, '../../src/host/files/user-file.ts'))};
    process.stdout.write(readUserFile(process.argv[1], 100000, 'anything'));`;
  const node = [process.execPath, '--input-type=module', '-e', script];
  const reader = (path: string) =>
    execa(node[0] ?? '', [...node.slice(1), path], { reject: false, timeout: 60_000 });
  const silent = await reader(fifo);
  t.regex(silent.stderr, /nothing comes from .*fifo, which is a pipe/);
  const late = reader(fifo);
  await execa('sh', ['-c', 'sleep 0.5; (printf abc; sleep 0.5; printf def) > "$0"', fifo]);
  t.is((await late).stdout, 'abcdef');
  const substituted = ['-c', '"$@" <(sleep 0.5; printf xyz)', 'bash', ...node];
  const { stdout } = await execa('bash', substituted);
  t.is(stdout, 'xyz');
});
