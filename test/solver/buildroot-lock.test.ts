import { readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import test from 'ava';
import { execa } from 'execa';
import type { KilnError } from '../../src/errors.ts';
import { parseBuildrootLock, serializeBuildrootLock } from '../../src/repository/buildroot-lock.ts';
import { fetchPackages } from '../../src/repository/fetch-packages.ts';
import { exportBuildrootLock } from '../../src/solver/export-buildroot-lock.ts';
import { importBuildrootLock } from '../../src/solver/import-buildroot-lock.ts';
import { MirrorServer } from '../repository/mirror-server.ts';
import { lockOf, repository } from '../repository/open.ts';
import {
  buildPackages,
  createRepository,
  temporaryDirectory,
} from '../repository/rpm-repository.ts';

/** What mock's own query_packages() asks rpm for (installed_packages.py), with its field names. */
const FIELDS = ['name', 'arch', 'license', 'version', 'release', 'epoch', 'sigmd5'];

test('there and back: what mock wants of each package, and the same lock again', async (t) => {
  const directory = await temporaryDirectory(t);
  const rpms = join(directory, 'rpms');
  await buildPackages(rpms, [
    { name: 'zebra', requires: ['apple', 'middle'] },
    { name: 'middle', epoch: 3, requires: ['apple'] },
    { name: 'apple', arch: 'x86_64' },
  ]);
  await createRepository(rpms);
  await using server = await MirrorServer.start(rpms);
  const paths = { cache: join(directory, 'cache') };
  const config = repository({ id: 'base', baseurl: server.url, gpgcheck: false });
  const lock = await lockOf([config], paths.cache, { install: ['zebra'] });
  const files = await fetchPackages(lock, { paths });
  const exported = await exportBuildrootLock(lock, files, { paths });

  const query = `${FIELDS.map((field) => `%{${field}}`).join('|/@')}\\n`;
  const { stdout } = await execa('rpm', ['-qp', '--qf', query, ...files.values()]);
  const expected = stdout.split('\n').map((line) => {
    const values = line.split('|/@').map((value) => (value === '(none)' ? null : value));
    return Object.fromEntries([
      ['signature', null],
      ...FIELDS.map((field, index) => [field, values[index]]),
    ]);
  });
  expected.sort((a, b) => (a.name < b.name ? -1 : 1));
  t.deepEqual(
    exported.buildroot.rpms.map(({ url: _, ...fields }) => fields),
    expected,
  );
  t.is(exported.buildroot.rpms[0]?.url, `${server.url}apple-1-1.x86_64.rpm`);

  const text = serializeBuildrootLock(exported);
  const python =
    'import json,sys; d=json.load(sys.stdin); sys.stdout.write(json.dumps(d, indent=4, sort_keys=True) + "\\n")';
  t.is(
    (await execa('python3', ['-c', python], { input: text, stripFinalNewline: false })).stdout,
    text,
  );

  const imported = await importBuildrootLock(parseBuildrootLock(text, 'x'), {
    paths: { cache: join(directory, 'other') },
    arch: 'x86_64',
  });
  t.deepEqual(
    imported.packages.map(({ nevra, digest, size }) => ({ nevra, digest, size })),
    lock.packages.map(({ nevra, digest, size }) => ({ nevra, digest, size })),
  );
  t.deepEqual(
    imported.packages.map(({ name }) => name),
    ['apple', 'middle', 'zebra'],
  );
  const again = await fetchPackages(imported, { paths: { cache: join(directory, 'third') } });
  t.is(again.size, 3);
});

test('a package that is not the one the lock means is refused; so is an incomplete set', async (t) => {
  const directory = await temporaryDirectory(t);
  await buildPackages(directory, [{ name: 'one', requires: ['two'] }, { name: 'two' }]);
  await createRepository(directory);
  const paths = { cache: join(directory, 'cache') };
  const lock = await lockOf([repository({ id: 'l', directory })], paths.cache, {
    install: ['one'],
  });
  const files = await fetchPackages(lock, { paths });
  const exported = await exportBuildrootLock(lock, files, { paths });
  const [one, two] = exported.buildroot.rpms;
  t.is(one?.url, pathToFileURL(join(directory, 'one-1-1.noarch.rpm')).href);
  const swapped = { ...exported, buildroot: { rpms: [{ ...one!, sigmd5: two!.sigmd5 }, two!] } };
  const error = await t.throwsAsync<KilnError>(
    importBuildrootLock(swapped, { paths, arch: 'x86_64' }),
  );
  t.is(error?.code, 'E_PACKAGE_CHANGED');
  const half = { ...exported, buildroot: { rpms: [one!] } };
  const missing = await t.throwsAsync<KilnError>(
    importBuildrootLock(half, { paths, arch: 'x86_64' }),
  );
  t.is(missing?.code, 'E_SOLVER_PROBLEM');
  t.regex(missing?.message ?? '', /nothing provides two needed by one/);
  const rpm = await readFile(join(directory, 'two-1-1.noarch.rpm'));
  rpm[rpm.length - 1] = (rpm.at(-1) ?? 0) ^ 1;
  await writeFile(join(directory, 'two-1-1.noarch.rpm'), rpm);
  const broken = await t.throwsAsync<KilnError>(
    importBuildrootLock(exported, { paths, arch: 'x86_64' }),
  );
  t.is(broken?.code, 'E_RPM_DIGEST');
});

test('what is no buildroot lock is refused', (t) => {
  for (const text of ['', '[]', '{"version":"2.0.0","buildroot":{"rpms":[]},"config":{}}']) {
    t.is(t.throws<KilnError>(() => parseBuildrootLock(text, 'f'))?.code, 'E_LOCK_INVALID');
  }
});
