import { mkdir, readFile, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import test from 'ava';
import { entryFile, packageDirectory, writeEntry } from '../../src/image/store/entry.ts';
import { imageDirectory, imageFiles } from '../../src/image/store/manifest.ts';
import { readRpm } from '../../src/packages/rpm/read.ts';
import { fixture } from '../rpm/fixtures.ts';
import { type BusyboxState, busyboxState, IMAGE } from '../support/busybox-state.ts';

let state: BusyboxState;

/** What the image of these tests has beside busybox: its packages and their files. */
const PACKAGES = {
  server: {
    '/usr/lib/systemd/system/server.service':
      '[Service]\nExecStart=/bin/sleep 9\nUser=build\nStateDirectory=server/state common\n',
    '/usr/lib/tmpfiles.d/server.conf':
      'd /var/lib/by-tmpfiles 0750 build build -\nC /etc/by-tmpfiles\nr! /var/lib/removed\nd /var/lib/%m\nd /var/lib/../lib\n',
    '/usr/lib/sysusers.d/server.conf':
      'u build 1000 "A server, with spaces" /var/lib/by-sysusers/\ng extra 50\n',
    '/var/lib/payload/default': 'a default',
  },
  other: { '/var/lib/common/other': 'another package has it' },
};

/** Made by scriptlets, or by the recipe: in no payload. */
const MADE = ['server/state', 'by-tmpfiles', 'by-sysusers', 'removed', 'common', 'elsewhere'];

test.before(async () => {
  state = await busyboxState();
  const tree = join(imageDirectory(state.paths, IMAGE), 'tree');
  const files: Record<string, string> = { ...PACKAGES.server, ...PACKAGES.other };
  for (const name of MADE) files[`/var/lib/${name}/key`] = `the key of ${name}`;
  for (const [path, text] of Object.entries(files)) {
    await mkdir(dirname(join(tree, path)), { recursive: true });
    await writeFile(join(tree, path), text);
  }
  const packages = Object.keys(PACKAGES).map((name) => ({ name, digest: `sha256:${name}` }));
  await writeFile(
    imageFiles.contents(imageDirectory(state.paths, IMAGE)),
    JSON.stringify({ inputs: null, packages, linked: [], exactReasons: [] }),
  );
  const real = await readRpm(fixture('payload-test-0.1-w3'));
  for (const [name, own] of Object.entries(PACKAGES)) {
    const entry = entryFile(packageDirectory(state.paths, `sha256:${name}`));
    const list = Object.keys(own).flatMap((path) => [path, dirname(path)]);
    // A directory that both have.
    const files = [...new Set([...list, '/var/lib'])].map((path) => ({ ...real.files[0]!, path }));
    const stored = { ...real, name, version: '1', release: '2', files };
    await mkdir(dirname(entry), { recursive: true });
    writeEntry(dirname(entry), fixture('payload-test-0.1-w3'), stored);
  }
});
test.after.always(() => state[Symbol.asyncDispose]());

const create = (name: string, ...options: readonly string[]) =>
  state.kiln(['service', 'create', '-r', IMAGE, '-u', 'server', ...options, name]);

const kept = async (name: string): Promise<string[]> => {
  const lib = join(state.paths.services, name, 'var/lib');
  const keys = await Promise.all(
    MADE.map((place) =>
      readFile(join(lib, place, 'key'), 'utf8').then(
        () => place,
        () => [],
      ),
    ),
  );
  return keys.flat();
};

test('a package’s own folders are those of tmpfiles.d, sysusers.d and its unit, empty without -C', async (t) => {
  const made = await create('empty');
  t.is(made.exitCode, 0, String(made.stderr));
  const line = String(made.stdout)
    .split('\n')
    .find((text) => text.includes('server-1-2'));
  t.is(
    line?.trim(),
    'server-1-2: /etc/by-tmpfiles, /var/lib/by-sysusers, /var/lib/by-tmpfiles, /var/lib/payload, /var/lib/server/state',
  );
  // Not another package's, not what is only removed, nor what nobody named.
  t.deepEqual(await kept('empty'), ['removed', 'common', 'elsewhere']);
  const copied = await create('copied', '-C');
  t.is(copied.exitCode, 0, String(copied.stderr));
  t.deepEqual(await kept('copied'), MADE);
});

test('a package that the image lacks is an error with a similar name', async (t) => {
  const wrong = await create('wrong', '-P', 'othre');
  t.is(wrong.exitCode, 125);
  t.regex(String(wrong.stderr), /no package othre \[E_\w+\]\n.*did you mean other\?/);
  t.is((await create('right', '-P', 'other')).exitCode, 0);
});
