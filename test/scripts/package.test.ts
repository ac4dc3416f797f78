/** What `npm pack` makes is whole: it works without a checkout around it. */
import { mkdir, mkdtemp, readFile, rm, stat, symlink, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test from 'ava';
import { execa } from 'execa';
import { stopEmbeddedDaemon } from '../../src/host/libvirt/embedded/daemon.ts';
import { statePaths } from '../../src/host/state/paths.ts';
import { busyboxState } from '../support/busybox-state.ts';

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
  await rm(paths.run, { recursive: true, force: true });
  await rm(folder, { recursive: true, force: true });
});

test('the command line starts, and finds the files of kiln’s own', async (t) => {
  const kiln = join(installed, 'bin/kiln-node');
  const env = { KILN_STATE: join(folder, 'state') };
  t.is((await execa(kiln, ['--version'], { env })).stdout, '0.1.0');
  const { stdout } = await execa(kiln, ['doctor', '--json'], { env, reject: false });
  t.false(/ENOENT|kiln-init is missing/.test(stdout), stdout);
  t.true(stdout.includes(join(installed, 'dist/kiln-init')), stdout);
});

const PROGRAM = `import { connect, defineRecipe, ExecError, type Image, KilnError } from 'kiln';

defineRecipe({ image: 'busybox', steps: ['true'] });
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
`;

test('a program in TypeScript compiles against the installed library, strictly, and runs', async (t) => {
  const file = join(folder, 'program.mts');
  await writeFile(file, PROGRAM);
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
  await execa(tsc, [...strict, ...target, '--types', 'node', '--skipLibCheck', file], {
    cwd: folder,
  });
  await using state = await busyboxState();
  // Its daemon is the package's own.
  const env = { KILN_STATE: state.paths.root, KILN_PARKED: '0' };
  const { stdout } = await execa(process.execPath, [join(folder, 'program.mjs')], { env });
  t.deepEqual(stdout.split('\n'), [
    '0 from a sandbox',
    'in kiln',
    '3',
    'E_IMAGE_MISSING',
    'E_ARGUMENT',
  ]);
});

test('its notices name all that the bundle has in it or loads, and what it takes to link anew', async (t) => {
  const notices = await readFile(join(installed, 'dist/THIRD-PARTY-NOTICES'), 'utf8');
  const { dependencies } = JSON.parse(await readFile(join(top, 'package.json'), 'utf8'));
  for (const name of Object.keys(dependencies)) t.true(notices.includes(`\n${name} `), name);
  // Of a dependency's dependency, too.
  t.true(notices.includes('\nstreamx '));
  t.regex(notices, /GNU LESSER GENERAL PUBLIC LICENSE/);
  for (const source of ['src/client/kiln.c', 'src/guest/init.c']) {
    t.true((await stat(join(installed, source))).isFile());
  }
});
