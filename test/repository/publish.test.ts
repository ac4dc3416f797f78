/** The publisher of local repositories, against createrepo_c, dnf and rpm. */
import {
  appendFile,
  cp,
  mkdir,
  readdir,
  readFile,
  readlink,
  rm,
  stat,
  symlink,
  writeFile,
} from 'node:fs/promises';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import test, { type ExecutionContext } from 'ava';
import { execa } from 'execa';
import type { KilnError } from '../../src/errors.ts';
import { publishRepository } from '../../src/packages/repository/publish/snapshot.ts';
import { lockOf, nevras, repository } from './open.ts';
import { buildPackages, createRepository, temporaryDirectory } from './rpm-repository.ts';

/** More than metadata holds, newest first. */
const CHANGES = Array.from(
  { length: 12 },
  (_, index) => `* Tue Nov 24 2026 A <a@example.org> - ${20 - index}\n- Change <${index}>`,
).join('\n\n');

const PACKAGES = [
  {
    name: 'alpha',
    version: '1.2~rc1',
    epoch: 3,
    requires: ['beta >= 1', '(gamma if delta)', '/usr/bin/alpha-tool'],
    provides: ['virtual(alpha) = 1:2.0-3', 'odd(a&b<c>) = 1'],
    recommends: ['beta'],
    conflicts: ['epsilon < 2'],
    obsoletes: ['old-alpha <= 0.9'],
    files: { '/usr/bin/alpha-tool': 'x', '/etc/alpha&co.conf': 'y', '/usr/share/ünï/ä': 'z' },
  },
  { name: 'beta', version: '2', arch: 'x86_64' as const, files: { '/usr/lib/beta.so': 'b' } },
  { name: 'gamma', changelog: CHANGES },
];

async function builtPackages(t: ExecutionContext) {
  const directory = await temporaryDirectory(t);
  const rpms = join(directory, 'rpms');
  await buildPackages(rpms, PACKAGES);
  const files = (await readdir(rpms)).map((name) => ({ path: join(rpms, name) }));
  return { directory, rpms, files, published: join(directory, 'published') };
}

/** What dnf knows of every package of a repository. */
async function asDnfSeesIt(t: ExecutionContext, directory: string): Promise<string> {
  const cache = await temporaryDirectory(t);
  const ask = (...args: string[]) =>
    execa('dnf', [
      ...['--quiet', `--setopt=cachedir=${cache}`, `--setopt=logdir=${cache}`],
      ...[
        '--setopt=reposdir=/dev/null',
        `--repofrompath=it,${pathToFileURL(directory)}`,
        '--repo=it',
      ],
      ...['repoquery', '--available', ...args],
    ]);
  const tags = [
    ...['name', 'epoch', 'version', 'release', 'arch', 'summary', 'description', 'url'],
    ...['license', 'packager', 'vendor', 'group', 'sourcerpm', 'buildtime', 'installsize'],
    ...['provides', 'requires', 'conflicts', 'obsoletes', 'recommends', 'suggests', 'supplements'],
  ];
  const format = tags.map((tag) => `${tag}: %{${tag}}`).join('\\n');
  const { stdout: all } = await ask('--queryformat', `${format}\\n`);
  const { stdout: files } = await ask('--list');
  const { stdout: changes } = await ask('--changelogs');
  return [...all.split('\n').sort(), files, changes].join('\n');
}

test.serial('dnf sees the same as in createrepo_c’s metadata', async (t) => {
  const { rpms, files, published } = await builtPackages(t);
  await using snapshot = await publishRepository(published, files);
  await createRepository(rpms);
  const ours = await asDnfSeesIt(t, snapshot.path);
  t.is(ours, await asDnfSeesIt(t, rpms));
  t.regex(ours, /virtual\(alpha\) = 1:2\.0-3/);
  t.regex(ours, /ünï/);
  t.regex(ours, /Change <0>/);
});

test.serial('dnf installs from the repository, and rpm agrees', async (t) => {
  const { directory, files, published } = await builtPackages(t);
  await using _snapshot = await publishRepository(published, files);
  const root = join(directory, 'root');
  await execa('dnf', [
    ...[
      '--quiet',
      '--assumeyes',
      `--installroot=${root}`,
      '--releasever=1',
      '--setopt=reposdir=/x',
    ],
    ...[`--repofrompath=it,file://${published}/current`, '--repo=it', '--nogpgcheck'],
    ...['--setopt=install_weak_deps=False', 'install', 'alpha'],
  ]);
  const { stdout } = await execa('rpm', ['--root', root, '-qa', '--qf', '%{NAME} ']);
  t.deepEqual(stdout.trim().split(' ').sort(), ['alpha', 'beta']);
});

test.serial('kiln solves from the repository, and equal packages give equal bytes', async (t) => {
  const { directory, files, published } = await builtPackages(t);
  await using one = await publishRepository(published, files);
  const config = repository({ id: 'it', directory: one.path });
  const lock = await lockOf([config], join(directory, 'cache'), { install: ['alpha'] });
  t.deepEqual(nevras(lock).sort(), ['alpha-3:1.2~rc1-1.noarch', 'beta-2-1.x86_64']);
  const other = join(directory, 'elsewhere');
  await using two = await publishRepository(other, files.toReversed());
  t.is(two.id, one.id);
  await execa('diff', ['-r', one.path, two.path]);
});

