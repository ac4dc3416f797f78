/** What rpm itself installs into a root, and on top of an image, is checked before: rpm is told not to look. */
import { copyFile, mkdir, readdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import test, { type ExecutionContext } from 'ava';
import { execa } from 'execa';
import { debianRepository } from '../image/image-state.ts';
import { buildPackages, createRepository } from '../repository/rpm-repository.ts';
import { GnuPgHome } from '../support/gnupg-home.ts';
import { NOARCH_ROOT } from '../support/unpacked-packages.ts';
import { type MockState, mockState } from './mock-state.ts';

let state: MockState;
let gpg: GnuPgHome;
const key = (name: string) => join(state.directory, `${name}.asc`);
const repository = (name: string) => join(state.directory, `rpms-${name}`);

test.before(async () => {
  state = await mockState();
  gpg = await GnuPgHome.make();
  for (const name of ['good', 'other']) {
    await gpg.run('--quick-gen-key', name, 'ed25519', 'sign', 'never');
    await gpg.run('--armor', '--output', key(name), '--export', `=${name}`);
  }
  await copyFile(key('good'), key('changing'));
  for (const name of ['signed', 'unsigned']) {
    await buildPackages(repository(name), [{ name, files: { [`/usr/share/${name}`]: name } }]);
    const [file = ''] = await readdir(repository(name));
    if (name === 'signed') await gpg.signPackage(join(repository(name), file), 'good');
    await createRepository(repository(name));
  }
  const { directory, key: debian } = await debianRepository();
  await writeFile(
    join(state.directory, 'base.yaml'),
    `repositories:
  - { id: debian, directory: ${directory}, gpgcheck: true, gpgkey: ${debian} }
packages: [${NOARCH_ROOT.join(', ')}]
`,
  );
});
test.after.always(async () => {
  await gpg[Symbol.asyncDispose]();
  await state[Symbol.asyncDispose]();
});

const NOT_TRUSTED =
  /signed-1-1\.noarch of repository addrepo1: it is signed by .* not by a key that is trusted here/;
const UNSIGNED = /unsigned-1-1\.noarch of repository addrepo\d+: it is not signed/;

test.serial('packages of --addrepo are checked in the layer of a build', async (t) => {
  const source = await sourcePackage();
  const build = async (name: string, keyring: string, ...more: string[]) => {
    const { exitCode, stderr } = await state.kiln([
      ...['build', '-r', join(state.directory, 'base.yaml'), source],
      ...['--resultdir', join(state.directory, 'results')],
      ...['--addrepo', `${repository(name)}${keyring === '' ? '' : `,gpgkey=${key(keyring)}`}`],
      ...['--additional-package', name, ...more],
    ]);
    return { exitCode, stderr: String(stderr) };
  };
  const fails = async (name: string, keyring: string, why: RegExp) => {
    const { exitCode, stderr } = await build(name, keyring);
    t.not(exitCode, 0, stderr);
    t.regex(stderr, why);
  };
  await fails('signed', 'other', NOT_TRUSTED);
  await fails('unsigned', 'good', UNSIGNED);
  // Whoever does not ask gets a layer, which is nobody else's.
  for (const name of ['signed', 'unsigned']) {
    const { exitCode, stderr } = await build(name, '');
    t.is(exitCode, 0, stderr);
  }
  await fails('signed', 'other', NOT_TRUSTED);
  await fails('unsigned', 'good', UNSIGNED);
  const { exitCode, stderr } = await build('signed', 'changing');
  t.is(exitCode, 0, stderr);
  await copyFile(key('other'), key('changing'));
  await fails('signed', 'changing', NOT_TRUSTED);
  await copyFile(key('good'), key('changing'));
});

test.serial('packages of --install are checked in a root of kiln-mock', async (t) => {
  const made = await state.mock(['--init']);
  t.is(made.exitCode, 0, made.stderr);
  const install = (name: string, keyring: string) =>
    state.mock(['--addrepo', `${repository(name)},gpgkey=${key(keyring)}`, '--install', name]);
  await refused(t, await install('signed', 'other'), NOT_TRUSTED);
  await refused(t, await install('unsigned', 'good'), UNSIGNED);
  const gone = await state.mock(['--chroot', 'ls /usr/share/signed /usr/share/unsigned']);
  t.not(gone.exitCode, 0);
  const done = await install('signed', 'good');
  t.is(done.exitCode, 0, done.stderr);
  t.is((await state.mock(['--chroot', 'cat /usr/share/signed'])).exitCode, 0);
});

async function refused(
  t: ExecutionContext,
  { exitCode, stderr }: { exitCode: number | undefined; stderr: string },
  why: RegExp,
): Promise<void> {
  t.not(exitCode, 0, stderr);
  t.regex(stderr, why);
}

async function sourcePackage(): Promise<string> {
  const top = join(state.directory, 'rpmbuild');
  await mkdir(top);
  const spec = join(top, 'plain.spec');
  await writeFile(
    spec,
    `Name: plain
Version: 1
Release: 1
Summary: Test
License: MIT
BuildArch: noarch
%description
Test.
%files
`,
  );
  await execa('rpmbuild', ['-bs', '--quiet', '--define', `_topdir ${top}`, spec]);
  return join(top, 'SRPMS', 'plain-1-1.src.rpm');
}
