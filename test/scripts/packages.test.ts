/**
 * The packages that scripts/release builds: installed where there is no kiln, upgraded with a service running,
 * removed. On this host's own files in a container, with an overlay over them, and without the checkout.
 */
import { mkdtemp, readdir, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test from 'ava';
import { execa } from 'execa';
import { ensureDebianRpms } from '../../fixtures/debian-rpms/ensure.ts';
import {
  debianDepends,
  debianRecommends,
  rpmRequires,
} from '../../scripts/packaging/dependencies.ts';
import { stopEmbeddedDaemon } from '../../src/host/libvirt/embedded/daemon.ts';
import { statePaths } from '../../src/host/state/paths.ts';
import { type BusyboxState, busyboxState, PATIENCE } from '../support/busybox-state.ts';
import { LEAVE_ROOT, removeStorage, runContainer } from '../support/container.ts';
import { endDaemon } from '../support/daemon.ts';
import { long } from '../support/long.ts';
import { course, faults, makeDebBefore, type PackageCommands } from '../support/package-course.ts';

const top = join(import.meta.dirname, '../..');

let folder: string;
let state: BusyboxState;

test.before(async () => {
  folder = await mkdtemp(join(tmpdir(), 'kiln-packages-'));
  await execa('chmod', ['755', folder]);
});
test.after.always(async () => {
  for (const name of ['state', 'bare']) {
    const paths = statePaths({ KILN_STATE: join(folder, name) });
    await endDaemon(paths.root);
    await stopEmbeddedDaemon(paths);
    await rm(paths.run, { recursive: true, force: true, maxRetries: 5, retryDelay: 100 });
  }
  await state?.[Symbol.asyncDispose]();
  await removeStorage(join(folder, 'podman'));
  await execa('rm', ['-rf', folder]);
});

test('packages depend on what host-packages.txt says kiln needs to run', (t) => {
  const depends = debianDepends().split(', ');
  for (const name of ['libvirt-daemon-driver-lxc', 'libsolv1', 'e2fsprogs', 'mount']) {
    t.true(depends.includes(name), name);
  }
  // What it takes to build and to test kiln is none of it, nor what every Debian has.
  for (const name of ['gcc', 'podman', 'rpm', 'libvirt-clients', 'util-linux', '-'])
    t.false(depends.includes(name), name);
  for (const name of ['createrepo-c', 'rpm', 'python3-jinja2'])
    t.true(debianRecommends().split(', ').includes(name));
  t.regex(rpmRequires(), /^Requires: libsolv\.so\.1\(\)\(64bit\)$/m);
  t.regex(rpmRequires(), /^Requires: libvirt-daemon-driver-lxc$/m);
  t.regex(rpmRequires(), /^Recommends: \(python3-jinja2 or python3-Jinja2\)$/m);
});

test('a release without the packages of its image ends with kiln’s own words', async (t) => {
  // In another test's state there is that image.
  const env = { KILN_STATE: join(folder, 'bare'), KILN_FIXTURES: join(folder, 'none') };
  const main = [join(top, 'scripts/packaging/main.ts'), join(folder, 'no-release')];
  const { exitCode, stderr } = await execa(process.execPath, main, { env, reject: false });
  t.is(exitCode, 125);
  t.regex(stderr, /scripts\/fixtures/);
  t.notRegex(stderr, /^\s+at /m);
});

test('shellcheck and rpm accept the scripts of the packages', async (t) => {
  const scripts = join(top, 'packaging');
  const { stdout } = await execa('shellcheck', ['-s', 'sh', join(scripts, 'functions.sh')], {
    reject: false,
  });
  t.is(stdout, '');
  // rpm would take them for macros.
  const percent = await execa('grep', ['-n', '%', join(scripts, 'functions.sh')], {
    reject: false,
  });
  t.is(percent.stdout, '');
});

test('needrestart restarts no unit of kiln’s', async (t) => {
  // It evaluates such a file, and leaves alone what one of the patterns finds.
  const script = `our %nrconf; do $ARGV[0]; die $@ if $@; my @all = keys %{$nrconf{override_rc}}; shift;
    for my $unit (@ARGV) { print "$unit\n" if grep { $unit =~ $_ and $nrconf{override_rc}{$_} == 0 } @all }`;
  const kept = ['kiln.service', 'kiln@s1.service', 'kiln-0a1b2c3d.service', 'kilnd-12.scope'];
  const conf = join(top, 'packaging/deb/needrestart.conf');
  const { stdout } = await execa('perl', ['-e', script, conf, ...kept, 'kilns.service']);
  t.deepEqual(stdout.split('\n'), kept);
});

/** Builds the packages into a folder, on a state of its own; gives their names. */
async function release(name: string, number = '1'): Promise<string[]> {
  // They are built in an image of this set.
  await ensureDebianRpms('extras');
  const directory = join(folder, name);
  const env = { KILN_STATE: join(folder, 'state'), KILN_FROM_SOURCE: undefined };
  await execa(process.execPath, [join(top, 'scripts/packaging/main.ts'), directory, number], {
    env,
  });
  return (await readdir(directory)).filter((file) => /\.(?:deb|rpm|tgz|whl)$/.test(file)).sort();
}

/** Packages that an upgrade replaces. */
async function releaseBefore(): Promise<void> {
  await release('before', '0');
  const { stdout } = await execa('sh', ['-c', `ls '${folder}'/one/*.deb`]);
  await makeDebBefore(stdout, join(folder, 'before/kiln.deb'));
}

/** Runs a course in a container; what it printed. */
async function inContainer(commands: PackageCommands): Promise<string> {
  const volume = join(folder, 'volume');
  await execa('rm', ['-rf', volume]);
  await execa('cp', ['-a', state.paths.root, volume]);
  const { stdout } = await runContainer(join(folder, 'podman'), {
    options: [
      ...['--privileged', '--cgroupns', 'private'],
      ...['-v', `${volume}:/var/lib/kiln`, '-v', `${folder}:/packages:ro`],
    ],
    env: { HOME: '/root' },
    script: `${LEAVE_ROOT}
      mount -t tmpfs none '${top}'; mount -t tmpfs none /run/kiln
      ${course(commands)}`,
  });
  return stdout;
}

long('packages built again are the same', async (t) => {
  t.timeout(600_000 * PATIENCE);
  const names = await release('one');
  t.is(names.length, 5, names.join(' '));
  t.deepEqual(await release('two'), names);
  for (const name of names) {
    const both = ['one', 'two'].map((each) => join(folder, each, name));
    const { exitCode } = await execa('cmp', both, { reject: false });
    t.is(exitCode, 0, `${name} is another one when it is built again`);
  }
  await releaseBefore();
  state = await busyboxState();
});

/** What a checker of packages calls an error. */
async function errorsOf(checker: string, args: readonly string[], pattern: RegExp) {
  const { stdout, exitCode } = await execa(checker, args, { reject: false });
  // One that is not installed says nothing, either.
  if (exitCode === undefined) throw new Error(`${checker} cannot be started`);
  return stdout.split('\n').filter((line) => pattern.test(line));
}

long(
  'lintian and rpmlint find no error in the packages that has no reason beside it',
  async (t) => {
    t.timeout(600_000 * PATIENCE);
    const names = (await readdir(join(folder, 'one'))).map((name) => join(folder, 'one', name));
    const [deb = '', rpm = ''] = ['.deb', '.rpm'].map((end) =>
      names.find((name) => name.endsWith(end)),
    );
    const filters = join(top, 'packaging/rpmlintrc.toml');
    t.deepEqual(await errorsOf('lintian', [deb], /^E: /), []);
    t.deepEqual(await errorsOf('rpmlint', ['-c', filters, rpm], / E: /), []);
  },
);

long('the .deb can be installed, upgraded, removed and purged', async (t) => {
  t.timeout(600_000 * PATIENCE);
  const output = await inContainer({
    install: 'dpkg -i /packages/before/kiln.deb',
    upgrade: 'dpkg -i /packages/one/*.deb',
    list: 'dpkg -L kiln | tail -n +2',
    remove:
      'dpkg -r kiln && dpkg -i /packages/one/*.deb && kiln run -r busybox -- echo installed again && dpkg -r kiln && dpkg -P kiln',
  });
  t.deepEqual(faults(output), [], output);
  t.regex(
    output,
    /^before-aaaaaaaa\.cjs$/m,
    'a part of the version before stays until the next one',
  );
  t.regex(output, /^installed again$/m);
});

long('the .rpm can be installed, upgraded and removed', async (t) => {
  t.timeout(600_000 * PATIENCE);
  const output = await inContainer({
    // The libraries that it requires are there, and were not installed by rpm.
    install: 'rpm -i --nodeps /packages/before/*.rpm',
    upgrade: 'rpm -U --nodeps /packages/one/*.rpm',
    list: 'rpm -ql kiln',
    remove: 'rpm -e kiln',
  });
  t.deepEqual(faults(output), [], output);
});

long('the .rpm works in an image of RPMs, as in a sandbox', async (t) => {
  t.timeout(600_000 * PATIENCE);
  // No RPM of libvirt can be had here: it is installed, looked at by rpm, and removed. rpm's plugin `unshare` asks
  // for what a sandbox may not.
  const script = `exec 2>&1
    files() { find / -xdev \\( -path /proc -o -path /tmp -o -path /var/lib/rpm \\) -prune -o -print | sort; }
    files >/tmp/before
    rpm -i --nodeps --noplugins /packages/one/*.rpm && rpm -V --nodeps kiln && echo as packed
    kiln --version; getent group kiln >/dev/null && echo the group is there
    rpm -ql kiln | while read -r path; do [ -e "$path" ] || echo "no $path"; done
    rpm -e --noplugins kiln && echo removed
    files | diff /tmp/before - | grep kiln`;
  const sandbox = ['--bind', `${folder}:/packages:ro`, '--memory', '3G', '--disk', '3G'];
  const { stdout } = await execa(
    join(top, 'bin/kiln'),
    ['run', '-r', 'debian-dpkg', '--user', 'root', ...sandbox, '--', 'sh', '-c', script],
    { env: { KILN_STATE: join(folder, 'state'), KILN_FROM_SOURCE: undefined }, reject: false },
  );
  t.is(stdout, 'as packed\n0.1.0\nthe group is there\nremoved');
});

long('the tarball can be installed by npm, upgraded and removed', async (t) => {
  t.timeout(600_000 * PATIENCE);
  const prefix = join(folder, 'npm');
  const npm = (...words: string[]) =>
    execa('npm', [...words, '--global', '--prefix', prefix, '--no-audit', '--no-fund']);
  const kiln = (...words: string[]) =>
    execa(join(prefix, 'bin/kiln'), words, {
      env: { KILN_STATE: state.paths.root, KILN_FROM_SOURCE: '', KILN_PARKED: '0' },
    });
  const tarball = join(folder, 'one/kiln-0.1.0.tgz');
  for (let time = 0; time < 2; time++) {
    await npm('install', tarball);
    t.is((await kiln('run', '-r', 'busybox', '--', 'echo', 'from npm')).stdout, 'from npm');
    const pages = await readdir(join(prefix, 'share/man/man1'));
    t.true(pages.includes('kiln-run.1'), pages.join(' '));
  }
  await endDaemon(state.paths.root);
  await npm('uninstall', 'kiln');
  const { stdout } = await execa('find', [prefix, '-name', '*kiln*']);
  t.is(stdout, '');
});
