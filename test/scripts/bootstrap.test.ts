import {
  mkdir,
  mkdtemp,
  readdir,
  readFile,
  realpath,
  rm,
  symlink,
  writeFile,
} from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import test from 'ava';
import { execa } from 'execa';

const top = join(import.meta.dirname, '../..');
const systemFolders = ['/usr/local/sbin', '/usr/local/bin', '/usr/sbin', '/usr/bin'];

/** Runs a function of scripts/bootstrap.sh in a shell whose PATH is `path`; gives its output. */
async function bootstrapFunction(call: string, path: string): Promise<string> {
  const script = `. '${top}/scripts/bootstrap.sh'; ${call}`;
  // $0 is a script of scripts/, as where the file is sourced.
  const { stdout } = await execa('/bin/sh', ['-uc', script, `${top}/scripts/test`], {
    env: { PATH: path, KILN_NODE: undefined },
  });
  return stdout.trim();
}

/** Makes a folder, for a PATH, that has every command of the system but those named. */
async function commandsWithout(parent: string, names: readonly string[]): Promise<string> {
  const folder = join(parent, 'bin');
  await mkdir(folder);
  for (const source of systemFolders) {
    for (const name of await readdir(source)) {
      if (names.includes(name)) continue;
      await symlink(join(source, name), join(folder, name)).catch(() => undefined);
    }
  }
  return folder;
}

