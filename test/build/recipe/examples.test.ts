import { chmod, mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test, { type ExecutionContext } from 'ava';
import { execa } from 'execa';
import { ensureDebianRpms } from '../../../fixtures/debian-rpms/ensure.ts';
import { fixturesRoot } from '../../../fixtures/debian-rpms/layout.ts';
import { ensureSources } from '../../../fixtures/sources/ensure.ts';
import { stopEmbeddedDaemon } from '../../../src/host/libvirt/embedded/daemon.ts';
import { statePaths } from '../../../src/host/state/paths.ts';
import type { Result } from '../../../src/result/schema.ts';
import { KILN, PATIENCE } from '../../support/busybox-state.ts';
import { isLong, long } from '../../support/long.ts';
import { giveUnpackedPackages } from '../../support/unpacked-packages.ts';

let directory: string;
let env: NodeJS.ProcessEnv;
let sources: string;

test.before(async (t) => {
  t.timeout(600_000 * PATIENCE);
  for (const set of isLong ? ['extras', 'tools'] : ['build']) await ensureDebianRpms(set);
  sources = await ensureSources();
  directory = await mkdtemp(join(tmpdir(), 'kiln-recipes-'));
  await chmod(directory, 0o755);
  env = {
    ...process.env,
    KILN_STATE: directory,
    KILN_FIXTURES: fixturesRoot(),
    KILN_FROM_SOURCE: process.env.KILN_FROM_SOURCE ?? '1',
  };
  await giveUnpackedPackages(statePaths(env));
});

test.after.always(async () => {
  await stopEmbeddedDaemon(statePaths(env));
  await rm(statePaths(env).run, { recursive: true, force: true });
  await rm(directory, { recursive: true, force: true });
});

const recipes = join(import.meta.dirname, '../../../recipes/builds');

/** Builds one of recipes/builds as its comment says, offline; gives the result directory. */
async function build(t: ExecutionContext, name: string, ...args: readonly string[]) {
  const out = join(directory, `out-${name}`);
  const run = await execa(
    KILN,
    [
      ...['build', join(recipes, name), '--sources', sources, '--offline'],
      ...['--resultdir', out, ...args],
    ],
    { env, reject: false, stdin: 'ignore', timeout: 280_000 * PATIENCE },
  );
  t.is(run.exitCode, 0, String(run.stderr).slice(-3000));
  const result: Result = JSON.parse(await readFile(join(out, 'result.json'), 'utf8'));
  t.deepEqual(result.policy?.interfaces, ['lo']);
  t.deepEqual(result.policy?.capabilities.bounding, []);
  return { run, out, result, log: await readFile(join(out, 'build.log'), 'utf8') };
}

long('hello.yaml makes GNU hello, and its tests pass in the sandbox', async (t) => {
  const { out, log } = await build(t, 'hello.yaml');
  // The host is a Debian as well: its own loader runs what was made in the sandbox.
  t.is((await execa(join(out, 'hello'))).stdout, 'Hello, world!');
  t.regex((await execa(join(out, 'hello'), ['--version'])).stdout, /^hello \(GNU Hello\) 2\.10/);
  t.regex(log, /^# PASS: {2}[1-9]/m);
  t.regex(log, /^# FAIL: {2}0$/m);
});

long('hello.ts makes the same program, and runs it', async (t) => {
  const { out, log } = await build(t, 'hello.ts', '--param', 'check=no');
  t.is((await execa(join(out, 'hello'))).stdout, 'Hello, world!');
  t.regex(log, /^the program says: made by a recipe$/m);
  t.notRegex(log, /^# PASS/m);
});

long('zlib.yaml makes a zlib that writes what gzip reads', async (t) => {
  const { out } = await build(t, 'zlib.yaml');
  const program = join(out, 'try');
  const code = `#include <zlib.h>
    int main(void) { gzFile f = gzdopen(1, "wb"); gzputs(f, zlibVersion()); return gzclose(f); }`;
  await execa(
    'cc',
    ['-x', 'c', '-', `-I${out}/include`, '-x', 'none', `${out}/lib/libz.a`, '-o', program],
    {
      input: code,
    },
  );
  const { stdout: packed } = await execa(program, { encoding: 'buffer' });
  t.is((await execa('gzip', ['-dc'], { input: packed })).stdout, '1.3.1');
  t.regex(
    (await execa('readelf', ['-d', `${out}/lib/libz.so.1.3.1`])).stdout,
    /SONAME.*libz\.so\.1/,
  );
});

test.serial('noarch-rpm.yaml makes a package that rpm accepts', async (t) => {
  const { out } = await build(t, 'noarch-rpm.yaml');
  const query = ['-qp', '--nosignature', '--qf', '%{NEVRA} %{ARCH}'];
  const rpm = join(out, 'greet-1.0-1.noarch.rpm');
  t.is((await execa('rpm', [...query, rpm])).stdout, 'greet-1.0-1.noarch noarch');
  t.is((await execa('rpm', ['-qpl', '--nosignature', rpm])).stdout, '/usr/bin/greet');
  const source = await execa('rpm', ['-qpl', '--nosignature', join(out, 'greet-1.0-1.src.rpm')]);
  t.is(source.stdout, 'greet.sh\ngreet.spec');
});

long('the recipe node-package.ts installs, tests and packs without a network', async (t) => {
  const { out, log } = await build(t, 'node-package.ts');
  t.regex(log, /^# pass 1$/m);
  const { stdout } = await execa('tar', ['-tzf', join(out, 'nap-1.0.0.tgz')]);
  t.deepEqual(stdout.split('\n').sort(), ['package/nap.js', 'package/package.json']);
});

long('debian-package.yaml makes a .deb that dpkg accepts', async (t) => {
  const { out } = await build(t, 'debian-package.yaml');
  const deb = join(out, 'hello-kiln_2.10-1_amd64.deb');
  const fields = await execa('dpkg-deb', ['--field', deb, 'Package', 'Version', 'Depends']);
  t.is(fields.stdout, 'Package: hello-kiln\nVersion: 2.10-1\nDepends: libc6');
  const root = join(out, 'root');
  await execa('dpkg-deb', ['--extract', deb, root]);
  t.is((await execa(join(root, 'usr/bin/hello'))).stdout, 'Hello, world!');
  t.regex(
    await readFile(join(out, 'hello_2.10-1_amd64.changes'), 'utf8'),
    /^ [0-9a-f]{64} \d+ hello-kiln_/m,
  );
});
