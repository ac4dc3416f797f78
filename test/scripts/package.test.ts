/** What `npm pack` makes is whole: it works without a checkout around it. */
import {
  chown,
  cp,
  mkdir,
  mkdtemp,
  readFile,
  rm,
  stat,
  symlink,
  writeFile,
} from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test from 'ava';
import { execa } from 'execa';
import { stopEmbeddedDaemon } from '../../src/host/libvirt/embedded/daemon.ts';
import { statePaths } from '../../src/host/state/paths.ts';
import { busyboxState } from '../support/busybox-state.ts';
import { kilnForUsers, OTHER, USER, userState } from '../support/second-user.ts';

const top = join(import.meta.dirname, '../..');

let folder: string;
/** Where npm would have put it. */
let installed: string;

test.before(async () => {
  await execa(process.execPath, [join(top, 'scripts/build.ts')]);
  folder = await mkdtemp(join(tmpdir(), 'kiln-package-'));
  installed = join(folder, 'node_modules/kiln');
  await mkdir(installed, { recursive: true });
  await execa('npm', ['pack', '--pack-destination', folder], { cwd: top });
  await execa('tar', ['-xzf', join(folder, 'kiln-0.1.0.tgz'), '--strip-components=1'], {
    cwd: installed,
  });
  // What npm would have put beside it.
  await symlink(join(top, 'node_modules'), join(installed, 'node_modules'));
  await symlink(join(top, 'node_modules/@types'), join(folder, 'node_modules/@types'));
});

test.after.always(async () => {
  // kiln doctor has started a libvirtd.
  const paths = statePaths({ KILN_STATE: join(folder, 'state') });
  await stopEmbeddedDaemon(paths);
  await rm(paths.run, { recursive: true, force: true, maxRetries: 5, retryDelay: 100 });
  await rm(folder, { recursive: true, force: true });
});

test('the command line starts, and finds kiln’s own files', async (t) => {
  const kiln = join(installed, 'bin/kiln-node');
  const env = { KILN_STATE: join(folder, 'state') };
  t.is((await execa(kiln, ['--version'], { env })).stdout, '0.1.0');
  const { stdout } = await execa(kiln, ['doctor', '--json'], { env, reject: false });
  t.false(/ENOENT|kiln-init is missing/.test(stdout), stdout);
  t.true(stdout.includes(join(installed, 'dist/kiln-init')), stdout);
});

test('the packages of kiln’s own recipes can be made without a checkout', async (t) => {
  const env = { KILN_STATE: join(folder, 'state'), KILN_FIXTURES: undefined };
  const { stderr } = await execa(
    join(installed, 'bin/kiln-node'),
    ['run', '-r', 'debian-minimal', '--', 'true'],
    { env, reject: false },
  );
  const [, script = ''] = /`(\S+) --set build`/.exec(stderr) ?? [];
  t.is(script, join(installed, 'scripts/fixtures'), stderr);
  const output = join(folder, 'fixtures');
  // Small, and without dependencies.
  const made = await execa(script, ['--set', 'netbase', '--output', output], { env });
  t.is(made.stdout, `file://${output}/custom`);
});

const PROGRAM = `import { $host, connect, defineRecipe, ExecError, type Image, KilnError } from 'kiln';

defineRecipe({ image: 'busybox', steps: ['true', async () => { await $host({ cwd: '/' })\`true\`.nothrow(); }] });
await using kiln = await connect();
const images: readonly Image[] = await kiln.images();
const { ended, stdout } = await kiln.run({ image: images[0]?.name, argv: ['echo', 'from a sandbox'] });
console.log(ended.exitCode, stdout.toString().trim());
await using sandbox = await kiln.open({ image: 'busybox', surroundings: { pids: 50 } });
console.log((await sandbox.exec('cat; hostname', { input: 'in ' })).stdout.trim());
const error: unknown = await sandbox.exec('exit 3').catch((failure: unknown) => failure);
console.log(error instanceof ExecError && error.code);
const missing: unknown = await kiln.run({ image: 'none', argv: ['x'] }).catch((failure: unknown) => failure);
console.log(missing instanceof KilnError && missing.code);
// @ts-expect-error: a command is needed
await kiln.run({ image: 'busybox' }).catch((failure: KilnError) => console.log(failure.code));
// @ts-expect-error: a list is needed
await kiln.build({ sources: 'x.src.rpm' }).catch((failure: KilnError) => console.log(failure.code, failure.message));
`;