test.serial('a snapshot in use is unchanged, and an unused one is removed', async (t) => {
  const { rpms, files, published } = await builtPackages(t);
  const old = await publishRepository(published, files);
  const before = await readFile(join(old.path, 'repodata/repomd.xml'), 'utf8');
  const [first = ''] = files.map(({ path }) => path);
  const bytes = await readFile(first);
  // The builder's own file may be written to, or go: the repository has a copy.
  await writeFile(first, 'no package any more');
  await rm(first);
  const rest = files.slice(1);
  await (await publishRepository(published, rest))[Symbol.asyncDispose]();
  t.is(await readFile(join(old.path, 'repodata/repomd.xml'), 'utf8'), before);
  t.deepEqual(await readFile(join(old.path, first.slice(rpms.length + 1))), bytes);
  t.deepEqual((await readdir(join(published, 'snapshots'))).length, 2);
  await old[Symbol.asyncDispose]();
  await using now = await publishRepository(published, rest);
  t.deepEqual(await readdir(join(published, 'snapshots')), [now.id]);
  t.is(await readlink(join(published, 'current')), `snapshots/${now.id}`);
  const pool = await readdir(join(published, 'pool'));
  t.is(pool.length, rest.length * 2, 'what no snapshot has any more is gone from the pool');
});

test.serial('a header is read once', async (t) => {
  const { files, published } = await builtPackages(t);
  await (await publishRepository(published, files.slice(1)))[Symbol.asyncDispose]();
  const pool = join(published, 'pool');
  const times = async () =>
    new Map(
      await Promise.all(
        (await readdir(pool)).map(
          async (name) => [name, (await stat(join(pool, name), { bigint: true })).mtimeNs] as const,
        ),
      ),
    );
  const before = await times();
  await using now = await publishRepository(published, files);
  const after = await times();
  for (const [name, time] of before) t.is(after.get(name), time, name);
  t.is(after.size, before.size + 2);
  t.is(now.packages.length, files.length);
});

test.serial(
  'leftovers of a killed publisher are removed, and nothing half made is used',
  async (t) => {
    const { files, published } = await builtPackages(t);
    const script = `const { publishRepository } = await import('${join(import.meta.dirname, '../../src/packages/repository/publish/snapshot.ts')}');
    await publishRepository(process.argv[1], process.argv.slice(2).map((path) => ({ path })));`;
    const paths = files.map(({ path }) => path);
    for (const delay of [150, 250, 350, 450]) {
      const run = execa(
        process.execPath,
        ['--input-type=module', '-e', script, published, ...paths],
        {
          reject: false,
        },
      );
      await new Promise((resolve) => setTimeout(resolve, delay));
      run.kill('SIGKILL');
      await run;
    }
    await using now = await publishRepository(published, files);
    t.deepEqual(await readdir(join(published, 'snapshots')), [now.id]);
    t.is(
      (await readdir(join(published, 'pool'))).filter((name) => name.endsWith('.tmp')).length,
      0,
    );
    await execa('dnf', [
      ...['--quiet', '--setopt=reposdir=/dev/null', `--repofrompath=it,file://${now.path}`],
      ...['--repo=it', 'repoquery', '--available'],
    ]);
  },
);

test.serial('no package, a damaged one, and two of one name are refused', async (t) => {
  const { directory, files, published } = await builtPackages(t);
  const [first = ''] = files.map(({ path }) => path);
  const junk = join(directory, 'junk.rpm');
  await writeFile(junk, 'junk');
  const nothing = await t.throwsAsync<KilnError>(
    publishRepository(published, [...files, { path: junk }]),
  );
  t.is(nothing?.code, 'E_RPM_FORMAT');
  t.true(nothing?.message.startsWith(`${junk}: `), nothing?.message);
  const damaged = join(directory, 'damaged.rpm');
  const bytes = await readFile(first);
  bytes.write('Mixture', bytes.indexOf('Fixture'));
  await writeFile(damaged, bytes);
  const broken = await t.throwsAsync<KilnError>(publishRepository(published, [{ path: damaged }]));
  t.regex(broken?.code ?? '', /^E_RPM_/);
  const again = join(directory, 'again.rpm');
  await cp(first, again);
  await appendFile(again, 'x');
  const twice = await t.throwsAsync<KilnError>(
    publishRepository(published, [{ path: first }, { path: again }]),
  );
  t.regex(twice?.code ?? '', /^E_REPOSITORY_COLLISION|E_RPM_DIGEST$/);
  t.deepEqual(await readdir(published).then((names) => names.includes('current')), false);
});

test('planted links in a repository are not followed', async (t) => {
  const { directory, files, published } = await builtPackages(t);
  const other = join(directory, 'other');
  for (const name of ['snapshots', 'pool', 'lock', '']) {
    await rm(published, { recursive: true, force: true });
    await mkdir(join(other, 'precious'), { recursive: true });
    await writeFile(join(other, 'a.tmp'), 'precious');
    if (name !== '') await mkdir(published);
    const target = name === 'lock' ? join(directory, 'made-by-lock') : other;
    await symlink(target, join(published, name).replace(/\/$/, ''));
    const error = await t.throwsAsync<KilnError>(
      publishRepository(published, files),
      undefined,
      name,
    );
    t.regex(`${error?.code} ${error?.message}`, /E_REPOSITORY_WRITE|ELOOP/, name);
    t.deepEqual((await readdir(other)).sort(), ['a.tmp', 'precious'], name);
    t.false((await readdir(directory)).includes('made-by-lock'));
  }
});