async function inTemporary(work: (folder: string) => Promise<void>): Promise<void> {
  const folder = await mkdtemp(join(tmpdir(), 'kiln-bootstrap-'));
  try {
    await work(folder);
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
}

test('exactly the packages of missing commands would be installed', async (t) => {
  const call = 'missing_packages apt run build fixtures test';
  t.is(await bootstrapFunction(call, systemFolders.join(':')), '');
  await inTemporary(async (folder) => {
    const path = await commandsWithout(folder, ['libvirtd', 'rpmbuild', 'rpmsign']);
    t.is(await bootstrapFunction(call, path), 'libvirt-daemon rpm');
    t.is(await bootstrapFunction('missing_packages apt run', path), 'libvirt-daemon');
    t.is(await bootstrapFunction('missing_packages dnf fixtures', path), 'rpm-build rpm-sign');
  });
});

async function isInstalled(debianPackage: string): Promise<boolean> {
  const { exitCode } = await execa('dpkg', ['-s', debianPackage], { reject: false });
  return exitCode === 0;
}

test('every command in host-packages.txt is in the package named there, as dpkg says', async (t) => {
  const lines = (await readFile(join(top, 'scripts/host-packages.txt'), 'utf8')).split('\n');
  const rows = lines.filter((line) => line !== '' && !line.startsWith('#'));
  t.true(rows.length > 20);
  for (const row of rows) {
    const [use = '', need = '', debian = '', ...others] = row.split(/ +/);
    t.is(others.length, 2, row);
    // Only scripts/test-hosts, scripts/bench and scripts/farm-demo bring these.
    if (['hosts', 'bench', 'farm'].includes(use) && !(await isInstalled(debian))) continue;
    const name = need.replace(/^command:/, '');
    // cc is an alternative: the link is nobody's, and gcc only depends on the package with the program.
    if (name === need || name === 'cc') continue;
    const { stdout: path } = await execa('/bin/sh', ['-c', 'command -v -- "$0"', name]);
    const merged = join(await realpath(dirname(path)), name);
    const { stdout } = await execa('dpkg', ['-S', path, merged], { reject: false });
    const owners = stdout.split('\n').map((line) => line.replace(/[:,].*/, ''));
    t.true(owners.includes(debian), `${name}: ${debian}, says the list; ${stdout}, says dpkg`);
  }
});

test('Node is the one named, or the first that is new enough, and never an older one', async (t) => {
  await inTemporary(async (folder) => {
    const path = await commandsWithout(folder, ['node', 'npm']);
    const other = join(folder, 'node-of-the-user');
    await symlink(process.execPath, other);
    t.is(await bootstrapFunction(`KILN_NODE=${other}; find_node; echo "$node"`, path), other);

    // What `node -e 'process.exit(…)'` of an old Node does to the question whether it will do.
    await writeFile(join(path, 'node'), '#!/bin/sh\nexit 1\n', { mode: 0o755 });
    const nobody = `new_enough ${path}/node || echo too old`;
    t.is(await bootstrapFunction(nobody, path), 'too old');
    await rm(join(path, 'node'));
    await symlink(process.execPath, join(path, 'node'));
    const chosen = `toolchain=${folder}/none; find_node; echo "$node"`;
    t.is(await bootstrapFunction(chosen, path), join(path, 'node'));
  });
});

test('a clone made under umask 077 becomes readable, and its own folder stays closed', async (t) => {
  await inTemporary(async (folder) => {
    const checkout = join(folder, 'a b');
    const make =
      'umask 077; mkdir -p "$0/src/programs" "$0/bin"; : > "$0/src/programs/command-line.ts"; : > "$0/package.json"';
    await execa('sh', ['-ec', make, checkout]);
    await bootstrapFunction(`top='${checkout}'; make_readable`, systemFolders.join(':'));
    const { stdout } = await execa('find', [checkout, '-printf', '%m %P\\n']);
    t.deepEqual(stdout.split('\n').sort(), [
      '644 package.json',
      '644 src/programs/command-line.ts',
      '700 ',
      '755 bin',
      '755 src',
      '755 src/programs',
    ]);
  });
});

test('fixtures are made with kiln’s own Node, whatever `node` the machine has', async (t) => {
  await inTemporary(async (folder) => {
    // As the one of Debian 13: too old, and without TypeScript.
    await writeFile(join(folder, 'node'), '#!/bin/sh\nexit 9\n', { mode: 0o755 });
    const env = { PATH: `${folder}:${systemFolders.join(':')}`, KILN_NODE: undefined };
    for (const kind of [[], ['edge-packages']]) {
      const call = execa(join(top, 'scripts/fixtures'), [...kind, '--help'], { env, all: true });
      t.regex((await call).all, /^Usage: scripts\/fixtures/);
    }
  });
});

test('a PATH without root’s folders of programs, as after `su`, is enough', async (t) => {
  const env = { PATH: '/usr/local/bin:/usr/bin:/bin', KILN_NODE: undefined };
  const { all } = await execa(join(top, 'scripts/fixtures'), ['--help'], { env, all: true });
  t.regex(all, /^Usage: scripts\/fixtures/);
});

test('no page asks to start a program with one’s own Node', async (t) => {
  const { stdout } = await execa(
    'git',
    ['grep', '-nE', String.raw`(^|[\` ])node [a-z./-]+\.ts`, '--', '*.md', 'recipes', 'fixtures'],
    { cwd: top, reject: false },
  );
  t.is(stdout, '');
});

test('shellcheck finds nothing in the shell scripts', async (t) => {
  const scripts = [
    ...['bootstrap.sh', 'test', 'quickstart', 'fixtures', 'release', 'packaging/build.sh'],
  ].map((it) => `scripts/${it}`);
  const command = ['-x', 'bin/kiln-node', 'bin/kiln-mock-node', 'bin/kilnd', '.ci/run', ...scripts];
  const { stdout, exitCode } = await execa('shellcheck', command, { cwd: top, reject: false });
  t.is(exitCode, 0, stdout);
});

test('a script asked with --help says what it is for, and does nothing', async (t) => {
  const folder = join(top, 'scripts');
  let asked = 0;
  for (const name of await readdir(folder)) {
    const path = join(folder, name);
    const text = await readFile(path, 'utf8').catch(() => '');
    if (!text.includes('\nexplain "$@"\n')) continue;
    asked++;
    const { stdout } = await execa(path, ['--help'], { env: { PATH: '/usr/bin:/bin' } });
    t.is(text.split('\n')[1], `# ${stdout.split('\n')[0]}`, name);
    t.notRegex(stdout, /^#|set -/m, name);
  }
  t.true(asked > 5);
});