async function compile(name: string, program: string, where = folder): Promise<string> {
  const file = join(where, `${name}.mts`);
  await writeFile(file, program);
  const strict = ['--strict', '--exactOptionalPropertyTypes', '--noUncheckedIndexedAccess'];
  const target = [
    '--target',
    'es2022',
    '--lib',
    'es2024,esnext.disposable',
    '--module',
    'nodenext',
  ];
  const tsc = join(top, 'node_modules/.bin/tsc');
  await execa(tsc, [...strict, ...target, '--types', 'node', file], {
    cwd: where,
  });
  return join(where, `${name}.mjs`);
}

test('a strict TypeScript program compiles against the installed library, and runs', async (t) => {
  const program = await compile('program', PROGRAM);
  await using state = await busyboxState();
  // Its daemon is the package's own.
  const env = { KILN_STATE: state.paths.root, KILN_PARKED: '0' };
  const { stdout } = await execa(process.execPath, [program], { env });
  t.deepEqual(stdout.split('\n'), [
    '0 from a sandbox',
    'in kiln',
    '3',
    'E_IMAGE_MISSING',
    'E_ARGUMENT',
    'E_ARGUMENT sources is not of its type',
  ]);
});

const CLIENT_PROGRAM = `import { connect, ExecError, KilnError, type Image, type Sandbox } from 'kiln-client';

await using kiln = await connect();
const images: readonly Image[] = await kiln.images();
await using sandbox: Sandbox = await kiln.open({ image: images[0]?.name ?? '' });
const error: unknown = await sandbox.exec('exit 3').catch((failure: unknown) => failure);
console.log((await sandbox.exec('echo in a sandbox')).stdout.trim(), error instanceof ExecError && error.code);
const missing: unknown = await kiln.run({ image: 'none', argv: ['x'] }).catch((failure: unknown) => failure);
console.log(missing instanceof KilnError && missing.code);
`;

