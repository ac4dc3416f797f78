import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import test from 'ava';
import { execa } from 'execa';

const top = join(import.meta.dirname, '../..');

/** Every text file under git's care, and those about to be. */
async function files(...patterns: string[]): Promise<Array<{ path: string; text: string }>> {
  const { stdout } = await execa(
    'git',
    ['ls-files', '-z', '--cached', '--others', '--exclude-standard', '--', ...patterns],
    { cwd: top },
  );
  const paths = stdout.split('\0').filter((path) => path !== '');
  const read = paths.map(async (path) => {
    const bytes = await readFile(join(top, path)).catch(() => Buffer.alloc(0));
    return { path, text: bytes.includes(0) ? '' : bytes.toString('utf8') };
  });
  return Promise.all(read);
}

test('no file names a package registry', async (t) => {
  // In pieces, for this file is searched as well. Distributions' own mirrors belong in recipes.
  const hosts = ['registry.npm' + 'js', 'npm' + 'js.org', 'deb.deb' + 'ian.org', 'pypi' + '.org'];
  for (const { path, text } of await files()) {
    for (const host of hosts) t.false(text.includes(host), `${path} names ${host}`);
  }
});

test('no file names a path that only one machine has', async (t) => {
  const places = ['/wo' + 'rk/', '/tmp/no' + 'de24', '../sha' + 'red'];
  for (const { path, text } of await files()) {
    for (const place of places) t.false(text.includes(place), `${path} names ${place}`);
  }
});

test('no test is switched off in its own file', async (t) => {
  for (const { path, text } of await files('test/*.test.ts', 'test/**/*.test.ts')) {
    const off = /\btest(?:\.\w+)*\.(?:only|failing|todo)\b/.exec(text);
    t.is(off, null, `${path}: ${off?.[0]}`);
  }
});

test('every test on the skip list has a reason', async (t) => {
  const list = JSON.parse(await readFile(join(top, 'test/skip-list.json'), 'utf8'));
  const unexplained = Object.entries(list)
    .filter(([, reason]) => typeof reason !== 'string' || reason.length <= 10)
    .map(([name]) => name);
  t.deepEqual(unexplained, []);
});
