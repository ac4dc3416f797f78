/** Buildbot's master and worker, on loopback, with the master.cfg of docs/ci.md, build packages with kiln. */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { delimiter, dirname, join } from 'node:path';
import { DatabaseSync } from 'node:sqlite';
import test from 'ava';
import { execa } from 'execa';
import { fixturesRoot } from '../../fixtures/debian-rpms/layout.ts';
import { type ImageState, imageState } from '../image/image-state.ts';
import { KILN } from '../support/busybox-state.ts';
import { eventually } from '../support/eventually.ts';
import { freePort } from '../support/free-port.ts';
import { long } from '../support/long.ts';

const PAGE = join(import.meta.dirname, '../../docs/ci.md');

/** Buildbot's numbers for results: buildbot.process.results. */
const SUCCESS = 0;
const FAILURE = 2;

function configuration(changes: Readonly<Record<string, string>>): string {
  const [, text = ''] = /```python\n([\s\S]*?)```/.exec(readFileSync(PAGE, 'utf8')) ?? [];
  return Object.entries(changes).reduce((all, [from, to]) => {
    if (!all.includes(from)) throw new Error(`master.cfg of docs/ci.md has no ${from}`);
    return all.replace(from, to);
  }, text);
}

const spec = (check: string) => `Name: hello
Version: 1
Release: 1
Summary: Says hello
License: Apache-2.0
BuildArch: noarch
%description
%{summary}.
%install
mkdir -p %{buildroot}/usr/share/hello; echo hello > %{buildroot}/usr/share/hello/text
%check
${check}
%files
/usr/share/hello
`;

test('master.cfg of the docs is valid Python', async (t) => {
  const program = 'import ast, sys; ast.parse(sys.stdin.read())';
  const input = configuration({ 'tcp:9989': 'tcp:1' });
  const { stderr } = await execa('python3', ['-c', program], { input, reject: false });
  t.is(stderr, '');
});

async function stop(child: ChildProcess): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return;
  const ended = once(child, 'exit');
  child.kill('SIGTERM');
  await ended;
}

function builds(state: string): { number: number; results: number | null }[] {
  if (!existsSync(state)) return [];
  const database = new DatabaseSync(state, { readOnly: true });
  try {
    const rows = database.prepare('SELECT number, results FROM builds ORDER BY number').all();
    return rows as { number: number; results: number | null }[];
  } catch {
    // The master is still making its tables.
    return [];
  } finally {
    database.close();
  }
}

async function commit(folder: string, check: string): Promise<void> {
  writeFileSync(join(folder, 'hello.spec'), spec(check));
  const git = (...args: readonly string[]) =>
    execa('git', ['-c', 'user.name=a', '-c', 'user.email=a@example.org', ...args], { cwd: folder });
  await git('add', '-A');
  await git('commit', '-qm', check);
}

long('a Buildbot master and worker build a package, and report a failed one', async (t) => {
  await using state: ImageState = await imageState({ unpacked: 'all' });
  const [sources, master, worker] = ['sources', 'master', 'worker'].map((name) =>
    join(state.directory, name),
  ) as [string, string, string];
  mkdirSync(sources);
  await execa('git', ['init', '-q', sources]);
  await commit(sources, 'true');
  const port = await freePort();
  const env = {
    ...state.env,
    KILN_FIXTURES: fixturesRoot(),
    PATH: [dirname(KILN), process.env.PATH].join(delimiter),
  };
  await execa('buildbot', ['create-master', master], { env });
  const cfg = configuration({
    'tcp:9989': `tcp:${port}`,
    'https://git.example.org/hello.git': `file://${sources}`,
  });
  // The first build begins at once, the next one soon.
  const now =
    'c["schedulers"] = [schedulers.Periodic(name="now", builderNames=["hello"], periodicBuildTimer=20)]';
  writeFileSync(join(master, 'master.cfg'), `${cfg}\nc["buildbotNetUsageData"] = None\n${now}\n`);
  await execa('buildbot-worker', [
    'create-worker',
    worker,
    `127.0.0.1:${port}`,
    'kiln',
    'PASSWORD',
  ]);
  const start = (program: string, folder: string) =>
    spawn(program, ['start', '--nodaemon', folder], { env, stdio: 'ignore' });
  const running = [start('buildbot', master), start('buildbot-worker', worker)];
  const log = () =>
    [join(master, 'twistd.log'), join(worker, 'twistd.log')]
      .map((file) => (existsSync(file) ? readFileSync(file, 'utf8').slice(-4000) : ''))
      .join('\n');
  const done = (number: number) =>
    eventually(async () => {
      const build = builds(join(master, 'state.sqlite')).find((it) => it.number === number);
      return build?.results ?? undefined;
    });
  try {
    t.is(await done(1), SUCCESS, log());
    const results = join(master, 'results/hello-1');
    const made = readdirSync(results).find((name) => name.endsWith('.noarch.rpm')) ?? '';
    const { stdout } = await execa('rpm', ['-qp', '--nosignature', '--list', join(results, made)]);
    t.regex(stdout, /^\/usr\/share\/hello\/text$/m);
    t.true(existsSync(join(results, 'report.html')));
    await commit(sources, 'echo FAIL: greeting; false');
    // The next one may have fetched the sources before.
    const next = (await done(2)) === FAILURE ? 2 : 3;
    t.is(await done(next), FAILURE, log());
    const failed = JSON.parse(
      readFileSync(join(master, `results/hello-${next}/result.json`), 'utf8'),
    );
    t.is(failed.failure.phase, 'check');
  } catch (error) {
    t.log(log());
    throw error;
  } finally {
    await Promise.all(running.map(stop));
  }
});
