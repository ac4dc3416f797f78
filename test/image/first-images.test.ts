/** Images that people try first: what is in them works, as a newcomer would try it. */
import { readdirSync, readFileSync } from 'node:fs';
import { mkdir, symlink, writeFile } from 'node:fs/promises';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { basename, join } from 'node:path';
import test, { type ExecutionContext } from 'ava';
import { parse } from 'yaml';
import { ensureDebianRpms } from '../../fixtures/debian-rpms/ensure.ts';
import { fixturesRoot } from '../../fixtures/debian-rpms/layout.ts';
import { packageSets } from '../../fixtures/debian-rpms/sets.ts';
import { type BusyboxState, busyboxState, PATIENCE } from '../support/busybox-state.ts';
import { isLong, long } from '../support/long.ts';
import { giveUnpackedPackages } from '../support/unpacked-packages.ts';

const RECIPES = join(import.meta.dirname, '../../recipes/images');

let state: BusyboxState;

test.before(async (t) => {
  if (!isLong) return;
  t.timeout(600_000 * PATIENCE);
  await ensureDebianRpms('tools');
  state = await busyboxState();
  await symlink(fixturesRoot(), join(state.paths.root, 'fixtures'));
  await giveUnpackedPackages(state.paths);
});
test.after.always(() => state?.[Symbol.asyncDispose]());

/** Runs kiln in a folder of its own; what it printed. */
async function kiln(t: ExecutionContext, ...args: readonly string[]): Promise<string> {
  const options = { cwd: state.beside, timeout: 300_000 };
  const { exitCode, stdout, stderr } = await state.kiln(args, options);
  t.is(exitCode, 0, String(stderr));
  return String(stdout);
}

/** A recipe as it is written: a base, and what it adds. */
interface Written {
  readonly extends?: string;
  readonly repositories?: readonly { readonly directory?: string }[];
  readonly packages?: readonly string[];
}

/** The packages that scripts/fixtures is asked for where a recipe's repositories come from. */
function offered(name: string): readonly string[] {
  const { extends: base, repositories = [] } = written(name);
  const sets = repositories.map(({ directory = '' }) => packageSets.get(basename(directory)));
  return [
    ...(base === undefined ? [] : offered(base)),
    ...sets.flatMap((set) => set?.packages ?? []),
  ];
}

const written = (name: string): Written =>
  parse(readFileSync(join(RECIPES, `${name}.yaml`), 'utf8'));

test('images of the tools repository need only packages that are in it', (t) => {
  const names = readdirSync(RECIPES)
    .map((file) => basename(file, '.yaml'))
    .filter((name) =>
      written(name).repositories?.some(({ directory }) => directory?.endsWith('/tools')),
    );
  t.true(names.length >= 6, names.join());
  for (const name of names) {
    const missing = (written(name).packages ?? []).filter((it) => !offered(name).includes(it));
    t.deepEqual(missing, [], name);
  }
});

long('debian-python runs a script of the host, as python and as python3', async (t) => {
  await writeFile(join(state.beside, 'six.py'), 'import json, sqlite3, ssl\nprint(6 * 7)\n');
  for (const name of ['python3', 'python']) {
    const run = ['run', '-r', 'debian-python', '-v', './six.py:/six.py:ro', '--'];
    t.is(await kiln(t, ...run, name, '/six.py'), '42');
  }
});

long('debian-git commits, and reads a repository of the host', async (t) => {
  const me = ['-e', 'GIT_AUTHOR_NAME=me', '-e', 'GIT_AUTHOR_EMAIL=me@example.org'];
  const who = [...me, '-e', 'GIT_COMMITTER_NAME=me', '-e', 'GIT_COMMITTER_EMAIL=me@example.org'];
  const folder = join(state.beside, 'repository');
  await mkdir(folder);
  const run = ['run', '-r', 'debian-git', '-v', './repository:/src', '-w', '/src', ...who, '--'];
  await kiln(t, ...run, 'sh', '-ec', 'git init -q; echo a >a; git add a; git commit -qm first');
  t.regex(await kiln(t, ...run, 'git', 'log', '--oneline'), /^[0-9a-f]{7} first$/);
});

long('debian-curl fetches from a server of the host', async (t) => {
  const server = createServer((_request, response) => response.end('fetched'));
  await new Promise<void>((done) => {
    server.listen(0, '127.0.0.1', done);
  });
  const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}/`;
  try {
    const host = ['--network', 'host', '--allow-host-network'];
    t.is(await kiln(t, 'run', '-r', 'debian-curl', ...host, '--', 'curl', '-sS', url), 'fetched');
    const alone = await state.kiln(['run', '-r', 'debian-curl', '--', 'curl', '-sS', url]);
    t.is(alone.exitCode, 7, String(alone.stderr));
  } finally {
    server.close();
  }
});

long('debian-node runs a program', async (t) => {
  t.is(await kiln(t, 'run', '-r', 'debian-node', '--', 'node', '-p', '6 * 7'), '42');
});

const SPEC = `Name: hello
Version: 1
Release: 1
Summary: Says hello
License: MIT
%description
Says hello.
`;

long('debian-ccache compiles once, within a sandbox and between builds', async (t) => {
  const twice = 'echo "int a;" >a.c; gcc -c a.c; gcc -c a.c; ccache --print-stats';
  const stats = await kiln(t, 'run', '-r', 'debian-ccache', '--', 'sh', '-ec', twice);
  t.regex(stats, /^direct_cache_hit\t1$/m);
  const compile = '%build\necho "int b;" >b.c; gcc -c b.c; ccache --print-stats\n%files\n';
  await writeFile(join(state.beside, 'cached.spec'), SPEC + compile);
  const build = [
    'build',
    '-q',
    '-r',
    'debian-ccache',
    '--cache',
    'ccache',
    '--spec',
    'cached.spec',
  ];
  const log = join(state.beside, 'cached/build.log');
  await kiln(t, ...build, '--resultdir', 'cached');
  t.regex(readFileSync(log, 'utf8'), /^direct_cache_hit\t0$/m);
  await kiln(t, ...build, '--resultdir', 'cached');
  t.regex(readFileSync(log, 'utf8'), /^direct_cache_hit\t1$/m);
});

long('debian-rpmlint checks packages, and CI hears of its findings on a spec', async (t) => {
  const check = '%check\nrpmlint %{_specdir}/linted.spec || :\n';
  await writeFile(join(state.beside, 'linted.spec'), `${SPEC}BuildArch: noarch\n${check}%files\n`);
  const build = ['build', '-r', 'debian-rpmlint', '--ci', 'gitlab', '--spec', 'linted.spec'];
  await kiln(t, ...build, '--resultdir', 'linted');
  const quality = readFileSync(join(state.beside, 'linted/gl-code-quality-report.json'), 'utf8');
  const found: { check_name: string; location: { path: string } }[] = JSON.parse(quality);
  t.true(
    found.some((it) => it.check_name === 'no-%build-section' && it.location.path === 'linted.spec'),
    quality,
  );
  const lint = ['run', '-r', 'debian-rpmlint', '-v', './linted:/packages:ro', '--'];
  const options = { cwd: state.beside };
  const { stdout, exitCode } = await state.kiln([...lint, 'rpmlint', '/packages'], options);
  // rpmlint's own status for errors.
  t.is(exitCode, 64);
  t.regex(String(stdout), /^hello\.(?:noarch|x86_64): E: no-changelogname-tag$/m);
});
