import { type ChildProcess, spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { lstatSync } from 'node:fs';
import { join } from 'node:path';
import test, { type ExecutionContext } from 'ava';
import type { Artifact } from '../../src/artifacts/manifest.ts';
import { PATIENCE } from '../support/busybox-state.ts';
import { until } from '../support/eventually.ts';
import { BASE, bashIn, CHILD, type SandboxTree, sandboxTree } from './sandbox-tree.ts';

/** Number of renameat2(2), which swaps two names at once. */
const RENAMEAT2 = process.arch === 'arm64' ? 276 : 316;

/** A process that goes on changing the tree until the test is over. */
function racer(t: ExecutionContext, tree: SandboxTree, script: string): ChildProcess {
  const child = spawn('bash', ['-c', script], { cwd: tree.root, stdio: 'ignore' });
  t.teardown(async () => {
    if (child.exitCode !== null || child.signalCode !== null) return;
    child.kill('SIGKILL');
    // Else it would still make files in what is being removed.
    await once(child, 'exit');
  });
  return child;
}

function digests(artifacts: readonly Artifact[]): string {
  const files = artifacts.filter((a) => a.type === 'file');
  return files
    .map((a) => `${a.sha256}  ./${a.path}\n`)
    .sort()
    .join('');
}

test.serial(`links that are swapped in during the walk lead nowhere`, async (t) => {
  const tree = sandboxTree(t);
  tree.bash(`mkdir -p ../secret out/d out/keep; echo SECRET > ../secret/f; echo SECRET > ../secret/g
    echo public > out/d/f; echo public > out/g`);
  const secret = join(tree.root, '../secret');
  // Atomic swaps, as fast as one process can: a directory and a file for a link to the secret.
  const child = spawn(
    'perl',
    [
      '-e',
      `
    chdir "${tree.root}/out"; symlink "${secret}", "../ld"; symlink "${secret}/g", "../lg";
    my ($n, $x, $d, $ld, $g, $lg) = (${RENAMEAT2}, 2, 'd', '../ld', 'g', '../lg');
    while (1) {
      syscall($n, -100, $d, -100, $ld, $x); syscall($n, -100, $g, -100, $lg, $x);
      select undef, undef, undef, 0.0001;
    }`,
    ],
    { stdio: 'ignore' },
  );
  t.teardown(() => child.kill('SIGKILL'));
  t.true(await until(() => lstatSync(`${tree.root}/out/g`).isSymbolicLink()));
  let [asFile, inside, round] = [0, 0, 0];
  const enough = (seen: number) => seen >= 5 && round - seen >= 5;
  const end = Date.now() + 60_000 * PATIENCE;
  for (; Date.now() < end && !(enough(asFile) && enough(inside)); round += 1) {
    const destination = `${tree.out}/${round}`;
    const { artifacts } = await tree.collect(['out', 'out/**/f'], { destination });
    asFile += artifacts.filter((a) => a.path === 'out/g').length;
    inside += artifacts.filter((a) => a.path === 'out/d/f').length;
  }
  t.is(bashIn(tree.out, 'grep -rl SECRET . || true'), '');
  t.is(bashIn(tree.out, 'find . -type l'), '');
  // Both states were met, else nothing was tested.
  t.true(enough(asFile) && enough(inside), `${asFile}, ${inside} of ${round}`);
});

for (const [how, script] of [
  ['grows', 'while :; do echo line >> log; done'],
  ['shrinks', 'while :; do truncate -s 1M log; truncate -s 32M log; done'],
] as const) {
  test.serial(
    `a file that ${how} while it is read is reported, with the digest of the copy`,
    async (t) => {
      const tree = sandboxTree(t);
      tree.bash('head -c 32M /dev/urandom > log; echo quiet > quiet');
      racer(t, tree, script);
      let told = 0;
      for (let round = 0; round < 300 && told < 3; round += 1) {
        const destination = `${tree.out}/${round}`;
        const { artifacts, warnings } = await tree.collect(['*'], { destination });
        const [log, quiet] = artifacts;
        t.is(quiet?.changed, undefined);
        t.deepEqual(
          warnings.map((w) => `${w.code} ${w.path}`),
          log?.changed ? ['changed /log'] : [],
        );
        t.is(digests(artifacts), bashIn(destination, 'find . -type f -exec sha256sum {} + | sort'));
        t.is(bashIn(destination, 'stat -c %s log'), `${log?.size}\n`);
        told += warnings.length;
      }
      t.is(told, 3);
    },
  );
}

test.serial(`files that disappear meanwhile are reported, and the others come out`, async (t) => {
  const tree = sandboxTree(t);
  tree.bash(`mkdir out; touch out/{1..3000}; touch out/stays`);
  let vanished = 0;
  for (let round = 0; round < 20 && vanished === 0; round += 1) {
    tree.bash('touch out/{1..3000}');
    const child = racer(t, tree, 'rm -f out/[1-9]*');
    const { artifacts, warnings } = await tree.collect(['out']);
    const told = warnings.filter((w) => w.code === 'vanished').length;
    vanished += told;
    t.true(artifacts.some((a) => a.path === 'out/stays'));
    t.true(warnings.every((w) => w.code === 'vanished' || w.code === 'more'));
    if (child.exitCode === null) await once(child, 'exit');
  }
  t.true(vanished > 0);
});

test.serial('folders that come and go do not fail the collection', async (t) => {
  const tree = sandboxTree(t);
  tree.bash('mkdir -p out/{1..50}; echo here > out/stays');
  racer(t, tree, `cd out; exec perl -e 'while (1) { rmdir for 1..50; mkdir for 1..50 }'`);
  let gone = 0;
  for (let round = 0; round < 100; round += 1) {
    const { artifacts } = await tree.collect(['out', 'out/**/f'], {
      destination: `${tree.out}/${round}`,
    });
    t.true(artifacts.some((a) => a.path === 'out/stays'));
    gone += Number(artifacts.length < 52);
  }
  t.true(gone > 0);
});

test.serial('an unreadable folder is reported, and the others come out', (t) => {
  const tree = sandboxTree(t);
  tree.bash(`mkdir -p out/closed ../out; echo here > out/stays; echo no > out/closed/f
    chown 1234 out/closed; chmod 0 out/closed`);
  // Root, but as it is where a server decides.
  const weak = ['--bounding-set', '-dac_override,-dac_read_search', process.execPath, CHILD];
  const child = spawnSync('setpriv', [...weak, tree.root, tree.out], { encoding: 'utf8' });
  t.is(child.status, 0, child.stderr);
  t.is(child.stdout, 'unreadable /out/closed\n');
  t.is(bashIn(tree.out, 'find . -type f'), './out/stays\n');
});

test.serial(
  'a tree of ten thousand levels is refused, and the result folder is unchanged',
  async (t) => {
    const tree = sandboxTree(t);
    tree.bash(
      `perl -e 'for (1..10000) { mkdir "d"; chdir "d" or die } open F, ">", "x"'; mkdir ../out; echo old > ../out/d`,
    );
    t.teardown(() => bashIn(tree.root, 'rm -rf d'));
    for (const pattern of ['d', '**/x', 'd/**']) {
      await t.throwsAsync(tree.collect([pattern]), { code: 'E_ARTIFACT_LIMIT' }, pattern);
    }
    t.is(bashIn(tree.out, 'ls -A; cat d'), 'd\nold\n');
  },
);

test.serial('a path too long for any program is refused', async (t) => {
  const tree = sandboxTree(t);
  tree.bash(`perl -e 'for (1..20) { my $n = "n" x 250; mkdir $n; chdir $n or die }'`);
  await t.throwsAsync(tree.collect(['*']), { code: 'E_ARTIFACT_LIMIT', message: /4\d\d\d bytes/ });
});

test.serial(`limits end a collection at once, and nothing is left of it`, async (t) => {
  const tree = sandboxTree(t);
  tree.bash(`mkdir many; cd many; seq 6000 | xargs touch; cd ..; truncate -s 8T huge
    head -c 3M /dev/urandom > data; mkdir -p wide/{1..200}`);
  const cases: [string, object, RegExp][] = [
    ['huge', {}, /16\.0G of holes/],
    ['huge', { limits: { holes: 2 ** 43 - 1 } }, /8192\.0G of holes/],
    ['many', { limits: { entries: 5000 } }, /5000 files and folders/],
    ['many/*', { limits: { visited: 3000 } }, /3000 folder entries/],
    ['**/none', { limits: { visited: 100 } }, /100 folder entries/],
    ['many', { limits: { paths: 3000 } }, /3000 bytes of paths/],
    ['data', { limits: { bytes: 2 ** 20 } }, /more than 1\.0M would/],
  ];
  for (const [pattern, more, message] of cases) {
    await t.throwsAsync(
      tree.collect([pattern], more),
      { code: 'E_ARTIFACT_LIMIT', message },
      pattern,
    );
  }
  t.is(bashIn(tree.out, 'ls -A'), '');
  t.is((await tree.collect(['data'])).artifacts.length, 1);
});

test.serial('a million warnings are not all kept', async (t) => {
  const tree = sandboxTree(t);
  tree.bash(`mkdir out; cd out; seq 1000 | xargs mkfifo`);
  const told: string[] = [];
  const { warnings } = await tree.collect(['out'], { onWarning: (w) => told.push(w.code) });
  t.is(warnings.length, 201);
  t.deepEqual(warnings.at(-1), { code: 'more', message: '800 more warnings are not listed' });
  t.is(told.length, 201);
});

test.serial('names that could confuse a terminal are quoted', async (t) => {
  const tree = sandboxTree(t);
  tree.bash(`mkdir out; mkfifo $'out/\\e[2Jx\\n\\xc2\\x9b\\xff'; chown -R ${BASE}:${BASE} out`);
  const { warnings } = await tree.collect(['out']);
  t.is(warnings[0]?.message, String.raw`"/out/\u001b[2Jx\n\u009b${'\ufffd'}" is a fifo: skipped`);
  t.is(
    Buffer.from(warnings[0]?.pathBytes ?? '', 'base64').toString('latin1'),
    '/out/\x1b[2Jx\n\xc2\x9b\xff',
  );
});
