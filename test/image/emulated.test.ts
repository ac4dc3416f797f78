/** An image for aarch64, of Debian's packages, under QEMU: `scripts/test --long`. Without that, its name. */
import { existsSync } from 'node:fs';
import { mkdir, mkdtemp, readdir, readFile, rename, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import test from 'ava';
import { execa } from 'execa';
import { fixturesRoot } from '../../fixtures/debian-rpms/layout.ts';
import { withArchitecture } from '../../src/host/process/architecture.ts';
import { type BusyboxState, busyboxState, PATIENCE } from '../support/busybox-state.ts';
import { withEmulator } from '../support/emulator.ts';
import { long } from '../support/long.ts';

const top = join(import.meta.dirname, '../..');

/** Debian's QEMU for user programs, which is static; it is not installed. */
async function qemu(): Promise<string> {
  const folder = join(fixturesRoot(), 'qemu-user');
  const program = join(folder, 'qemu-aarch64');
  if (existsSync(program)) return program;
  await mkdir(folder, { recursive: true });
  const work = await mkdtemp(join(folder, 'making-'));
  await execa('apt-get', ['download', 'qemu-user'], { cwd: work });
  const [deb = ''] = await readdir(work);
  await execa('dpkg-deb', ['-x', deb, 'tree'], { cwd: work });
  await rename(join(work, 'tree/usr/bin/qemu-aarch64'), program);
  await rm(work, { recursive: true });
  return program;
}

const SPEC = `%global debug_package %{nil}
Name: small
Version: 1
Release: 1
Summary: The smallest package
License: MIT
%description
It has one file.
%build
uname -m >machine
%install
mkdir -p %{buildroot}/usr/share
cp machine %{buildroot}/usr/share/small
%files
/usr/share/small
`;

let state: BusyboxState;
let under: readonly string[];

async function call(program: string, args: readonly string[]) {
  const [first = '', ...words] = [...under, join(top, 'bin', program), ...args];
  const env = { ...state.env, HOME: state.beside };
  return await execa(first, words, { env, cwd: state.beside, reject: false, all: true });
}

test.after.always(() => state?.[Symbol.asyncDispose]());

long('an image for aarch64 is made, runs, and builds a package', async (t) => {
  t.timeout(900_000 * PATIENCE);
  state = await busyboxState();
  await execa(join(top, 'scripts/fixtures'), ['--arch', 'aarch64']);
  under = withEmulator('aarch64', await qemu(), 'OPF');
  const built = await call('kiln', ['image', 'build', 'debian-minimal', '--arch', 'aarch64']);
  t.is(built.exitCode, 0, built.all);
  const image = 'debian-minimal@aarch64';
  const script = 'uname -m; rpm -q --qf "%{arch}\\n" bash; rpm -V bash coreutils && echo clean';
  const run = await call('kiln', ['run', '-r', image, '--', 'sh', '-c', script]);
  t.is(run.stdout, 'aarch64\naarch64\nclean', run.all);
  await writeFile(join(state.beside, 'small.spec'), SPEC);
  const build = ['build', '-r', image, '--spec', 'small.spec', '--resultdir', 'out'];
  const made = await call('kiln', build);
  t.is(made.exitCode, 0, made.all);
  const out = join(state.beside, 'out');
  const rpm = join(out, 'small-1-1.aarch64.rpm');
  t.is((await execa('rpm', ['-qp', '--nosignature', '--qf', '%{arch}', rpm])).stdout, 'aarch64');
  const file = execa('rpm2cpio', [rpm]).pipe('cpio', ['-i', '--to-stdout', '--quiet']);
  t.is((await file).stdout, 'aarch64');
  const result = JSON.parse(await readFile(join(out, 'result.json'), 'utf8'));
  t.is(result.image.arch, 'aarch64');
  t.deepEqual(result.refusedCalls ?? [], []);
  const source = join(out, 'small-1-1.src.rpm');
  const mock = ['-r', 'debian-minimal', '--forcearch', 'aarch64', '--resultdir', 'mocked'];
  const mocked = await call('kiln-mock', [...mock, '--rebuild', source]);
  t.is(mocked.exitCode, 0, mocked.all);
  t.true(existsSync(join(state.beside, 'mocked/small-1-1.aarch64.rpm')));
  const entered = await call('kiln-mock', [...mock, '--chroot', 'uname -m; rpm -E %_arch']);
  t.regex(entered.stdout, /^aarch64\naarch64$/m, entered.all);
});

test('this machine’s own architecture is not said', (t) => {
  t.is(withArchitecture('a', undefined), 'a');
  t.is(withArchitecture('a', 'x86_64'), 'a');
  t.is(withArchitecture('a', 'aarch64'), 'a@aarch64');
});
