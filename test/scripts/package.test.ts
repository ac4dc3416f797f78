/** What `npm pack` makes is whole: it works without a checkout around it. */
import { mkdir, mkdtemp, readFile, rm, stat, symlink, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test from 'ava';
import { execa } from 'execa';
import { stopEmbeddedDaemon } from '../../src/libvirt/embedded/daemon.ts';
import { statePaths } from '../../src/state/paths.ts';

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

test('the library can be imported', async (t) => {
  const program = join(folder, 'program.mjs');
  await writeFile(program, "import { openKiln } from 'kiln';\nconsole.log(typeof openKiln);\n");
  t.is((await execa(process.execPath, [program])).stdout, 'function');
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
