import { mkdir, mkdtemp, realpath, rm, symlink, writeFile } from 'node:fs/promises';
import { homedir } from 'node:os';
import { join } from 'node:path';
import test from 'ava';
import { execa } from 'execa';
import { ownPath } from '../../src/host/files/held.ts';
import { type BusyboxState, busyboxState, IMAGE, KILN } from '../support/busybox-state.ts';
import { openKiln } from '../support/kiln.ts';

let state: BusyboxState;
/** A folder in a home directory of root's. */
let own: string;

test.before(async () => {
  state = await busyboxState();
  await symlink('/etc', join(state.beside, 'link'));
  await symlink('/', join(state.beside, 'root'));
  await mkdir(join(state.beside, 'inner'));
  own = await mkdtemp(join(homedir(), 'kiln-test-'));
});
test.after.always(async () => {
  await rm(own, { recursive: true });
  await state[Symbol.asyncDispose]();
});

const run = (source: string, mode = 'rw', ...options: readonly string[]) =>
  state.kiln(['run', '-r', IMAGE, ...options, '--bind', `${source}:/b:${mode}`, '--', 'true']);

const refused: readonly (readonly [what: string, source: () => string])[] = [
  ...['/', '/etc', '/etc/cron.d', '/etc/passwd', '/usr', '/usr/bin', '/boot', '/root', '/proc'].map(
    (path) => [path, () => path] as const,
  ),
  ...['/sys', '/dev', '/run', '/run/kiln', '/var', '/var/lib', '/home'].map(
    (path) => [path, () => path] as const,
  ),
  ['the state', () => state.paths.root],
  ['a folder of the state', () => state.paths.images],
  ['the folder that the state is in', () => join(state.paths.root, '..')],
  ['a link to /etc', () => join(state.beside, 'link')],
  ['a path through a link', () => join(state.beside, 'root/etc')],
  ['a path with ..', () => `${state.beside}/inner/../../../../../../../../etc`],
  ['/proc/self/root/etc', () => '/proc/self/root/etc'],
  ['a link to itself of the kernel', () => '/proc/self/cwd/../../../../../../../etc'],
];

for (const [what, source] of refused) {
  test(`a writable bind needs confirmation: ${what}`, async (t) => {
    const result = await run(source());
    t.is(result.exitCode, 125);
    t.regex(String(result.stderr), /is not bound writable/);
    t.regex(String(result.stderr), /--allow-host-write/);
  });
}

test('read-only and confirmed binds work as ever, and so do folders of one’s own', async (t) => {
  for (const [source, ...more] of [
    ['/etc', 'ro'],
    ['/', 'ro'],
    ['/etc', 'rw', '--allow-host-write'],
    [join(state.beside, 'inner')],
    [own],
    ['/dev/shm'],
  ] as const) {
    const result = await run(source, ...more);
    t.is(result.exitCode, 0, `${source} ${more}: ${result.stderr}`);
  }
});

/** Runs a script of sh in a mount namespace of its own, with kiln as $KILN. */
const apart = (script: string) =>
  execa('unshare', ['--mount', 'sh', '-ec', script], {
    env: { ...state.env, KILN, RUN: `run -r ${IMAGE} --bind`, BESIDE: state.beside },
    reject: false,
    stdin: 'ignore',
  });

test('a bind mount of /etc, or of a folder in it, is /etc', async (t) => {
  for (const folder of ['/etc', '/etc/cron.d', '/']) {
    const result = await apart(
      `mkdir -p $BESIDE/seen; mount --bind ${folder} $BESIDE/seen; exec "$KILN" $RUN $BESIDE/seen:/b -- true`,
    );
    t.is(result.exitCode, 125, folder);
    t.regex(result.stderr, /is not bound writable/);
  }
});

test('another user’s home directory is not bound writable, nor the caller’s as a whole', async (t) => {
  const home = join(state.beside, 'home');
  await mkdir(join(home, 'project/.ssh'), { recursive: true });
  await writeFile(
    join(state.beside, 'passwd'),
    `root:x:0:0::/root:/bin/sh\nanna:x:4711:4711::${home}:/bin/sh\n`,
  );
  await execa('chown', ['-R', '4711:4711', home]);
  // A test that makes an account puts a new /etc/passwd in place, which takes the mount away.
  const as = async (caller: string, source: string): Promise<Awaited<ReturnType<typeof apart>>> => {
    const result = await apart(`${caller} status=0
      mount --bind $BESIDE/passwd /etc/passwd
      "$KILN" $RUN ${source}:/b -- true || status=$?
      mountpoint -q /etc/passwd || exit 99
      exit $status`);
    return result.exitCode === 99 ? await as(caller, source) : result;
  };
  const anna = 'export SUDO_UID=4711 SUDO_GID=4711;';
  for (const [caller, source, status] of [
    ['', home, 125],
    ['', `${home}/project`, 125],
    [anna, home, 125],
    [anna, `${home}/project`, 0],
    [anna, homedir(), 125],
    [anna, own, 125],
  ] as const) {
    const result = await as(caller, source);
    t.is(result.exitCode, status, `${caller} ${source}: ${result.stderr}`);
  }
});

test('a recipe, a service and the library are refused alike', async (t) => {
  const recipe = join(state.beside, 'etc.yaml');
  const bind = 'sandbox: { bind: [{ source: /etc, target: /b, readonly: false }] }';
  await writeFile(recipe, `image: ${IMAGE.slice(0, 12)}\n${bind}\nsteps: ['true']\n`);
  const build = ['build', recipe, '--allow-host', '--resultdir', join(state.beside, 'out')];
  const built = await state.kiln(build);
  t.is(built.exitCode, 125);
  t.regex(String(built.stderr), /\/etc is not bound writable/);
  t.is((await state.kiln([...build, '--allow-host-write'])).exitCode, 0);

  const create = ['service', 'create', '-r', IMAGE, '-m', '/etc:/b', 'writes', '--', 'sleep', '9'];
  const created = await state.kiln(create);
  t.is(created.exitCode, 125);
  t.regex(String(created.stderr), /\/etc is not bound writable/);
  const confirmed = await state.kiln(create.toSpliced(2, 0, '--allow-host-write'));
  t.is(confirmed.exitCode, 0, String(confirmed.stderr));
  t.is((await state.kiln(['service', 'delete', '--yes', 'writes'])).exitCode, 0);

  await using kiln = openKiln({ env: state.env });
  const etc = await realpath('/etc');
  const binds = [{ source: etc, place: ownPath(etc), target: '/b', readonly: false }];
  await t.throwsAsync(kiln.open({ image: IMAGE, binds }), { code: 'E_BIND' });
});
