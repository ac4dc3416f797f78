/** rpm writes its database in a box and a root of its own, before the tree is there that it belongs to. */
import {
  closeSync,
  lstatSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  rmSync,
  symlinkSync,
  utimesSync,
  writeFileSync,
} from 'node:fs';
import { mkdir, writeFile } from 'node:fs/promises';
import { availableParallelism, tmpdir } from 'node:os';
import { join } from 'node:path';
import test, { type ExecutionContext } from 'ava';
import { execa, execaSync } from 'execa';
import { describeProgress } from '../../src/image/progress.ts';
import { readContents } from '../../src/image/store/contents.ts';
import { planBootstrap } from '../../src/image/transaction/early-database.ts';
import { adoptFiles } from '../../src/image/tree/merge-overlay.ts';
import { setXattr } from '../../src/kernel/xattr.ts';
import type { RpmFile, RpmPackage } from '../../src/rpm/package.ts';
import { rpmIn } from '../fixtures/roots.ts';
import { rpmFile } from '../support/rpm-file.ts';
import { debianRepository, type ImageState, imageState } from './image-state.ts';
import { differences, snapshotTree } from './tree-snapshot.ts';

let state: ImageState;

test.before(async () => {
  state = await imageState();
});
test.after.always(() => state[Symbol.asyncDispose]());

/** What kiln shows where rpm has to write the database in the whole tree. */
const LATE = 'running rpm database';

async function build(recipe: string) {
  const steps = new Set<string>();
  const image = await state.open(recipe, {
    onProgress: (step) => steps.add(describeProgress(step)),
  });
  return { image, steps };
}

test.serial('the database is written early where there is a processor for it', async (t) => {
  t.timeout(300_000);
  const { image, steps } = await build(await state.recipe('early', 'groups: [buildsys-build]'));
  t.is(image.manifest.transaction, 'fast');
  // What is in it is compared with rpm's own in debian-build.test.ts.
  t.is(steps.has(LATE), availableParallelism() === 1);
});

test.serial('an rpm that needs more than was thought writes it in the whole tree', async (t) => {
  t.timeout(300_000);
  // A library behind a link: the link is taken for rpm's root, what it leads to is not.
  const elsewhere = join(state.directory, 'elsewhere');
  await mkdir(elsewhere);
  const spec = join(elsewhere, 'popt.spec');
  const libraries = '/usr/lib/x86_64-linux-gnu';
  await writeFile(
    spec,
    `Name: popt-elsewhere
Version: 99
Release: 1
Summary: test
License: none
AutoReqProv: no
Requires: libc6
Provides: libpopt0 = 99, libpopt0(x86-64) = 99
Provides: libpopt.so.0()(64bit), libpopt.so.0(LIBPOPT_0)(64bit)
%description
%install
mkdir -p %{buildroot}${libraries}/elsewhere
cp -L ${libraries}/libpopt.so.0 %{buildroot}${libraries}/elsewhere/
ln -s elsewhere/libpopt.so.0 %{buildroot}${libraries}/libpopt.so.0
%files
${libraries}/elsewhere
${libraries}/libpopt.so.0
`,
  );
  await execa('rpmbuild', [
    '-bb',
    '--define',
    `_rpmdir ${elsewhere}`,
    '--define',
    `_topdir ${elsewhere}`,
    spec,
  ]);
  await execa('createrepo_c', ['-q', elsewhere]);
  const recipe = await state.recipe(
    'late',
    'groups: [buildsys-build]\nexclude: [libpopt0]\npackages: [popt-elsewhere]',
    [await debianRepository(), { id: 'elsewhere', directory: elsewhere }],
  );
  const { image, steps } = await build(recipe);
  t.is(image.manifest.transaction, 'fast');
  t.true(steps.has(LATE), [...steps].join('\n'));
  const { packages } = await readContents(state.engine.paths, image.manifest.id);
  const installed = String((await rpmIn(image.tree, ['-qa'])).stdout)
    .trim()
    .split('\n');
  t.is(installed.length, packages.length);
  t.true(installed.some((nevra) => nevra.startsWith('popt-elsewhere-99')));
});

