/** `kiln-mock --hermetic-build`: builds with the packages of mock's buildroot_lock.json, from a folder. */
import { existsSync } from 'node:fs';
import { copyFile, mkdir, readFile, rm, writeFile } from 'node:fs/promises';
import { basename, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import test from 'ava';
import { execa } from 'execa';
import { sourcePackage } from '../build/source-packages.ts';
import { createRepository } from '../repository/rpm-repository.ts';
import { ends, KILN_MOCK, type MockResult, type MockState, mockState } from './mock-state.ts';

interface Rpm {
  readonly name: string;
  readonly version: string;
  readonly release: string;
  readonly arch: string;
  sigmd5: string;
  url: string;
}

let state: MockState;
let repository: string;
let source: string;
let lock: { version: string; buildroot: { rpms: Rpm[] }; config: object; bootstrap?: object };

const place = (name: string) => join(state.directory, name);

test.before(async (t) => {
  state = await mockState();
  source = await sourcePackage(place('srpms'), { name: 'sealed' });
  const words = ['--calculate-build-dependencies', source, '--resultdir', place('calculated')];
  const { exitCode, stderr } = await state.mock(words);
  t.is(exitCode, 0, stderr);
  lock = JSON.parse(await readFile(place('calculated/buildroot_lock.json'), 'utf8'));
  // As mock-hermetic-repo does.
  repository = place('repository');
  await mkdir(repository);
  for (const { url } of lock.buildroot.rpms) {
    const file = fileURLToPath(url);
    await copyFile(file, join(repository, basename(file)));
  }
  await createRepository(repository);
});
test.after.always(async () => {
  await state[Symbol.asyncDispose]();
});

/** Without a configuration: it comes with the mode. */
async function hermetic(
  name: string,
  changed: typeof lock,
  ...more: string[]
): Promise<MockResult> {
  await writeFile(place(`${name}.json`), JSON.stringify(changed));
  const words = ['--hermetic-build', place(`${name}.json`), repository, source];
  const { exitCode, stdout, stderr } = await execa(
    KILN_MOCK,
    ['-q', ...words, '--resultdir', place(name), ...more],
    { env: { ...state.env, HOME: state.directory }, reject: false, stdin: 'ignore' },
  );
  return { exitCode, stdout, stderr };
}

test.serial('a build has the packages of the lock, and no others', async (t) => {
  // What mock itself writes, and an older version of its format.
  const ofMock = {
    ...lock,
    version: '1.0.0',
    config: { ...lock.config, bootstrap_image: 'registry/fedora:44', package_manager: 'dnf5' },
    bootstrap: { image_digest: 'sha256:0' },
  };
  // The host's mirrors, and the packages that it had, are no longer there.
  const { exitCode, stderr } = await hermetic('sealed', ofMock);
  t.is(exitCode, 0, stderr);
  t.true(existsSync(place('sealed/sealed-1-1.noarch.rpm')));
  const installed = (await readFile(place('sealed/installed_pkgs.log'), 'utf8')).trim().split('\n');
  const found = installed.map((line) => line.replace(/^(\S+-)\d+:/, '$1').split(' ')[0]);
  const wanted = lock.buildroot.rpms.map(
    (rpm) => `${rpm.name}-${rpm.version}-${rpm.release}.${rpm.arch}`,
  );
  t.deepEqual(found.toSorted(), wanted.toSorted());
  const again = JSON.parse(await readFile(place('sealed/buildroot_lock.json'), 'utf8'));
  const md5s = (rpms: Rpm[]) => rpms.map(({ sigmd5 }) => sigmd5).sort();
  t.deepEqual(md5s(again.buildroot.rpms), md5s(lock.buildroot.rpms));
});

test.serial('what is not as the lock says is refused by name', async (t) => {
  const other = structuredClone(lock);
  other.buildroot.rpms.find(({ name }) => name === 'bash')!.sigmd5 = '0'.repeat(32);
  ends(t, await hermetic('other', other), 30, /bash-\S+ is another file than the lock names/);
  const less = structuredClone(lock);
  less.buildroot.rpms = less.buildroot.rpms.filter(({ name }) => name !== 'libc6');
  // It is in the folder, and still not taken.
  ends(t, await hermetic('less', less), 30, /libc6/);
  ends(
    t,
    await hermetic('version', { ...lock, version: '2.0.0' }),
    1,
    /no buildroot_lock.json: version/,
  );
  const [bash] = (await execa('sh', ['-c', `ls ${repository}/bash-*`])).stdout.split('\n');
  await rm(bash ?? '');
  await createRepository(repository);
  ends(t, await hermetic('missing', lock), 30, /bash/);
  ends(t, await hermetic('more', lock, '-n'), 5, /--no-clean: a hermetic build takes packages/);
  ends(
    t,
    await state.mock(['--hermetic-build', place('sealed.json')]),
    50,
    /needs a lock, a folder/,
  );
});

test.serial('--buildroot-image builds in an image that has what the build requires', async (t) => {
  const kiln = async (...words: string[]) => {
    const { exitCode, stdout, stderr } = await execa(join(KILN_MOCK, '../kiln'), words, {
      env: state.env,
      reject: false,
    });
    t.is(exitCode, 0, String(stderr));
    return String(stdout);
  };
  const [image] = JSON.parse(await kiln('image', 'ls', '--json')).map(
    ({ id }: { id: string }) => id,
  );
  await kiln('image', 'export', image, '-o', place('prepared.tar'));
  await kiln('image', 'import', place('prepared.tar'), '--name', 'prepared');
  const needs = await sourcePackage(place('srpms'), { name: 'needs', buildRequires: ['bash'] });
  const lacks = await sourcePackage(place('srpms'), {
    name: 'lacks',
    buildRequires: ['nobody-has'],
  });
  const build = (srpm: string, ...more: string[]) =>
    state.mock([
      '--buildroot-image',
      'prepared',
      '--rebuild',
      srpm,
      '--resultdir',
      place('image'),
      ...more,
    ]);
  const built = await build(needs);
  t.is(built.exitCode, 0, built.stderr);
  t.true(existsSync(place('image/needs-1-1.noarch.rpm')));
  const { image: used } = JSON.parse(await readFile(place('image/result.json'), 'utf8'));
  t.is(used.name, 'prepared');
  t.not((await build(lacks)).exitCode, 0);
  t.regex(await readFile(place('image/build.log'), 'utf8'), /nobody-has is needed by/);
  ends(t, await build(needs, '-n'), 5, /--buildroot-image with --no-clean/);
  ends(t, await build(needs, '--additional-package', 'bash'), 5, /with the package bash/);
  const file = [
    '--buildroot-image',
    '/tmp/x.tar',
    '--rebuild',
    needs,
    '--resultdir',
    place('image'),
  ];
  ends(t, await state.mock(file), 5, /it takes an image of the store/);
});
