import { mkdir, mkdtemp, readdir, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import anyTest, { type TestFn } from 'ava';
import { execa } from 'execa';
import type { KilnError } from '../../src/errors.ts';
import { openRepositories } from '../../src/packages/repository/open.ts';
import { solve } from '../../src/packages/solver/solve.ts';
import { lockOf, nevras, repository } from '../repository/open.ts';
import { buildPackages, createRepository, type PackageSpec } from '../repository/rpm-repository.ts';
import { PATIENCE } from '../support/busybox-state.ts';
import { askDnf, type DnfQuestion } from './dnf.ts';

interface Context {
  readonly directory: string;
  /** The repositories' folders. */
  readonly main: string;
  readonly extra: string;
  readonly cache: string;
  /** What dnf chose, by the title in `questions`. */
  readonly dnf: ReadonlyMap<string, string[] | null>;
}
const test = anyTest as TestFn<Context>;

const MAIN: readonly PackageSpec[] = [
  { name: 'app', version: '2.0', requires: ['libx >= 2', '/usr/bin/tool', 'app-data = 2.0'] },
  { name: 'app', version: '1.0', requires: ['libx'] },
  { name: 'app-data', version: '2.0', recommends: ['docs'] },
  { name: 'libx', version: '2.1', provides: ['libx.so.2()(64bit)'], arch: 'x86_64' },
  { name: 'libx', version: '1.9', provides: ['libx.so.1()(64bit)'], arch: 'x86_64' },
  { name: 'tool', files: { '/usr/bin/tool': '#!/bin/sh' } },
  { name: 'docs', files: { '/usr/share/doc/docs/readme': 'read me' } },
  // Needs a file that only filelists know.
  { name: 'reader', version: '2', requires: ['/usr/share/doc/docs/readme'] },
  { name: 'reader', version: '1' },
  { name: 'wants-reader', requires: ['reader'] },
  { name: 'rich', requires: ['(red or blue)', '(green if tool)', 'tool'] },
  { name: 'blue', conflicts: ['red'] },
  { name: 'red', requires: ['nothing-has-this'] },
  { name: 'green' },
  { name: 'needs-red', requires: ['red'] },
  { name: 'left', conflicts: ['right'] },
  { name: 'right' },
  { name: 'epochal', version: '1', epoch: 3 },
  { name: 'epochal', version: '9' },
  { name: 'tilde', version: '1.0~rc1' },
  { name: 'tilde', version: '1.0' },
  { name: 'new-name', version: '5', obsoletes: ['old-name < 5'], provides: ['old-name = 5'] },
  { name: 'old-name', version: '4' },
  { name: 'pick-a', provides: ['pick-first'], requires: ['/usr/share/doc/docs/readme'] },
  { name: 'pick-b', provides: ['pick-first', 'pick-last'] },
  { name: 'pick-c', provides: ['pick-last'], requires: ['/usr/share/doc/docs/readme'] },
  { name: 'recommender', recommends: ['/usr/share/doc/docs/readme'] },
  {
    name: 'supplementer',
    supplements: ['third'],
    requires: ['/usr/share/doc/docs/readme'],
  },
  { name: 'holder', provides: ['held'] },
  { name: 'taker', obsoletes: ['held'] },
  { name: 'split', version: '1' },
  { name: 'split', version: '3' },
  { name: 'split-part', obsoletes: ['split < 2'] },
  { name: 'moved-a', version: '1' },
  { name: 'moved-b', version: '1' },
  { name: 'target', version: '1', obsoletes: ['moved-a'] },
  { name: 'perl-Foo', provides: ['perl(Foo) = 1.5', 'perl(Foo::Bar)'] },
  { name: 'first', requires: ['second'] },
  { name: 'second', requires: ['third'] },
  { name: 'third' },
];

const COMPS = `<?xml version="1.0" encoding="UTF-8"?>
<!DOCTYPE comps PUBLIC "-//Red Hat, Inc.//DTD Comps info//EN" "comps.dtd">
<comps>
  <group><id>buildsys-build</id><name>Buildsystem building group</name><name xml:lang="de">Bauen</name>
    <packagelist>
      <packagereq type="mandatory">tool</packagereq>
      <packagereq type="default">docs</packagereq>
      <packagereq type="optional">blue</packagereq>
      <packagereq type="conditional" requires="tool">green</packagereq>
      <packagereq type="conditional" requires="app">epochal</packagereq>
      <packagereq type="mandatory">not-on-this-architecture</packagereq>
    </packagelist>
  </group>
  <environment><id>everything</id><name>Everything</name>
    <grouplist><groupid>buildsys-build</groupid></grouplist></environment>
</comps>`;

/** Questions that dnf is asked as well. */
const questions: Record<string, Omit<DnfQuestion, 'directories'> & { readonly both?: boolean }> = {
  'a name, its dependencies, a file in /usr/bin': { install: ['app'] },
  'name-version': { install: ['app-1.0'] },
  'a whole NEVRA': { install: ['libx-1.9-1.x86_64'] },
  'name.arch': { install: ['libx.x86_64'] },
  'a glob': { install: ['app*'] },
  'a glob of versions': { install: ['libx-1*'] },
  'a capability': { install: ['perl(Foo)'] },
  'a path of primary metadata': { install: ['/usr/bin/tool'] },
  'a path that only filelists have': { install: ['/usr/share/doc/docs/readme'] },
  'a dependency on such a path': { install: ['wants-reader'] },
  'a rich dependency of a package': { install: ['rich'] },
  epochs: { install: ['epochal'] },
  'a version with a tilde': { install: ['tilde'] },
  'a package that obsoletes a name': { install: ['old-name'] },
  'a capability of which one provider needs such a path': { install: ['pick-first'] },
  'the same capability with the other order of names': { install: ['pick-last'] },
  'a recommendation of such a path': { install: ['recommender'], weak: true },
  'a package that supplements a package and needs such a path': { install: ['third'], weak: true },
  'a package that obsoletes a capability only': { install: ['holder'] },
  'a package that obsoletes an older version only': { install: ['split'] },
  'a package that obsoletes a name with a version': { install: ['split-1'] },
  'a package that obsoletes one of a glob': { install: ['moved-*'] },
  'a package that obsoletes a name with an architecture': { install: ['old-name.noarch'] },
  'several at once': { install: ['app', 'rich', 'reader', 'first'] },
  'recommended packages': { install: ['app'], weak: true },
  'two repositories': { install: ['tool', 'extra-only'], both: true },
  'an excluded version': { install: ['app'], exclude: ['app-2*'] },
  'ranges that end before they begin': {
    install: ['ap[!z-a]'],
    exclude: ['[z-a]*', 'app-[9-12]*'],
  },
};

test.before(async (t) => {
  const directory = await mkdtemp(join(tmpdir(), 'kiln-solve-'));
  const main = join(directory, 'main');
  const extra = join(directory, 'extra');
  await buildPackages(main, MAIN);
  await buildPackages(extra, [
    { name: 'tool', version: '7', files: { '/usr/bin/tool': 'newer' } },
    { name: 'extra-only' },
  ]);
  const comps = join(directory, 'comps.xml');
  await writeFile(comps, COMPS);
  await createRepository(main, '--groupfile', comps, '--general-compress-type=zstd');
  await createRepository(extra, '--general-compress-type=xz');
  const cache = join(directory, 'cache');
  await mkdir(cache);
  const asked = Object.entries(questions).map(
    ([title, { both, ...question }]): [string, DnfQuestion] => [
      title,
      { ...question, directories: both ? [main, extra] : [main] },
    ],
  );
  const answers = await askDnf(asked.map(([, question]) => question));
  const dnf = new Map(asked.map(([title], index) => [title, answers[index] ?? null]));
  Object.assign(t.context, { directory, main, extra, cache, dnf });
});

test.after.always((t) => rm(t.context.directory, { recursive: true, force: true }));

for (const title of Object.keys(questions)) {
  test.serial(`dnf chooses the same packages: ${title}`, async (t) => {
    const { main, extra, cache, dnf } = t.context;
    const { install, exclude, weak, both } = questions[title]!;
    const expected = dnf.get(title);
    t.truthy(expected);
    const repositories = [
      repository({ id: 'main', directory: main }),
      ...(both ? [repository({ id: 'extra', directory: extra })] : []),
    ];
    const lock = await lockOf(repositories, cache, { install, exclude, recommends: weak });
    t.deepEqual(nevras(lock), expected);
  });
}

test.serial('the cases have different answers for different questions', (t) => {
  const { dnf } = t.context;
  t.true(dnf.get('recommended packages')?.some((nevra) => nevra.startsWith('docs-')));
  t.deepEqual(dnf.get('two repositories'), ['extra-only-1-1.noarch', 'tool-7-1.noarch']);
  t.true(dnf.get('an excluded version')?.includes('app-1.0-1.noarch'));
});

test.serial('only repositories that are used are in the lock', async (t) => {
  const { main, extra, cache } = t.context;
  const both = [
    repository({ id: 'main', directory: main }),
    repository({ id: 'extra', directory: extra }),
  ];
  const lock = await lockOf(both, cache, { install: ['tool', 'extra-only'] });
  t.deepEqual(
    lock.repositories.map(({ id }) => id),
    ['extra'],
  );
});

test.serial('a preferred repository wins over a newer version', async (t) => {
  const { main, extra, cache } = t.context;
  const both = [
    repository({ id: 'main', directory: main, priority: 10 }),
    repository({ id: 'extra', directory: extra }),
  ];
  t.deepEqual(nevras(await lockOf(both, cache, { install: ['tool'] })), ['tool-1-1.noarch']);
});

test.serial('excludes and includes can be set for one repository', async (t) => {
  const { main, extra, cache } = t.context;
  const both = [
    repository({ id: 'main', directory: main }),
    repository({ id: 'extra', directory: extra, excludepkgs: ['tool'] }),
  ];
  t.deepEqual(nevras(await lockOf(both, cache, { install: ['tool'] })), ['tool-1-1.noarch']);
  const only = [
    repository({ id: 'main', directory: main, includepkgs: ['docs', 'lib*'] }),
    repository({ id: 'extra', directory: extra }),
  ];
  t.deepEqual(nevras(await lockOf(only, cache, { install: ['tool', 'libx'] })), [
    'libx-2.1-1.x86_64',
    'tool-7-1.noarch',
  ]);
});

test.serial('a package that is asked for and excluded is reported so', async (t) => {
  const { main, cache } = t.context;
  const error = await t.throwsAsync<KilnError>(
    lockOf([repository({ id: 'main', directory: main })], cache, {
      install: ['needs-red'],
      exclude: ['red'],
    }),
  );
  t.is(error?.code, 'E_SOLVER_PROBLEM');
  t.regex(error?.message ?? '', /red-1-1\.noarch/);
});

test.serial(
  'a group gives mandatory, default and conditional members, and names absent ones',
  async (t) => {
    const { main, cache } = t.context;
    const repositories = [repository({ id: 'main', directory: main })];
    const expected = ['docs-1-1.noarch', 'green-1-1.noarch', 'tool-1-1.noarch'];
    for (const name of ['@buildsys-build', '@Buildsystem building group', '@^everything']) {
      t.deepEqual(nevras(await lockOf(repositories, cache, { install: [name] })), expected, name);
    }
    const withApp = await lockOf(repositories, cache, { install: ['@buildsys-build', 'app'] });
    t.true(nevras(withApp).includes('epochal-3:1-1.noarch'));
  },
);

test.serial('a member of a group also means a package that obsoletes it', async (t) => {
  const { main, extra, cache } = t.context;
  const groups = join(extra, '../groups');
  await buildPackages(groups, [{ name: 'empty' }]);
  const comps = join(groups, 'comps.xml');
  const member = '<packagereq type="mandatory">old-name</packagereq>';
  await writeFile(
    comps,
    `<comps><group><id>renamed</id><name>r</name><packagelist>${member}</packagelist></group></comps>`,
  );
  await createRepository(groups, '--groupfile', comps);
  const repositories = [main, groups].map((directory, index) =>
    repository({ id: `r${index}`, directory }),
  );
  const lock = await lockOf(repositories, cache, { install: ['@renamed'] });
  const members = [{ name: 'old-name' }];
  t.deepEqual([nevras(lock)], await askDnf([{ directories: [main], install: [], members }]));
});

test.serial('an unknown group is an error that names the known ones', async (t) => {
  const { main, cache } = t.context;
  const error = await t.throwsAsync<KilnError>(
    lockOf([repository({ id: 'main', directory: main })], cache, { install: ['@build'] }),
  );
  t.is(error?.code, 'E_SOLVER_NO_MATCH');
  t.regex(error?.hint ?? '', /buildsys-build/);
});

test.serial('the path of a package leads to how a folder becomes a repository', async (t) => {
  const { main, cache } = t.context;
  const error = await t.throwsAsync<KilnError>(
    lockOf([repository({ id: 'main', directory: main })], cache, {
      install: ['./own-1.x86_64.rpm'],
    }),
  );
  t.is(error?.code, 'E_SOLVER_NO_MATCH');
  t.regex(error?.hint ?? '', /createrepo_c .*directory: /);
});

test.serial('rich dependencies and conditions can be asked for', async (t) => {
  const { main, cache } = t.context;
  const repositories = [repository({ id: 'main', directory: main })];
  const one = await lockOf(repositories, cache, { install: ['(red or blue)'] });
  t.deepEqual(nevras(one), ['blue-1-1.noarch']);
  const two = await lockOf(repositories, cache, {
    install: ['third'],
    requires: ['perl(Foo) >= 1.2', '/usr/bin/tool', '(green if tool)', 'libx < 2'],
  });
  t.deepEqual(nevras(two), [
    'green-1-1.noarch',
    'libx-1.9-1.x86_64',
    'perl-Foo-1-1.noarch',
    'third-1-1.noarch',
    'tool-1-1.noarch',
  ]);
  t.is(
    await t
      .throwsAsync<KilnError>(lockOf(repositories, cache, { install: ['(red or'] }))
      .then((e) => e?.code),
    'E_SOLVER_REQUEST',
  );
});

test.serial('an unmet condition asks for nothing, and an error says so', async (t) => {
  const { main, cache } = t.context;
  const set = await openRepositories([repository({ id: 'main', directory: main })], {
    paths: { cache },
  });
  const ask = (install: string[]) => solve(set, { arch: 'x86_64', install });
  const error = await t.throwsAsync<KilnError>(ask(['(green if left)']));
  t.is(error?.code, 'E_SOLVER_REQUEST');
  t.regex(error?.message ?? '', /\(green if left\) asks for nothing: its condition is not met/);
  const both = await ask(['(green if left)', '(docs if tool)', 'tool']);
  t.deepEqual(nevras(both.lock), ['docs-1-1.noarch', 'tool-1-1.noarch']);
  t.deepEqual(both.warnings, ['(green if left) asks for nothing here: its condition is not met']);
  const otherwise = await ask(['(green if left else docs)']);
  t.deepEqual(nevras(otherwise.lock), ['docs-1-1.noarch']);
  t.deepEqual(otherwise.warnings, []);
});

test.serial('all problems are reported, in words', async (t) => {
  const { main, cache } = t.context;
  const repositories = [repository({ id: 'main', directory: main })];
  const install = ['left', 'right', 'needs-red'];
  t.deepEqual(await askDnf([{ directories: [main], install }]), [null]);
  const error = await t.throwsAsync<KilnError>(lockOf(repositories, cache, { install }));
  t.is(error?.code, 'E_SOLVER_PROBLEM');
  t.regex(error?.message ?? '', /left-1-1\.noarch conflicts with right/);
  t.regex(error?.message ?? '', /nothing provides nothing-has-this needed by red-1-1\.noarch/);
  t.is((error?.details?.problems as string[][] | undefined)?.length, 2);
});

test.serial('unknown names are all reported, with similar ones', async (t) => {
  const { main, cache } = t.context;
  const repositories = [repository({ id: 'main', directory: main })];
  const error = await t.throwsAsync<KilnError>(
    lockOf(repositories, cache, { install: ['app', 'TOOL', 'perl-Fooo', 'thrid'] }),
  );
  t.is(error?.code, 'E_SOLVER_NO_MATCH');
  t.deepEqual(error?.details?.names, ['TOOL', 'perl-Fooo', 'thrid']);
  t.regex(error?.message ?? '', /TOOL \(did you mean tool\?\)/);
  t.regex(error?.message ?? '', /perl-Fooo \(did you mean perl-Foo\?\)/);
  t.regex(error?.message ?? '', /thrid \(did you mean third\?\)/);
});

test.serial('packages are ordered so that each finds what it requires', async (t) => {
  const { main, cache } = t.context;
  const lock = await lockOf([repository({ id: 'main', directory: main })], cache, {
    install: ['first', 'app'],
  });
  const order = lock.packages.map(({ name }) => name);
  t.true(order.indexOf('third') < order.indexOf('second'));
  t.true(order.indexOf('second') < order.indexOf('first'));
  t.true(order.indexOf('libx') < order.indexOf('app'));
  t.true(order.indexOf('tool') < order.indexOf('app'));
});

test.serial('a lock has what rpm and sha256sum say of its files', async (t) => {
  const { main, cache } = t.context;
  const lock = await lockOf([repository({ id: 'main', directory: main })], cache, {
    install: ['epochal', 'libx'],
  });
  const { execa } = await import('execa');
  for (const entry of lock.packages) {
    const path = join(main, entry.location);
    const format = '%{NAME} %{EPOCHNUM} %{VERSION} %{RELEASE} %{ARCH}';
    const { stdout } = await execa('rpm', ['-qp', '--qf', format, path]);
    t.is([entry.name, entry.epoch, entry.version, entry.release, entry.arch].join(' '), stdout);
    t.is(entry.digest, `sha256:${(await execa('sha256sum', [path])).stdout.slice(0, 64)}`);
    t.is(entry.size, Number((await execa('stat', ['-c', '%s', path])).stdout));
  }
});

test.serial('an earlier lock is kept wherever possible', async (t) => {
  const { main, cache } = t.context;
  const repositories = [repository({ id: 'main', directory: main })];
  const old = await lockOf(repositories, cache, { install: ['app-1.0', 'libx-1.9'] });
  const grown = await lockOf(repositories, cache, {
    install: ['app', 'third'].slice(1),
    keep: old,
  });
  t.deepEqual(nevras(grown), ['app-1.0-1.noarch', 'libx-1.9-1.x86_64', 'third-1-1.noarch']);
  const forced = await lockOf(repositories, cache, { install: ['app-2.0'], keep: old });
  t.true(nevras(forced).includes('app-2.0-1.noarch'));
  t.true(nevras(forced).includes('libx-2.1-1.x86_64'));
});

test.serial('members of a group that are installed stay, too', async (t) => {
  const { main, extra, cache } = t.context;
  const [first, second] = [main, extra].map((directory, index) =>
    repository({ id: `r${index}`, directory }),
  );
  const install = ['@buildsys-build'];
  const old = await lockOf([first!], cache, { install });
  const grown = await lockOf([first!, second!], cache, {
    install: [...install, 'third'],
    keep: old,
  });
  t.deepEqual(nevras(grown), [...nevras(old), 'third-1-1.noarch'].sort());
  const anew = await lockOf([first!, second!], cache, { install });
  t.true(nevras(anew).includes('tool-7-1.noarch'));
});

/** A repository of one package `plain`, with other metadata. */
async function strange(
  directory: string,
  what: string,
  change: (xml: string) => string,
): Promise<string> {
  const folder = join(directory, `strange-${what}`);
  await mkdir(folder);
  await buildPackages(folder, [{ name: 'plain' }]);
  await createRepository(folder, '--general-compress-type=gz');
  const repodata = join(folder, 'repodata');
  const primary = (await readdir(repodata)).find((name) => name.includes('primary.xml'))!;
  const { stdout } = await execa('zcat', [primary], { cwd: repodata });
  await writeFile(join(repodata, 'primary.xml'), change(stdout));
  await execa('modifyrepo_c', ['--remove', 'primary', repodata]);
  await execa('modifyrepo_c', ['--mdtype', 'primary', join(repodata, 'primary.xml'), repodata]);
  return folder;
}

test('a package that rpm could not install is named, without a wall of JSON', async (t) => {
  const { directory, cache } = t.context;
  const long = 'n'.repeat(2000);
  // rpmbuild makes no such packages; whoever writes metadata can.
  const metadata = (change: (xml: string) => string) => strange(directory, change.name, change);
  const epoch = await metadata(function epoch(xml) {
    return xml.replace(/<version epoch="0"/, '<version epoch="99999999999999999999"');
  });
  const name = await metadata(function name(xml) {
    return xml.replaceAll('<name>plain</name>', `<name>${long}</name>`);
  });
  for (const [copy, install, message, cause] of [
    [epoch, 'plain', /^plain-99999999999999999999:1-1\.noarch cannot be locked$/, /epoch: Too big/],
    [
      name,
      long,
      /^n{80} of repository main is not a package that rpm could install$/,
      /name: Too big/,
    ],
  ] as const) {
    const error = await t.throwsAsync<KilnError>(
      lockOf([repository({ id: 'main', directory: copy })], cache, { install: [install] }),
    );
    t.is(error?.code, 'E_REPOSITORY_METADATA');
    t.regex(error?.message ?? '', message);
    t.regex(String((error?.cause as Error | undefined)?.message), cause);
    t.truthy(error?.hint);
  }
});

/** Metadata with a package in place of the one for each number. */
function often(count: number, copy: (text: string, index: number) => string) {
  return (xml: string) => {
    const [before = '', text = '', after = ''] = xml.split(/(<package [\s\S]*<\/package>)/);
    const copies = Array.from({ length: count }, (_, index) => copy(text, index));
    return before.replace('packages="1"', `packages="${count}"`) + copies.join('\n') + after;
  };
}

test('a repository with ten thousands of equal packages is solved, with a warning', async (t) => {
  t.timeout(60_000 * PATIENCE);
  const { directory, cache } = t.context;
  const COPIES = 50_000;
  const digest = (index: number) => index.toString(16).padStart(64, '0');
  const copies = often(COPIES, (text, index) =>
    text.replace(/(pkgid="YES">)\w+/, `$1${digest(index)}`),
  );
  const folder = await strange(directory, 'equal', copies);
  const repositories = [repository({ id: 'equal', directory: folder })];
  const set = await openRepositories(repositories, { paths: { cache } });
  const request = { arch: 'x86_64', install: ['plain'] };
  const { lock, warnings } = await solve(set, request);
  t.deepEqual(
    lock.packages.map(({ nevra, digest }) => [nevra, digest]),
    [['plain-1-1.noarch', `sha256:${digest(0)}`]],
  );
  const times = 'plain-1-1.noarch 50000 times: only the first 20 count';
  t.deepEqual(warnings, [`repository equal has ${times}`]);
  // An earlier lock's is left out, and that is no error.
  const keep = {
    ...lock,
    packages: lock.packages.map((one) => ({ ...one, digest: `sha256:${digest(40_000)}` })),
  };
  const kept = await solve(set, { ...request, keep });
  t.deepEqual(nevras(kept.lock), ['plain-1-1.noarch']);
});

test('an input that kills the solver is reported with the repositories', async (t) => {
  t.timeout(120_000 * PATIENCE);
  const { directory, cache } = t.context;
  // As many versions of one package take all memory.
  const versions = often(50_000, (text, index) => text.replace(/ ver="1"/, ` ver="${index}"`));
  const folder = await strange(directory, 'versions', versions);
  const repositories = [repository({ id: 'versions', directory: folder })];
  const set = await openRepositories(repositories, { paths: { cache } });
  const error = await t.throwsAsync(solve(set, { arch: 'x86_64', install: ['plain'] }), {
    code: 'E_CONFINE_DIED',
    message: /^solving for packages of versions: the confined child /,
  });
  t.regex(String((error as KilnError).hint), /leave out one repository after the other/);
});