test('the library is a package of its own, which needs no other, and nothing native', async (t) => {
  const { stdout: packed } = await execa('npm', ['pack', '--json', '--pack-destination', folder], {
    cwd: join(top, 'dist/client'),
  });
  const [{ filename = '', unpackedSize = 0 } = {}] = JSON.parse(packed) as Record<string, never>[];
  const alone = await mkdtemp(join(folder, 'alone-'));
  const place = join(alone, 'node_modules/kiln-client');
  await mkdir(place, { recursive: true });
  await execa('tar', ['-xzf', join(folder, filename), '--strip-components=1'], { cwd: place });
  const manifest = JSON.parse(await readFile(join(place, 'package.json'), 'utf8'));
  for (const key of ['dependencies', 'scripts', 'optionalDependencies'])
    t.is(manifest[key], undefined);
  t.true(unpackedSize < 500_000, `${unpackedSize} bytes`);
  t.false(/koffi|\.node['"]/.test(await readFile(join(place, 'index.js'), 'utf8')));
  await symlink(join(top, 'node_modules/@types'), join(alone, 'node_modules/@types'));
  const program = await compile('client', CLIENT_PROGRAM, alone);
  await using state = await busyboxState();
  const PATH = `${join(installed, 'dist')}:${process.env.PATH}`;
  const env = { KILN_STATE: state.paths.root, KILN_PARKED: '0', PATH };
  const { stdout } = await execa(process.execPath, [program], { env });
  t.deepEqual(stdout.split('\n'), ['in a sandbox 3', 'E_IMAGE_MISSING']);
});

const USERS_PROGRAM = `import { once } from 'node:events';
import { readFile, stat } from 'node:fs/promises';
import { text } from 'node:stream/consumers';
import { type BuildResult, connect, type Image, type Kiln, KilnError, type RunOutcome, type Sandbox } from 'kiln';

await using kiln: Kiln = await connect();
const code = (call: Promise<unknown>): Promise<unknown> =>
  call.then(() => 'done', (error: unknown) => (error instanceof KilnError ? error.code : String(error)));
const say = (...words: readonly unknown[]): void => console.log(words.join(' '));
const image = 'busybox';

const plain: RunOutcome = await kiln.run({ image, argv: ['id', '-u'] });
say(plain.stdout.toString().trim(), plain.ended.exitCode);
// Files are opened, and results written, with this user's rights; paths are this program's.
const files = await kiln.run({
  image, argv: ['sh', '-c', 'cat /tmp/in /b/mine >/tmp/out'], workdir: '/tmp', artifacts: ['out'], resultDirectory: 'results',
  copyIn: [{ source: 'mine', target: '/tmp/in' }], surroundings: { binds: [{ source: '.', target: '/b' }] },
});
say(files.artifacts.join(), await readFile('results/out', 'utf8'), (await stat('results/out')).uid);
say(await code(kiln.run({ image, argv: ['true'], copyIn: [{ source: '../others', target: '/x' }] })));
say(await code(kiln.run({ image, argv: ['true'], surroundings: { network: 'host' } })));
say(await code(kiln.open({ image, surroundings: { binds: [{ source: '.', target: '/b' }] } })));
say(await code(kiln.run({ image: 'none', argv: ['true'] })), await code(kiln.services()));

{
  await using sandbox: Sandbox = await kiln.open({ image });
  const upper = sandbox.spawn('tr', ['a-z', 'A-Z']);
  upper.stdin.end('spawned');
  const [out] = await Promise.all([text(upper.stdout), once(upper, 'close')]);
  await sandbox.writeFile('/tmp/f', 'written');
  say(out, (await sandbox.readFile('/tmp/f')).toString(), (await kiln.sandboxes()).length);
}
const over = new AbortController();
const onStdout = (): void => over.abort(new Error('enough'));
for (const resultDirectory of [undefined, 'aborted']) {
  const job = { image, argv: ['sh', '-c', 'echo here; sleep 60'], onStdout, signal: over.signal };
  say(await code(kiln.run(resultDirectory === undefined ? job : { ...job, resultDirectory })));
}
const images: readonly Image[] = await kiln.images();
say(images.map(({ name }) => name).join(), (await kiln.buildImage(image)).name, await code(kiln.removeImage(image)));
let told = '';
const built: BuildResult = await kiln.build({
  sources: ['made.yaml'], resultDirectory: 'made', onOutput: (chunk) => { told += chunk.toString(); },
});
say(built.exitStatus, built.files.join(), told.trim(), (await stat('made/out')).uid);
say(await code(kiln.build({ sources: ['none.src.rpm'], image, resultDirectory: 'made' })));
say((await kiln.doctor(['landlock'])).length);
`;

test('a user other than root can use the installed library, with their own files', async (t) => {
  const program = await compile('users', USERS_PROGRAM);
  await using state = await userState();
  // Where this user may look: a checkout may be root's alone.
  const node = kilnForUsers(join(state.beside, 'node_modules/kiln'), installed);
  await cp(program, join(state.beside, 'users.mjs'));
  await writeFile(join(state.beside, 'others'), 'others', { mode: 0o600 });
  await chown(join(state.beside, 'others'), OTHER.uid, OTHER.gid);
  const steps = [{ run: 'echo making; echo made >/tmp/out' }];
  const recipe = JSON.stringify({ image: 'busybox', steps, artifacts: ['/tmp/out'] });
  for (const [name, content] of Object.entries({ mine: 'mine ', 'made.yaml': recipe })) {
    await writeFile(join(state.home, name), content);
    await chown(join(state.home, name), USER.uid, USER.gid);
  }
  const ran = await state.run(USER, [node, join(state.beside, 'users.mjs')]);
  t.deepEqual(
    String(ran.stdout).split('\n'),
    [
      '1000 0',
      `out mine mine  ${USER.uid}`,
      'E_CALLER_FILE',
      'E_FORBIDDEN',
      'done',
      'E_IMAGE_MISSING E_FORBIDDEN',
      // The one with a bind is open until the connection ends.
      'SPAWNED written 2',
      'Error: enough',
      'Error: enough',
      'busybox busybox E_FORBIDDEN',
      `0 out making ${USER.uid}`,
      'E_CALLER_FILE',
      '1',
    ],
    String(ran.stderr),
  );
  const stranger = await state.run(OTHER, [node, join(state.beside, 'users.mjs')], { groups: [] });
  t.regex(String(stranger.stderr), /you may not connect.*E_PERMISSION/s);
});

test('the notices name all code in the bundle, and what it takes to link again', async (t) => {
  const notices = await readFile(join(installed, 'dist/THIRD-PARTY-NOTICES'), 'utf8');
  const { dependencies } = JSON.parse(await readFile(join(top, 'package.json'), 'utf8'));
  for (const name of Object.keys(dependencies)) t.true(notices.includes(`\n${name} `), name);
  // Of a dependency's dependency, too.
  t.true(notices.includes('\nstreamx '));
  t.regex(notices, /GNU LESSER GENERAL PUBLIC LICENSE/);
  for (const source of [
    'src/client/kiln.c',
    'src/guest/init.c',
    'dist/wire/wire.c',
    'dist/wire/frames.h',
  ]) {
    t.true((await stat(join(installed, source))).isFile());
  }
});
