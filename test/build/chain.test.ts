/** Chains of real packages, built by rpmbuild in sandboxes. */
import { mkdir, readdir, readFile, rm, stat, symlink, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import test, { type ExecutionContext } from 'ava';
import { execa, type ResultPromise } from 'execa';
import { type ImageState, imageState } from '../image/image-state.ts';
import { eventually } from '../support/eventually.ts';
import { long } from '../support/long.ts';
import { NOARCH_RECIPE } from '../support/unpacked-packages.ts';
import { makeKey, rpmkeys } from './signing-keys.ts';
import { type SourceSpec, sourcePackage } from './source-packages.ts';

const KILN = fileURLToPath(new URL('../../bin/kiln', import.meta.url));

let state: ImageState;
/** The path of a recipe of an image to build in. */
let recipe: string;
test.before(async () => {
  state = await imageState({ unpacked: 'noarch' });
  recipe = join(state.directory, 'noarch.yaml');
  await writeFile(recipe, NOARCH_RECIPE);
});
test.after.always(async () => {
  await state?.[Symbol.asyncDispose]();
});

/** What is looked at in chain.json. */
interface Chain {
  readonly exitStatus: number;
  readonly members: readonly {
    readonly name: string;
    readonly state: string;
    readonly reason: string | null;
    readonly needs: readonly { readonly member: string }[];
    readonly failure: { readonly code: string } | null;
    readonly lastLines: readonly string[];
  }[];
}

/** A folder for source packages and results of one test. */
function workshop(name: string) {
  const directory = join(state.directory, name);
  const out = join(directory, 'out');
  return {
    out,
    make: (spec: SourceSpec) => sourcePackage(join(directory, 'srpms'), spec),
    run: (sources: readonly string[], ...options: readonly string[]) =>
      state.kiln(['build', '--chain', '-r', recipe, '--resultdir', out, ...options, ...sources]),
    onTerminal: (sources: readonly string[]) => {
      const words = ['build', '--chain', '-r', recipe, '--resultdir', out, '-j', '1'];
      const all = [KILN, ...words, '--no-samples', ...sources];
      const command = all.map((word) => `'${word}'`).join(' ');
      const env = { ...state.env, TERM: 'xterm', NO_COLOR: '' };
      return execa('script', ['-qefc', command, '/dev/null'], { env, reject: false });
    },
    report: async () => JSON.parse(await readFile(join(out, 'chain.json'), 'utf8')) as Chain,
  };
}

function states({ members }: Chain): Record<string, string> {
  return Object.fromEntries(members.map(({ name, state: its }) => [name, its]));
}

/** What a package was built with, from the package itself. */
async function madeWith(out: string, name: string): Promise<string> {
  const rpm = join(out, `${name}-1-1`, `${name}-devel-1-1.noarch.rpm`);
  const script = 'rpm2cpio "$1" | cpio -i --quiet --to-stdout "./usr/share/chain/$2"';
  return (await execa('sh', ['-c', script, 'sh', rpm, name])).stdout;
}

async function inRepository(out: string): Promise<string[]> {
  const { stdout } = await execa('dnf', [
    ...['--quiet', '--setopt=reposdir=/dev/null', `--setopt=cachedir=${out}/.dnf`],
    ...[`--repofrompath=it,file://${out}/repository/current`, '--repo=it'],
    ...['repoquery', '--available', '--queryformat', '%{name}\\n'],
  ]);
  return stdout
    .split('\n')
    .filter((line) => line !== '')
    .sort();
}

/** Waits until a run has said something on stderr, or has ended. */
async function runUntil(text: RegExp, running: ResultPromise): Promise<{ run: ResultPromise }> {
  let said = '';
  await new Promise<void>((resolve) => {
    running.stderr?.on('data', (chunk: Buffer) => {
      said += chunk.toString();
      if (text.test(said)) resolve();
    });
    running.finally(resolve);
  });
  // In an object: the promise itself would be waited for.
  return { run: running };
}

async function nothingIsLeft(t: ExecutionContext): Promise<void> {
  // The daemon removes sandboxes after it has told the caller.
  t.true(await eventually(async () => (await state.kiln(['ps', '--json'])).stdout === '[]'));
}

test.serial('a chain given in the wrong order builds each package once, in parallel', async (t) => {
  const { out, make, run, onTerminal, report } = workshop('plain');
  const liba = await make({ name: 'liba' });
  const rest = [
    await make({ name: 'app', buildRequires: ['libb-devel', 'liba-devel >= 1'] }),
    await make({ name: 'libb', buildRequires: ['liba-devel'] }),
    await make({ name: 'other' }),
  ];
  const first = await run([...rest, liba], '-j', '2');
  t.is(first.exitCode, 0, String(first.stderr));
  const all = ['app-1-1', 'libb-1-1', 'other-1-1', 'liba-1-1'];
  t.deepEqual(states(await report()), Object.fromEntries(all.map((name) => [name, 'built'])));
  t.is(await madeWith(out, 'app'), 'app-1 (liba-1libb-1 (liba-1))');
  const packages = ['app', 'liba', 'libb', 'other'].flatMap((name) => [name, `${name}-devel`]);
  t.deepEqual(await inRepository(out), packages);
  for (const name of all) {
    const directory = join(out, name);
    t.true((await readdir(directory)).includes('success'), name);
    await execa('sha256sum', ['--strict', '--quiet', '-c', 'SHA256SUMS'], { cwd: directory });
  }
  const inputs = '.predicate.buildDefinition.resolvedDependencies[].name';
  const { stdout: from } = await execa('jq', ['-r', inputs, join(out, 'app-1-1/provenance.json')]);
  for (const name of ['app-1-1.src.rpm', 'liba-devel-1-1.noarch', 'libb-devel-1-1.noarch']) {
    t.true(from.split('\n').includes(name), `${name} in what app was made of`);
  }
  await nothingIsLeft(t);

  const page = await readFile(join(out, 'report.html'), 'utf8');
  const [, path = ''] = /<p id="critical">(.*?)<\/p>/s.exec(page) ?? [];
  const named = [...path.matchAll(/<a href="(\w+)-1-1\/report\.html">/g)].map(([, of]) => of);
  t.deepEqual(named, ['liba', 'libb', 'app']);
  t.is(page.match(/<g class="node built/g)?.length, 4);
  // app → liba says nothing new.
  t.is(page.match(/class="edge /g)?.length, 2);

  const times = async () =>
    await Promise.all(all.map(async (name) => (await stat(join(out, name, 'build.log'))).mtimeMs));
  const before = await times();
  const second = await run([liba, ...rest], '-j', '2', '--json', '-q');
  t.is(second.exitCode, 0, String(second.stderr));
  const [repository = '', json = '', ...others] = String(second.stderr).split('\n');
  t.is(repository, `kiln: repository: ${out}/repository/current`);
  t.deepEqual(others, [], 'no word of progress');
  t.deepEqual(JSON.parse(json), await report());
  t.deepEqual(new Set(Object.values(states(await report()))), new Set(['unchanged']));
  t.deepEqual(await times(), before);

  // Another source of the same name: it and what was built with it, not the others.
  const changed = await make({ name: 'liba', build: 'echo changed' });
  const third = await onTerminal([...rest, changed]);
  t.is(third.exitCode, 0, third.stdout);
  t.regex(third.stdout, /kiln: 1 of 4 done, 1 building, 2 to go, [\d.]+ s/);
  t.regex(third.stdout, / {2}libb-1-1 .*[\d.]+ s/);
  t.regex(third.stdout, /kiln: app-1-1: built in [\d.]+ s\r\n/);
  t.notRegex(await readFile(join(out, 'libb-1-1/result.json'), 'utf8'), /"samples"/);
  t.regex(third.stdout, /\u001b\[32mlibb-1-1 +built/);
  const built = { 'app-1-1': 'built', 'libb-1-1': 'built', 'liba-1-1': 'built' };
  t.deepEqual(states(await report()), { ...built, 'other-1-1': 'unchanged' });

  // A member's lock leads to the very results it was built with, which lie beside its folder.
  const again = await state.kiln([
    ...['build', '--lock', join(out, 'libb-1-1/lock.json'), '--allow-host', '--offline'],
    ...['--resultdir', join(out, 'again'), rest[1] ?? ''],
  ]);
  t.is(again.exitCode, 0, String(again.stderr));
});

long('packages of a chain are signed, and rebuilt for another key', async (t) => {
  const { out, make, run, report } = workshop('signed');
  const source = await make({ name: 'vouched' });
  const made = join(out, 'vouched-1-1', 'vouched-1-1.noarch.rpm');
  const [first, second] = [
    await makeKey(state.directory, 'ed25519'),
    await makeKey(state.directory, 'rsa2048'),
  ];
  for (const [key, expected] of [
    [first, 'built'],
    [first, 'unchanged'],
    [second, 'built'],
  ] as const) {
    const ran = await run([source], '--sign-key', key.secret);
    t.is(ran.exitCode, 0, String(ran.stderr));
    t.deepEqual(states(await report()), { 'vouched-1-1': expected });
    const { ok, text } = await rpmkeys(state.directory, made, [key.public]);
    t.true(ok, text);
    t.regex(text, /Header V4/);
  }
  const published = await execa('find', [
    `${out}/repository/current/`,
    '-name',
    'vouched-1-1*.rpm',
  ]);
  t.true((await rpmkeys(state.directory, published.stdout.trim(), [second.public])).ok);
  const none = await run([source], '--sign-key', '/etc/passwd');
  t.is(none.exitCode, 125);
  t.regex(String(none.stderr), /E_SIGN_KEY|not an armored OpenPGP secret key/);
});

long('a package waits for a capability that appears only during a build', async (t) => {
  const { out, make, run, report } = workshop('late');
  // A package that only comes to be in %build (rpm 4.20's dynamic specs).
  const lines = ['package late', 'Summary: Fixture', 'Provides: late(thing) = 7'];
  const sections = ['description late', 'Fixture.', 'files late'];
  const text = [...lines, ...sections].join('\\n').replace(/(package|description|files)/g, '%%s$1');
  const dynamic = `printf '${text}\\n' % % % > %{specpartsdir}/late.specpart`;
  const user = await make({ name: 'user', buildRequires: ['late(thing) >= 7'] });
  const maker = await make({ name: 'maker', build: dynamic });
  const first = await run([user, maker], '-j', '2');
  t.is(first.exitCode, 0, String(first.stderr));
  t.regex(String(first.stderr), /user-1-1: waiting: to be tried again/);
  t.deepEqual(states(await report()), { 'user-1-1': 'built', 'maker-1-1': 'built' });
  t.true((await inRepository(out)).includes('maker-late'));
  // Now it is known who makes it. A package that somebody tampered with is not what was built.
  await writeFile(join(out, 'maker-1-1', 'maker-late-1-1.noarch.rpm'), 'no package');
  const second = await run([user, maker], '-j', '2');
  t.is(second.exitCode, 0, String(second.stderr));
  t.notRegex(String(second.stderr), /waiting/);
  t.is(states(await report())['maker-1-1'], 'built');
  t.true((await inRepository(out)).includes('maker-late'));
});

test.serial('a failure stops the chain; with --continue, only its dependents', async (t) => {
  const { out, make, run, report } = workshop('failing');
  const sources = [
    await make({ name: 'bad', build: 'echo the reason is 42; exit 3' }),
    await make({ name: 'needsbad', buildRequires: ['bad-devel'] }),
    await make({ name: 'nobody', buildRequires: ['not-to-be-had'] }),
    await make({ name: 'good' }),
  ];
  const stopped = await run(sources, '-j', '1');
  t.is(stopped.exitCode, 1);
  t.regex(String(stopped.stderr), /the reason is 42/);
  const skipped = { 'needsbad-1-1': 'skipped', 'nobody-1-1': 'skipped', 'good-1-1': 'skipped' };
  t.deepEqual(states(await report()), { 'bad-1-1': 'failed', ...skipped });
  t.true((await readdir(join(out, 'bad-1-1'))).includes('fail'));

  const went = await run(sources, '-j', '2', '--continue');
  t.is(went.exitCode, 1);
  const chain = await report();
  const rest = { 'nobody-1-1': 'failed', 'good-1-1': 'built' };
  t.deepEqual(states(chain), { 'bad-1-1': 'failed', 'needsbad-1-1': 'skipped', ...rest });
  t.regex(chain.members[1]?.reason ?? '', /bad-devel of bad-1-1/);
  t.is(chain.members[0]?.failure?.code, 'E_BUILD_FAILED');
  t.is(chain.members[2]?.failure?.code, 'E_SOLVER_PROBLEM');
  t.deepEqual(await inRepository(out), ['good', 'good-devel']);
  await nothingIsLeft(t);
});

long('packages that need each other are reported as a cycle', async (t) => {
  const { out, make, run, report } = workshop('cycle');
  const sources = [
    await make({ name: 'hen', buildRequires: ['egg-devel'] }),
    await make({ name: 'egg', buildRequires: ['hen-devel'] }),
    await make({ name: 'farmer', buildRequires: ['hen-devel'] }),
    await make({ name: 'good' }),
  ];
  const refused = await run(sources);
  t.is(refused.exitCode, 4);
  t.regex(String(refused.stderr), /hen-1-1 needs egg-devel of egg-1-1/);
  t.regex(String(refused.stderr), /egg-1-1 needs hen-devel of hen-1-1/);
  t.notRegex(String(refused.stderr), /farmer-1-1 needs/);

  t.is((await run(sources, '--continue')).exitCode, 4);
  const lost = { 'hen-1-1': 'failed', 'egg-1-1': 'failed', 'farmer-1-1': 'skipped' };
  t.deepEqual(states(await report()), { ...lost, 'good-1-1': 'built' });

  // With an egg from elsewhere there is a hen, then an egg of our own, then a hen of that.
  const [hen = '', egg = '', ,] = sources;
  const elsewhere = join(out, '../elsewhere');
  const seed = await make({ name: 'egg', version: '0' });
  const seeded = await state.kiln([
    ...['build', '-q', '-r', recipe, '--resultdir', elsewhere, seed],
  ]);
  t.is(seeded.exitCode, 0, String(seeded.stderr));
  await execa('createrepo_c', ['--quiet', elsewhere]);
  const hatched = await run([hen, egg], '--recurse', '--addrepo', elsewhere);
  t.is(hatched.exitCode, 0, String(hatched.stderr));
  t.is(await madeWith(out, 'egg'), 'egg-1 (hen-1 (egg-0))');
  t.is(await madeWith(out, 'hen'), 'hen-1 (egg-1 (hen-1 (egg-0)))');
});

long('a chain that was killed in the middle continues where it was', async (t) => {
  const { out, make, run, report } = workshop('killed');
  const sources = [
    await make({ name: 'one' }),
    await make({ name: 'two', buildRequires: ['one-devel'], build: 'sleep 3' }),
    await make({ name: 'three', buildRequires: ['two-devel'] }),
  ];
  const { run: interrupted } = await runUntil(/two-1-1: building/, run(sources, '-j', '2'));
  const busy = await run(sources);
  t.is(busy.exitCode, 125);
  t.regex(String(busy.stderr), /another chain works in/);
  interrupted.kill('SIGINT');
  t.is((await interrupted).exitCode, 130);
  const left = { 'two-1-1': 'failed', 'three-1-1': 'skipped' };
  t.deepEqual(states(await report()), { 'one-1-1': 'built', ...left });
  await nothingIsLeft(t);

  const { run: killed } = await runUntil(/two-1-1: building/, run(sources, '-j', '2'));
  killed.kill('SIGKILL');
  t.is((await killed).signal, 'SIGKILL');

  const rest = await run(sources, '-j', '2');
  t.is(rest.exitCode, 0, String(rest.stderr));
  const built = { 'two-1-1': 'built', 'three-1-1': 'built' };
  t.deepEqual(states(await report()), { 'one-1-1': 'unchanged', ...built });
  t.is(await madeWith(out, 'three'), 'three-1 (two-1 (one-1))');
  await nothingIsLeft(t);
});

test.serial(
  'a chain refuses an image that does not say where its packages come from',
  async (t) => {
    const { make, run, report } = workshop('nameless');
    const first = await make({ name: 'first' });
    const second = await make({ name: 'second', buildRequires: ['first-devel'] });
    await run([first]);
    // The recipe's image has its name.
    const chain = await run([first, second], '-r', 'noarch');
    t.is(chain.exitCode, 125);
    t.regex(String(chain.stderr), /an image does not tell where it came from/);
    t.is((await report()).members[1]?.failure?.code, 'E_BUILD_REPOSITORIES');
  },
);

test.serial('--json lists what was built even if the CI reports cannot be written', async (t) => {
  const { make, run, out } = workshop('untold');
  const source = await make({ name: 'alone' });
  await mkdir(join(out, 'junit.xml'), { recursive: true });
  const { exitCode, stderr } = await run([source], '--json', '--ci', 'github');
  t.is(exitCode, 125);
  const chain: Chain = JSON.parse(String(stderr).split('\n').at(-1) ?? '');
  t.like(chain, { exitStatus: 125, failure: { code: 'E_RESULTDIR' } });
  t.deepEqual(states(chain), { 'alone-1-1': 'built' });
});

test.serial('invalid chains are refused', async (t) => {
  const { make, run, out, report } = workshop('wrong');
  const good = await make({ name: 'good' });
  const missing = await run([good, '/nowhere.src.rpm']);
  t.is(missing.exitCode, 3);
  t.regex(String(missing.stderr), /nowhere\.src\.rpm is not a source package/);
  // What an earlier chain left there is not taken for its result.
  await writeFile(join(out, 'chain.json'), '{"exitStatus": 0}');
  const told = await run([good, '/nowhere.src.rpm'], '--json');
  const chain = JSON.parse(String(told.stderr).split('\n').at(-1) ?? '');
  t.like(chain, { exitStatus: 3, members: [], failure: { code: 'E_BUILD_SOURCE' } });
  t.deepEqual(await report(), chain);
  const cycle = [
    await make({ name: 'one', buildRequires: ['two-devel'] }),
    await make({ name: 'two', buildRequires: ['one-devel'] }),
  ];
  const round = await run(cycle, '--json');
  t.is(JSON.parse(String(round.stderr).split('\n').at(-1) ?? '').failure.code, 'E_CHAIN_CYCLE');
  t.is((await report()).exitStatus, 4);
  const several = await state.kiln(['build', '-r', recipe, good, good]);
  t.not(several.exitCode, 0);
  t.regex(String(several.stderr), /--chain/);
  const twice = await run([good, good, '/nowhere.src.rpm']);
  t.regex(String(twice.stderr), /good-1-1\.src\.rpm is named more than once: it is built once/);
  t.regex(String(twice.stderr), /^kiln: chain of 2 packages/m);
});

test.serial('links in place of a chain’s folders are not followed', async (t) => {
  const { make, run, out } = workshop('links');
  const source = await make({ name: 'plain' });
  const secret = join(out, '../secret');
  await mkdir(secret, { mode: 0o700 });
  await symlink(secret, out);
  const whole = await run([source]);
  t.is(whole.exitCode, 125);
  t.regex(String(whole.stderr), /links\/out cannot be used: it is a symbolic link/);
  await rm(out);
  for (const name of ['plain-1-1', '.kiln', 'repository']) {
    await mkdir(out);
    await symlink(secret, join(out, name));
    const inner = await run([source]);
    t.not(inner.exitCode, 0, name);
    t.deepEqual(await readdir(secret), [], name);
    await rm(out, { recursive: true });
  }
  const good = await run([source]);
  t.is(good.exitCode, 0, String(good.stderr));
  t.regex(String(good.stderr), /^kiln: repository: \S*links\/out\/repository\/current$/m);
});

test.serial('a CI service hears of the progress, and gets junit.xml', async (t) => {
  const { make, run, out } = workshop('ci');
  const good = await make({ name: 'good' });
  const words = 'echo "a.c:7:3: error: too bad"; echo "FAIL: unit"; false';
  const bad = await make({ name: 'bad', build: words });
  await run([good, bad], '--ci', 'gitlab', '--continue', '--no-samples');
  t.false('samples' in JSON.parse(await readFile(join(out, 'good-1-1/result.json'), 'utf8')));
  const query = async (file: string, path: string) =>
    (await execa('xmllint', ['--xpath', path, file])).stdout;
  const chain = join(out, 'junit.xml');
  t.is(await query(chain, 'count(//testsuite)'), '3');
  t.is(await query(chain, 'count(//testsuite[@name="chain"]/testcase)'), '2');
  t.is(await query(chain, 'count(//testsuite[@name="chain"]//failure)'), '1');
  const unit = '//testcase[@classname="bad-1-1.check"][@name="unit"]/failure';
  t.is(await query(chain, `count(${unit})`), '1');
  const found = JSON.parse(await readFile(join(out, 'gl-code-quality-report.json'), 'utf8'));
  t.like(found, [{ location: { path: 'a.c', lines: { begin: 7 } } }]);
  t.is(await query(chain, 'count(//testsuite[@name="bad-1-1"]//failure)'), '2');
  t.is(await query(chain, 'count(//testsuite[@name="good-1-1"]//failure)'), '0');
  const alone = join(state.directory, 'alone');
  const summary = join(state.directory, 'summary.md');
  await writeFile(summary, '');
  const build = ['build', '--ci', 'github', '-r', recipe, '--resultdir', alone, bad];
  const { stdout, exitCode } = await execa(
    'env',
    [`GITHUB_STEP_SUMMARY=${summary}`, join(import.meta.dirname, '../../bin/kiln'), ...build],
    { env: state.env, reject: false },
  );
  t.is(exitCode, 1);
  const said = String(stdout);
  t.regex(said, /^::group::compile\n::stop-commands::(\S+)\n[\s\S]*^::\1::\n::endgroup::$/m);
  t.regex(said, /^::error file=a\.c,line=7,col=3::too bad$/m);
  t.regex(said, /^::error title=bad-1-1%3A compile::[^\n]+\n::error file=/m, 'the failure first');
  t.regex(said, /^::error title=%25check::unit failed$/m);
  t.regex(await readFile(summary, 'utf8'), /^### ` bad-1-1 ` failed in compile/);
  t.is(await query(join(alone, 'junit.xml'), 'count(//testcase[@name="compile"]/failure)'), '1');
  const quality = JSON.parse(
    await readFile(join(alone, 'gl-code-quality-report.json'), 'utf8'),
  ) as unknown[];
  t.is(quality.length, 1);
});
