import { once } from 'node:events';
import { chmod, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test from 'ava';
import { execa } from 'execa';
import { ensureDebianRpms } from '../../fixtures/debian-rpms/ensure.ts';
import { fixturesRoot } from '../../fixtures/debian-rpms/layout.ts';
import { stopEmbeddedDaemon } from '../../src/host/libvirt/embedded/daemon.ts';
import { statePaths } from '../../src/host/state/paths.ts';
import { KILN, PATIENCE } from '../support/busybox-state.ts';

let directory: string;
let env: NodeJS.ProcessEnv;

test.before(async () => {
  await ensureDebianRpms();
  directory = await mkdtemp(join(tmpdir(), 'kiln-main-job-'));
  await chmod(directory, 0o755);
  env = {
    ...process.env,
    KILN_STATE: directory,
    KILN_FIXTURES: fixturesRoot(),
    KILN_FROM_SOURCE: process.env.KILN_FROM_SOURCE ?? '1',
  };
});

test.after.always(async () => {
  await stopEmbeddedDaemon(statePaths(env));
  await rm(statePaths(env).run, { recursive: true, force: true });
  await rm(directory, { recursive: true, force: true });
});

const kiln = (...args: readonly string[]) =>
  execa(KILN, args, { env, reject: false, stdin: 'ignore', timeout: 240_000 * PATIENCE });

test.serial('packages go in, a sandbox compiles, and a program comes out', async (t) => {
  const source = join(directory, 'hello.c');
  await writeFile(source, '#include <stdio.h>\nint main(void) { puts("made in a sandbox"); }\n');
  const results = join(directory, 'results');
  const run = await kiln(
    ...['run', '-r', 'debian-build', '--copy-in', `${source}:/builddir/hello.c`],
    ...['--artifact', 'hello', '--resultdir', results, '--workdir', '/builddir'],
    ...['--', 'sh', '-c', 'gcc -O2 -o hello hello.c && ./hello'],
  );
  t.is(run.exitCode, 0, run.stderr);
  t.is(run.stdout, 'made in a sandbox');
  // The host is a Debian as well: its own loader runs what was compiled in the sandbox.
  t.is((await execa(join(results, 'hello'))).stdout, 'made in a sandbox');
  const result = JSON.parse(await readFile(join(results, 'result.json'), 'utf8'));
  const { stdout: digest } = await execa('sha256sum', [join(results, 'hello')]);
  t.true(digest.startsWith(result.artifacts[0].sha256));
});

test.serial('the image’s rpm knows the installed packages, and finds them intact', async (t) => {
  const names = await kiln('run', '-r', 'debian-build', '--', 'rpm', '-qa', '--qf', '%{NAME}\\n');
  t.true(names.stdout.split('\n').includes('gcc'));
  const verify = await kiln('run', '-r', 'debian-build', '--user', 'root', '--', 'rpm', '-Va');
  // The sandbox has a /proc and a /run of its own, whatever base-files says of them.
  const foreign = verify.stdout
    .split('\n')
    .filter((line) => !/ \/(proc|run\/\S*|sys|dev)$/.test(line));
  t.deepEqual(foreign, [], verify.stdout);
});

test.serial('rpmbuild works as the unprivileged user, without a network', async (t) => {
  const spec = [
    'Name: tiny',
    'Version: 1',
    'Release: 1',
    'Summary: A package made in a sandbox',
    'License: Apache-2.0',
    '%description',
    '%{summary}.',
    '%install',
    'mkdir -p %{buildroot}/usr/share/tiny; id -u > %{buildroot}/usr/share/tiny/uid',
    '%files',
    '/usr/share/tiny',
    '',
  ].join('\n');
  await writeFile(join(directory, 'tiny.spec'), spec);
  const results = join(directory, 'rpms');
  const run = await kiln(
    ...['run', '-r', 'debian-build', '--copy-in', `${join(directory, 'tiny.spec')}:/tmp/tiny.spec`],
    ...['--artifact', '/builddir/rpmbuild/RPMS/*/*.rpm', '--resultdir', results],
    ...['--', 'rpmbuild', '-bb', '--quiet', '/tmp/tiny.spec'],
  );
  t.is(run.exitCode, 0, run.stderr);
  const { stdout } = await execa('find', [results, '-name', 'tiny-1-1.*.rpm']);
  t.is((await execa('rpm', ['-qp', '--qf', '%{NAME}-%{VERSION}', stdout])).stdout, 'tiny-1');
});

test.serial('rm and gc remove an unused image, but not one in use', async (t) => {
  const images = JSON.parse((await kiln('image', 'ls', '--json')).stdout);
  t.is(images.length, 1);
  const running = kiln('run', '-r', 'debian-build', '--', 'sh', '-c', 'echo up; sleep 120');
  await once(running.stdout, 'data');
  const refused = await kiln('image', 'rm', images[0].id);
  t.is(refused.exitCode, 125);
  t.regex(refused.stderr, /in use/);
  await kiln('gc', '--max-size', '1');
  running.kill('SIGINT');
  t.is((await running).exitCode, 130);
  t.is(JSON.parse((await kiln('image', 'ls', '--json')).stdout).length, 1);
  t.is((await kiln('image', 'rm', images[0].id)).exitCode, 0);
  t.is((await kiln('image', 'ls', '--json')).stdout, '[]');
});

test.serial('an unknown image gets a hint at a similar name', async (t) => {
  const { exitCode, stderr } = await kiln('run', '-r', 'debian-bild', '--', 'true');
  t.is(exitCode, 125);
  t.regex(stderr, /debian-build/);
});
