/** The caller's umask decides for the files that the caller asked for, and for nothing that kiln keeps. */
import { chmodSync, existsSync, readdirSync, statSync } from 'node:fs';
import { chmod, cp, mkdir, mkdtemp, rm, symlink, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test from 'ava';
import { execa } from 'execa';
import { ensureDebianRpms } from '../../fixtures/debian-rpms/ensure.ts';
import { stopEmbeddedDaemon } from '../../src/host/libvirt/embedded/daemon.ts';
import { type StatePaths, statePaths } from '../../src/host/state/paths.ts';
import { busyboxState, IMAGE, KILN, PATIENCE } from '../support/busybox-state.ts';
import { until } from '../support/eventually.ts';

const top = join(import.meta.dirname, '../..');

interface Place {
  readonly folder: string;
  readonly paths: StatePaths;
  /** kiln, called with a umask; throws when it fails. */
  kiln(...args: readonly string[]): Promise<string>;
}

/** The usual one, the closest and the most open; what lies between is for long runs. */
const UMASKS = ['022', '077', '000', ...(process.env.KILN_TEST_LONG === '1' ? ['027'] : [])];

/** A KILN_STATE that is not there yet, nor is the folder above it. */
async function place(umask: string): Promise<Place & AsyncDisposable> {
  const folder = await mkdtemp(join(tmpdir(), 'kiln-umask-'));
  await chmod(folder, 0o755);
  const env = {
    KILN_FROM_SOURCE: '1',
    ...process.env,
    KILN_STATE: join(folder, 'above/state'),
    KILN_FIXTURES: process.env.KILN_FIXTURES ?? join(statePaths({}).root, 'fixtures'),
  };
  const paths = statePaths(env);
  return {
    folder,
    paths,
    kiln: async (...args) => {
      const script = 'umask "$1"; shift; exec "$@"';
      const timeout = 120_000 * PATIENCE;
      const command = ['-c', script, 'sh', umask, KILN, ...args];
      return (await execa('sh', command, { env, cwd: folder, stdin: 'ignore', timeout })).stdout;
    },
    [Symbol.asyncDispose]: async () => {
      await stopEmbeddedDaemon(paths);
      for (const path of [folder, paths.run]) await rm(path, { recursive: true, force: true });
    },
  };
}

/** A tar archive of busybox, without users. */
async function busyboxArchive(folder: string): Promise<string> {
  const tree = join(folder, 'tree');
  for (const name of ['bin', 'etc', 'tmp', 'dev', 'proc', 'run', 'sys', 'var/tmp']) {
    await mkdir(join(tree, name), { recursive: true });
  }
  await cp('/bin/busybox', join(tree, 'bin/busybox'));
  for (const name of ['sh', 'ls', 'id', 'stat', 'sleep', 'touch', 'cat']) {
    await symlink('busybox', join(tree, 'bin', name));
  }
  await writeFile(
    join(tree, 'etc/passwd'),
    'root:x:0:0::/:/bin/sh\nbuild:x:1000:1000::/:/bin/sh\n',
  );
  await writeFile(join(tree, 'etc/group'), 'root:x:0:\nbuild:x:1000:\n');
  const archive = join(folder, 'bb.tar');
  await execa('tar', ['-C', tree, '--owner=0', '--group=0', '-cf', archive, '.']);
  await rm(tree, { recursive: true });
  return archive;
}

/** Modes of what is below a folder, by path; what is named by chance has the same name everywhere. */
async function modes(folder: string): Promise<string[]> {
  const { stdout } = await execa('find', [folder, '-printf', '%P %y %m\\n']);
  const lines = stdout
    .split('\n')
    // A domain's end is noticed by libvirtd a little later.
    .filter((line) => !line.startsWith('libvirt/run/lxc/kiln-'))
    .map((line) => line.replace(/[0-9a-f]{8,}|\d{4,}(?=[-. ])/g, '#'));
  return [...new Set(lines)].sort();
}

/** All that makes things which last, and what a sandbox says of its own. */
async function everything(it: Place): Promise<string> {
  await it.kiln('image', 'import', await busyboxArchive(it.folder), '--name', 'bb');
  const look =
    'umask; id -u; stat -c "%a %n" / /tmp /etc /bin/sh; touch /tmp/x; stat -c "%a" /tmp/x';
  const said = [await it.kiln('run', '-r', 'bb', '--user', 'build', '--', 'sh', '-c', look)];
  await it.kiln('image', 'build', 'debian-minimal');
  const find = 'find / -xdev ! -path "/proc/*" -printf "%p %y %m %U\\n" | sort';
  said.push(await it.kiln('run', '-r', 'debian-minimal', '--user', 'root', '--', 'sh', '-c', find));
  said.push(
    await it.kiln('run', '-r', 'debian-minimal', '--', 'bash', '-c', 'id -un; rpm -q bash'),
  );
  const copied = ['--copy-in', `${it.folder}/bb.tar:/srv/a/b/bb.tar`, '--user', 'build'];
  said.push(await it.kiln('run', '-r', 'bb', ...copied, '--', 'ls', '-lnR', '/srv'));
  await it.kiln('service', 'create', '-r', 'bb', 'sleeper', '--', '/bin/sleep', '1000');
  await it.kiln('service', 'start', 'sleeper');
  const etc = ['ls -ln /etc/hosts /etc/hostname /etc/machine-id'];
  said.push(await it.kiln('service', 'execute', 'sleeper', '--', 'sh', '-c', ...etc));
  await it.kiln('service', 'stop', 'sleeper');
  return said.join('\n').replace(/ \w{3} +\d+ [\d:]+ /g, ' ');
}

test.serial('kiln works under any umask, and its state has the same modes', async (t) => {
  t.timeout(600_000 * PATIENCE);
  await ensureDebianRpms();
  const found: { said: string; state: string[]; run: string[] }[] = [];
  for (const umask of UMASKS) {
    await using it = await place(umask);
    const said = await everything(it);
    // Sandboxes are removed behind the caller's back.
    const { run, sandboxes } = it.paths;
    const areRemoved = () =>
      existsSync(join(run, 'removed')) && readdirSync(sandboxes).length === 0;
    t.true(await until(areRemoved), umask);
    found.push({
      said,
      state: await modes(join(it.folder, 'above')),
      run: await modes(it.paths.run),
    });
  }
  const [usual, ...others] = found;
  t.regex(usual?.said ?? '', /^0022\n1000\n755 \/\n1777 \/tmp\n/);
  t.true((usual?.state.length ?? 0) > 500);
  for (const other of others) t.deepEqual(other, usual);
});

test.serial('results get the modes that the caller’s umask allows', async (t) => {
  await using it = await place('077');
  await it.kiln('image', 'import', await busyboxArchive(it.folder), '--name', 'bb');
  const artifact = ['--workdir', '/tmp', '--artifact', 'x', '--resultdir', 'out'];
  await it.kiln('run', '-r', 'bb', ...artifact, '--', 'touch', 'x');
  await it.kiln('image', 'export', 'bb', '-o', 'bb-again.tar');
  await it.kiln('image', 'export', 'bb', '-o', 'layout');
  const mode = (name: string) => (statSync(join(it.folder, name)).mode & 0o777).toString(8);
  t.is(mode('out'), '700');
  t.is(mode('out/result.json'), '600');
  t.is(mode('bb-again.tar'), '600');
  t.is(mode('layout'), '700');
  // As the sandbox has it, as ever.
  t.is(mode('out/x'), '644');
});

test.serial('folders that an earlier kiln made with narrow modes are widened', async (t) => {
  await using state = await busyboxState();
  const run = async () => {
    const { stdout, stderr } = await state.kiln(['run', '-r', IMAGE, '--', 'echo', 'here']);
    t.is(String(stdout), 'here', String(stderr));
  };
  await run();
  const before = await modes(state.paths.skeleton);
  await execa('chmod', ['-R', 'go-rwx', state.paths.skeleton]);
  chmodSync(state.paths.root, 0o700);
  await run();
  t.deepEqual(await modes(state.paths.skeleton), before);
  t.is(statSync(state.paths.root).mode & 0o777, 0o711);
});

test.serial('the library works under its process’s umask, and leaves it unchanged', async (t) => {
  const folder = await mkdtemp(join(tmpdir(), 'kiln-umask-'));
  await chmod(folder, 0o755);
  await using state = await busyboxState(folder);
  const program = `
process.umask(0o077);
const { openKiln } = await import(${JSON.stringify(join(top, 'test/support/kiln.ts'))});
await using kiln = openKiln({ env: process.env });
await using sandbox = await kiln.open({ image: '${IMAGE}' });
const command = await sandbox.spawn('sh', ['-c', 'umask; id -u; touch /tmp/x']);
command.stdout.pipe(process.stdout);
await new Promise((resolve) => command.once('close', resolve));
process.stdout.write(String(command.exitCode) + ' ' + process.umask().toString(8) + '\\n');`;
  const args = ['--disable-warning=ExperimentalWarning', '--input-type=module', '-e', program];
  const { stdout } = await execa(process.execPath, args, { env: state.env });
  t.is(stdout, '0022\n1000\n0 77');
  await rm(folder, { recursive: true, force: true });
});