/** As Fedora's glibc and filesystem name their files: by links in the root. */
const FEDORA: readonly RpmFile[] = [
  rpmFile('/lib64', { type: 'symlink', linkTarget: 'usr/lib64' }),
  rpmFile('/bin', { type: 'symlink', linkTarget: 'usr/bin' }),
  ...['/usr/bin', '/usr/lib64'].map((path) => rpmFile(path, { type: 'directory' })),
  ...['/lib64/ld-linux-x86-64.so.2', '/lib64/libc.so.6', '/usr/bin/rpm'].map((path) =>
    rpmFile(path),
  ),
  rpmFile('/usr/share/doc/rpm'),
];

test('libraries that are named by the links of the root are found', (t) => {
  const of = (files: readonly RpmFile[]) => {
    const named = { name: 'all', arch: 'x86_64', files };
    return planBootstrap([named as unknown as RpmPackage]);
  };
  const found = of(FEDORA);
  t.is(found?.rpm, '/usr/bin/rpm');
  t.not(found?.plan.find('/usr/lib64/libc.so.6'), undefined);
  t.not(found?.plan.find('/lib64/ld-linux-x86-64.so.2'), undefined);
  t.is(found?.plan.find('/usr/share'), undefined);
  // Where that does not fit together rpm cannot run: nothing is begun.
  t.is(of(FEDORA.filter(({ path }) => path !== '/usr/lib64')), undefined);
  t.is(of(FEDORA.filter(({ path }) => path !== '/usr/bin/rpm')), undefined);
});

/** An upper directory and a tree, with one folder that both have. */
function pair(t: ExecutionContext) {
  const directory = mkdtempSync(join(tmpdir(), 'kiln-test-adopt-'));
  t.teardown(() => rmSync(directory, { recursive: true, force: true }));
  const [upper, tree] = [join(directory, 'upper'), join(directory, 'tree')];
  for (const root of [upper, tree]) mkdirSync(join(root, 'var/lib/rpm'), { recursive: true });
  writeFileSync(join(upper, 'var/lib/rpm/database'), 'rpm');
  const adopt = () => adoptFiles(upper, tree, -1, { after: 2n ** 62n, to: 0n });
  return { upper, tree, adopt };
}

test('files come into the tree, and its folders stay as they are', (t) => {
  const { upper, tree, adopt } = pair(t);
  mkdirSync(join(upper, 'var/new'));
  writeFileSync(join(upper, 'var/new/file'), '12345');
  for (const path of ['var/lib/rpm', 'var/lib', 'var', '.']) utimesSync(join(tree, path), 7, 7);
  const merge = adopt();
  t.is(merge?.changed, 2);
  t.deepEqual(
    ['', 'var', 'var/lib', 'var/lib/rpm'].map((path) => lstatSync(join(tree, path)).mtimeMs),
    [7000, 7000, 7000, 7000],
  );
  t.is(lstatSync(join(tree, 'var/lib/rpm/database')).size, 3);
  t.is(lstatSync(join(tree, 'var/new/file')).size, 5);
});

function setAttribute(path: string, name: string, value: string): void {
  const fd = openSync(path, 'r');
  setXattr(fd, name, Buffer.from(value));
  closeSync(fd);
}

const MISFITS: Readonly<Record<string, (upper: string, tree: string) => unknown>> = {
  'a link': (upper) => symlinkSync('/etc', join(upper, 'var/link')),
  'the mark of a deleted file': (upper) => execaSync('mknod', [join(upper, 'etc'), 'c', '0', '0']),
  'a folder that was removed and made anew': (upper) =>
    setAttribute(join(upper, 'var/lib'), 'user.overlay.opaque', 'y'),
  'a folder where the tree has a link': (upper, tree) => {
    mkdirSync(join(upper, 'run'));
    symlinkSync('/tmp', join(tree, 'run'));
  },
  'a file where the tree has a folder': (upper, tree) => {
    writeFileSync(join(upper, 'opt'), '');
    mkdirSync(join(tree, 'opt'));
  },
  'a file where the tree has a link': (upper, tree) => {
    writeFileSync(join(upper, 'passwd'), '');
    symlinkSync('/etc/passwd', join(tree, 'passwd'));
  },
};

for (const [what, make] of Object.entries(MISFITS)) {
  test(`nothing is taken over with ${what}`, (t) => {
    const { upper, tree, adopt } = pair(t);
    make(upper, tree);
    const before = snapshotTree(tree);
    t.is(adopt(), undefined);
    t.deepEqual([...differences(before, snapshotTree(tree))], []);
  });
}
