/**
 * The packages that scripts/release builds: installed where there is no kiln, upgraded with a service running,
 * removed. On this host's own files in a container, with an overlay over them, and without the checkout.
 */
import { mkdtemp, readdir, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test, { type ExecutionContext } from 'ava';
import { execa } from 'execa';
import { debianDepends, rpmRequires } from '../../scripts/packaging/dependencies.ts';
import { stopEmbeddedDaemon } from '../../src/host/libvirt/embedded/daemon.ts';
import { statePaths } from '../../src/host/state/paths.ts';
import { type BusyboxState, busyboxState } from '../support/busybox-state.ts';
import { LEAVE_ROOT, removeStorage, runContainer } from '../support/container.ts';
import { endDaemon } from '../support/daemon.ts';
import { long } from '../support/long.ts';

const top = join(import.meta.dirname, '../..');

let folder: string;
let state: BusyboxState;

test.before(async () => {
  folder = await mkdtemp(join(tmpdir(), 'kiln-packages-'));
  await execa('chmod', ['755', folder]);
});
test.after.always(async () => {
  const paths = statePaths({ KILN_STATE: join(folder, 'state') });
  await endDaemon(paths.root);
  await stopEmbeddedDaemon(paths);
  await rm(paths.run, { recursive: true, force: true });
  await state?.[Symbol.asyncDispose]();
  await removeStorage(join(folder, 'podman'));
  await execa('rm', ['-rf', folder]);
});

test('packages depend on what host-packages.txt says that kiln needs to run', (t) => {
  const depends = debianDepends().split(', ');
  for (const name of ['libvirt-daemon-driver-lxc', 'libsolv1', 'e2fsprogs', 'mount']) {
    t.true(depends.includes(name), name);
  }
  // What it takes to build and to test kiln is none of it.
  for (const name of ['gcc', 'podman', 'rpm', '-']) t.false(depends.includes(name), name);
  t.regex(rpmRequires(), /^Requires: libsolv\.so\.1\(\)\(64bit\)$/m);
  t.regex(rpmRequires(), /^Requires: libvirt-daemon-driver-lxc$/m);
});

test('the scripts of the packages give neither shellcheck nor rpm anything to stumble over', async (t) => {
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

/** Builds the packages into a folder, on a state of its own; gives their names. */
async function release(name: string, number = '1'): Promise<string[]> {
  const directory = join(folder, name);
  const env = { KILN_STATE: join(folder, 'state'), KILN_FROM_SOURCE: undefined };
  await execa(process.execPath, [join(top, 'scripts/packaging/main.ts'), directory, number], {
    env,
  });
  return (await readdir(directory)).filter((file) => /\.(?:deb|rpm|tgz)$/.test(file)).sort();
}

/** Packages that an upgrade replaces; that of Debian has another build, and a part that the next one lacks. */
async function releaseBefore(): Promise<void> {
  await release('before', '0');
  const script = `set -e; cd '${folder}/before'
    dpkg-deb -R *.deb tree; rm *.deb
    echo 'module.exports = 1;' >tree/usr/lib/kiln/dist/before-aaaaaaaa.cjs
    echo 00000000000000000000000000000000 >tree/usr/lib/kiln/dist/build-id
    dpkg-deb --root-owner-group -Znone -b tree kiln.deb; rm -r tree`;
  await execa('sh', ['-c', script]);
}

/** All that is no state, no log and no record of the package manager's. */
const FILES = `find /usr /etc /opt /var -xdev \\( -path /var/lib/kiln -o -path /var/lib/dpkg -o -path /var/lib/rpm \\
  -o -path /var/cache -o -path /var/log -o -path /var/tmp -o -path /usr/lib/sysimage \\
  -o -path /var/lib/systemd \\) -prune -o -print | sort`;

/** What everybody does with an installation of kiln; the commands are the package manager's; `list` prints the files of the package. */
function course(commands: Record<'install' | 'upgrade' | 'list' | 'remove', string>): string {
  const { install, upgrade, list, remove } = commands;
  return `${LEAVE_ROOT}
    mount -t tmpfs none '${top}'; mount -t tmpfs none /run/kiln
    exec 2>&1
    ${FILES} >/tmp/before
    command -v kiln && echo "kiln was there before"
    ${install} || echo "not installed"
    getent group kiln >/dev/null && echo "the group is there"
    kiln --version
    man -w kiln-run kiln-mock
    kiln run -r busybox -- sh -c 'echo from the sandbox; exit 3'; echo "status $?"
    kiln-mock --version
    kiln service create -r busybox s1 -- sh -c 'while true; do sleep 1; done'
    kiln service start s1; kiln service list
    (kiln run -r busybox -- sh -c 'sleep 15; echo the job goes on'; echo "job $?") &
    sleep 5
    ${upgrade} || echo "not upgraded"
    cat /usr/lib/kiln/dist/.replaced 2>/dev/null
    kiln service list
    kiln run -r busybox -- echo from the next version
    wait
    kiln service stop s1 && echo "the service of the version before stopped"
    kiln service start s1
    kiln run -r busybox --keep -- true
    ${list} >/tmp/owned
    ${remove} || echo "not removed"
    ls /usr/bin/kiln*
    ps -eo pid,args | grep -E 'kiln[d]|libvirt[d]|kiln-ini[t]'
    ${FILES} >/tmp/after
    # What is kiln's by its name, or was a file of the package. Others may install packages on this host meanwhile.
    diff /tmp/before /tmp/after | grep kiln
    while read -r path; do
      if [ -e "$path" ] && ! grep -qxF "$path" /tmp/before; then echo "> $path"; fi
    done </tmp/owned
    wc -l </tmp/owned
    ls /run/kiln
    ls /var/lib/kiln/services`;
}

/** Runs a course in a container; what it printed. */
async function inContainer(script: string): Promise<string> {
  const volume = join(folder, 'volume');
  await execa('rm', ['-rf', volume]);
  await execa('cp', ['-a', state.paths.root, volume]);
  const { stdout } = await runContainer(join(folder, 'podman'), {
    options: [
      ...['--privileged', '--cgroupns', 'private'],
      ...['-v', `${volume}:/var/lib/kiln`, '-v', `${folder}:/packages:ro`],
    ],
    env: { HOME: '/root' },
    script,
  });
  return stdout;
}

/** What a course is to have printed, and what not. */
function check(t: ExecutionContext, output: string): void {
  t.notRegex(output, /kiln was there before|not (?:installed|upgraded|removed)/, output);
  t.regex(output, /^the group is there$/m);
  t.regex(output, /^\/usr\/share\/man\/man1\/kiln-run\.1/m);
  t.regex(output, /^from the sandbox\nstatus 3$/m);
  t.is(output.match(/^s1 +running /gm)?.length, 2, 'before and after the upgrade');
  t.regex(output, /^from the next version$/m, output);
  t.regex(output, /^the job goes on\njob 0$/m, output);
  t.regex(output, /^the service of the version before stopped$/m, output);
  const [, after = ''] = output.split('kiln: kept as ');
  // All that is left is the state.
  t.notRegex(after, /kilnd|libvirtd|kiln-init/, after);
  t.notRegex(after, /^[<>] \//m, after);
  t.regex(after, /^\d{3,}$/m, 'the list of its files is known');
  t.regex(after, /^s1$/m, after);
}

long('packages are the same when they are built again', async (t) => {
  t.timeout(600_000);
  const names = await release('one');
  t.is(names.length, 3, names.join(' '));
  t.deepEqual(await release('two'), names);
  for (const name of names) {
    const both = ['one', 'two'].map((each) => join(folder, each, name));
    const { exitCode } = await execa('cmp', both, { reject: false });
    t.is(exitCode, 0, `${name} is another one when it is built again`);
  }
  await releaseBefore();
  state = await busyboxState();
});

long('the .deb: installed, upgraded, removed and purged', async (t) => {
  t.timeout(600_000);
  const output = await inContainer(
    course({
      install: 'dpkg -i /packages/before/kiln.deb',
      upgrade: 'dpkg -i /packages/one/*.deb',
      list: 'dpkg -L kiln | tail -n +2',
      remove: 'dpkg -r kiln && dpkg -P kiln',
    }),
  );
  check(t, output);
  t.regex(
    output,
    /^before-aaaaaaaa\.cjs$/m,
    'a part of the version before stays until the next one',
  );
});

long('the .rpm: installed, upgraded and removed', async (t) => {
  t.timeout(600_000);
  const output = await inContainer(
    course({
      // The libraries that it requires are there, and were not installed by rpm.
      install: 'rpm -i --nodeps /packages/before/*.rpm',
      upgrade: 'rpm -U --nodeps /packages/one/*.rpm',
      list: 'rpm -ql kiln',
      remove: 'rpm -e kiln',
    }),
  );
  check(t, output);
});

long('the tarball: installed by npm, upgraded and removed', async (t) => {
  t.timeout(600_000);
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
