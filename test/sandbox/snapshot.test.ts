/** Snapshots of kept sandboxes: taken, run from, forked, rolled back, committed. */
import { existsSync, mkdirSync, readdirSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import anyTest, { type TestFn } from 'ava';
import { execa } from 'execa';
import { type BusyboxState, busyboxState, IMAGE } from '../support/busybox-state.ts';
import { keptSandboxes, LISTING, MANY, TOOLS, WRITES } from '../support/kept-sandbox.ts';
import { isLong } from '../support/long.ts';

const test = anyTest as TestFn;

let state: BusyboxState;
test.before(async () => {
  state = await busyboxState();
});
test.after.always(() => state[Symbol.asyncDispose]());

const { kiln, ok, kept, killed } = keptSandboxes(() => state);

test.serial('a command begins with the files of a snapshot', async (t) => {
  const id = await kept(t, `${TOOLS} ${WRITES}; mkfifo /x/fifo`);
  const before = await ok(t, 'exec', id, '--', 'sh', '-c', `${TOOLS} ${LISTING}`);
  const taken = await kiln('snapshot', id, 'first');
  t.is(taken.code, 0, taken.said);
  t.regex(taken.said, /without 1 fifos/);
  await ok(t, 'exec', id, '--', 'sh', '-c', 'echo later > /x/a; rm /x/link');
  const words = ['run', '--from', 'first', '--user', 'root', '--', 'sh', '-c'];
  const after = await ok(t, ...words, `${TOOLS} ${LISTING}`);
  // What has set-id bits may be anything by now.
  const expected = before
    .split('\n')
    .filter((line) => !line.includes('fifo'))
    .map((line) => (line.includes('x/set-id ') ? line.replace(' 6755 ', ' 755 ') : line));
  t.deepEqual(after.split('\n'), expected);
  t.true(expected.some((line) => line.startsWith('x/set-id ') && line.includes(' 755 ')));
  t.regex(after, /^x\/deep directory 2775 0:0/m);
  t.regex(after, /^x\/a regular file .* 2$/m);
  t.notRegex(after, /etc\/group/);
  t.is(await ok(t, ...words, 'ls /home/build; cat "/x/two\nlines"'), 'new\ny');
  // As the kernel has it on the disk, with owners as images have them.
  const { stdout: folder } = await execa('sh', ['-c', `echo ${state.paths.snapshots}/*/tree`]);
  const group = statSync(join(folder, 'etc/group'));
  t.true(group.isCharacterDevice() && group.rdev === 0);
  t.is(statSync(join(folder, 'x/deep/er')).uid, 1000);
  t.true(statSync(join(folder, 'x/sparse')).blocks < 100);
  const { stdout } = await execa('getfattr', ['-d', '-m', '.', join(folder, 'home/build')]);
  t.regex(stdout, /user\.overlay\.opaque="y"/);
  await ok(t, 'kill', id);
  await ok(t, 'run', '--from', 'first', '--', 'true');
  await ok(t, 'snapshot', 'rm', 'first');
  t.is((await kiln('run', '--from', 'first', '--', 'true')).code, 125);
  const both = await kiln('run', '--from', 'first', '-r', IMAGE, '--', 'true');
  t.is(both.code, 125);
  t.regex(both.said, /^kiln: --from has the image of the snapshot: leave -r out/);
  t.notRegex(both.said, /internal/);
});

test.serial('an image of a sandbox leaves no snapshot of it', async (t) => {
  const id = await kept(t, 'echo base > /root/base');
  const image = await ok(t, 'image', 'commit', id, '--name', 'passing');
  t.is(await ok(t, 'snapshot', 'ls', '--json'), '[]');
  t.is(await ok(t, 'run', '-r', image, '--user', 'root', '--', 'cat', '/root/base'), 'base');
  t.regex((await kiln('diff', id, 'none')).said, /cow at none.*\n.*kiln snapshot ls/);
  t.regex((await kiln('diff', 'none')).said, /no sandbox and no snapshot none/);
  await ok(t, 'image', 'rm', 'passing');
  await ok(t, 'kill', id);
});

test.serial('forks stand on one snapshot, and see nothing of each other', async (t) => {
  const id = await kept(t, 'echo base > /root/base');
  const forks = (await ok(t, 'fork', id, '-n', '3')).split('\n');
  t.is(new Set(forks).size, 3);
  for (const fork of forks) {
    t.is(await ok(t, 'exec', fork, '--', 'cat', '/root/base'), 'base');
    await ok(t, 'exec', fork, '--', 'sh', '-c', `echo ${fork} > /root/own; ls /root`);
  }
  for (const fork of forks) t.is(await ok(t, 'exec', fork, '--', 'cat', '/root/own'), fork);
  // A layer above a layer, in which something of it is gone.
  await ok(t, 'exec', forks[0] ?? '', '--', 'rm', '/root/base');
  const second = await ok(t, 'snapshot', forks[0] ?? '');
  t.is(await ok(t, 'run', '--from', second, '--user', 'root', '--', 'ls', '/root'), 'own');
  const used = await kiln('snapshot', 'rm', second.slice(0, 8));
  t.is(used.code, 0, used.said);
  const all = JSON.parse(await ok(t, 'snapshot', 'ls', '--json'));
  const inUse = await kiln('snapshot', 'rm', all[0].id);
  t.is(inUse.code, 125);
  t.regex(inUse.said, /E_SNAPSHOT_IN_USE|is in use by sandbox/);
  await ok(t, 'kill', ...forks, id);
  await ok(t, 'gc');
  t.is(await ok(t, 'snapshot', 'ls', '--json'), '[]');
  t.deepEqual(readdirSync(state.paths.snapshots), []);
});

test.serial('the steps of a build recipe begin with the files of a snapshot', async (t) => {
  const id = await kept(t, 'echo one > /home/build/a');
  await ok(t, 'snapshot', id, 'prepared');
  await ok(t, 'kill', id);
  const file = join(state.beside, 'it.yaml');
  const out = join(state.beside, 'built');
  const steps =
    'sandbox: { user: root }\nsteps: [echo two >> /home/build/a]\nartifacts: [/home/build/a]';
  const build = async (head: string) => {
    writeFileSync(file, `${head}\n${steps}\n`);
    return await kiln('build', file, '--resultdir', out);
  };
  const built = await build('fromSnapshot: prepared');
  t.is(built.code, 0, built.said);
  t.is(readFileSync(join(out, 'a'), 'utf8'), 'one\ntwo\n');
  const cat = ['--', 'cat', '/home/build/a'];
  t.is(await ok(t, 'run', '--from', 'prepared', ...cat), 'one');
  t.regex((await build('fromSnapshot: none')).said, /E_NO_SNAPSHOT/);
  for (const head of ['', `fromSnapshot: prepared\nimage: ${IMAGE}`]) {
    t.regex((await build(head)).said, /one of image and fromSnapshot is needed, and not both/);
  }
  await ok(t, 'snapshot', 'rm', 'prepared');
});

test.serial('a sandbox goes back to a snapshot, and keeps its id', async (t) => {
  const id = await kept(t, `${TOOLS} ${WRITES}`);
  const list = ['exec', id, '--', 'sh', '-c', `${TOOLS} ${LISTING}`];
  const before = await ok(t, ...list);
  await ok(t, 'snapshot', id, 'good');
  const script =
    'rm -r /x /home/build /etc; mkdir /x; echo bad > /x/bad; mkdir -p /x/a/b; rm /bin/cat; chmod 700 /root';
  await ok(t, 'exec', id, '--', 'sh', '-c', script);
  const back = await kiln('rollback', id);
  t.is(back.code, 0, back.said);
  const after = await ok(t, ...list);
  t.is(after, before.replace(' 6755 ', ' 755 '));
  t.is(await ok(t, 'exec', id, '--', 'sh', '-c', 'echo w > /x/w; cat /x/w'), 'w');
  // A command that runs there.
  await ok(t, 'exec', id, '--', 'sh', '-c', 'sleep 1000 & true');
  const refused = await kiln('rollback', id, 'good');
  t.is(refused.code, 125);
  t.regex(refused.said, /1 process runs/);
  t.is((await kiln('rollback', id, 'good', '--kill')).code, 0);
  t.is((await kiln('exec', id, '--', 'ls', '/x/w')).code, 1);
  await ok(t, 'kill', id);
  await ok(t, 'snapshot', 'rm', 'good');
});

test.serial(
  'a diff is of a snapshot’s own layer, and of what a fork has changed above it',
  async (t) => {
    const id = await kept(t, 'echo one > /root/a; echo two > /root/b; rm /etc/group');
    const first = await ok(t, 'snapshot', id);
    t.is(await ok(t, 'diff', first), 'D etc/group\nA root/a\nA root/b');
    const fork = await ok(t, 'fork', first);
    await ok(
      t,
      'exec',
      fork,
      '--',
      'sh',
      '-c',
      'rm /root/a; echo more >> /root/b; echo g > /etc/group',
    );
    const changes = 'A etc/group\nD root/a\nM root/b';
    t.is(await ok(t, 'diff', fork), changes);
    const second = await ok(t, 'snapshot', fork);
    t.is(await ok(t, 'diff', second), changes);
    t.regex(await ok(t, 'diff', '--patch', second, '/', 'root/b'), /^\+more$/m);
    await ok(t, 'kill', fork, id);
  },
);

test.serial('two snapshots, or a sandbox and one, are compared from their layers', async (t) => {
  const id = await kept(
    t,
    'mkdir -p /d/e; echo one > /d/a; echo two > /d/e/b; echo same > /d/same',
  );
  const first = await ok(t, 'snapshot', id, 'one');
  const fork = await ok(t, 'fork', 'one');
  const changes = [
    'rm /d/a; echo more >> /d/e/b; touch /d/same; rm /etc/group; ln -s e /d/link',
    'rm -r /home/build; mkdir /home/build; echo n > "/d/new\nline"',
  ];
  await ok(t, 'exec', fork, '--', 'sh', '-c', `${TOOLS} ${changes.join('; ')}`);
  const expected = [...['D d/a', 'M d/e/b', 'A d/link -> e', 'A "d/new\\nline"', 'D etc/group']];
  // What the image has in the folder that was made anew.
  const { stdout: had } = await execa('ls', [
    '-A',
    join(state.paths.images, IMAGE, 'tree/home/build'),
  ]);
  const gone = had === '' ? [] : had.split('\n').map((name) => `D home/build/${name}`);
  const inFork = (await ok(t, 'diff', fork, 'one')).split('\n');
  t.deepEqual(
    inFork.filter((line) => line !== 'M home/build/'),
    [...expected, ...gone],
  );
  const second = await ok(t, 'snapshot', fork);
  t.is(await ok(t, 'diff', second, first), inFork.join('\n'));
  // The other way round, what was removed was added.
  const back = (await ok(t, 'diff', 'one', second)).split('\n');
  for (const line of ['A d/a', 'M d/e/b', 'D d/link', 'A etc/group']) {
    t.true(
      back.some((each) => each.startsWith(line)),
      `${line}: ${back}`,
    );
  }
  t.is(await ok(t, 'diff', first, 'one'), '');
  t.regex(await ok(t, 'diff', '--patch', second, 'one', 'd/e'), /^ two\n\+more$/m);
  const shown = JSON.parse(await ok(t, 'diff', '--json', fork, 'one', '/d/a'));
  t.is(shown.against, first);
  t.deepEqual(
    shown.changes.map(({ path }: { path: string }) => path),
    ['d/a'],
  );
  await ok(t, 'kill', fork, id);
  await ok(t, 'gc');
  await ok(t, 'snapshot', 'rm', 'one');
});

test.serial('an image of a snapshot has all that it stands on', async (t) => {
  const id = await kept(t, `${TOOLS} ${WRITES}`);
  const first = await ok(t, 'snapshot', id);
  const fork = await ok(t, 'fork', first);
  await ok(t, 'exec', fork, '--', 'sh', '-c', 'rm /x/link; echo top > /x/top');
  const image = await ok(t, 'image', 'commit', fork, '--name', 'committed');
  t.regex(image, /^[0-9a-f]{64}$/);
  const list = ['--user', 'root', '--', 'sh', '-c', 'cd /x; ls; cat top; ls /home/build /etc'];
  const inFork = await ok(t, 'run', '--from', await ok(t, 'snapshot', fork), ...list);
  t.is(await ok(t, 'run', '-r', 'committed', ...list), inFork);
  // The same again is the same image.
  t.is(await ok(t, 'image', 'commit', fork, '--name', 'again'), image);
  const shown = JSON.parse(await ok(t, 'image', 'show', 'committed'));
  t.is(shown.madeOf.image, IMAGE);
  t.is(shown.madeOf.layers.length, 2);
  const tree = join(state.paths.images, image, 'tree');
  t.false(existsSync(join(tree, 'etc/group')));
  t.is(statSync(join(tree, 'x/set-id')).mode & 0o7777, 0o755);
  const { stdout } = await execa('find', [tree, '-type', 'c']);
  t.is(stdout, '');
  const marks = await execa('getfattr', ['-R', '-d', '-m', 'overlay', tree]);
  t.is(marks.stdout, '');
  // Usable by what takes an image.
  const tar = join(state.beside, 'out.tar');
  await ok(t, 'image', 'export', 'committed', '-o', tar);
  t.regex((await execa('tar', ['-tf', tar])).stdout, /^x\/top$/m);
  await ok(t, 'kill', fork, id);
});

test.serial('a snapshot without a name goes when the time of its sandbox is over', async (t) => {
  const words = ['run', '-r', IMAGE, '--keep=3s', '--user', 'root', '--', 'touch', '/root/a'];
  const { said } = await kiln(...words);
  const id = /kept as (\w+)/.exec(said)?.[1] ?? '';
  const ends = Date.now() + 3000;
  const goes = await ok(t, 'snapshot', id);
  const stays = await ok(t, 'snapshot', id, 'stays');
  const ids = async () => (await ok(t, 'snapshot', 'ls', '-q')).split('\n').filter(Boolean);
  if (Date.now() < ends) t.deepEqual(await ids(), [goes, stays]);
  await sleep(Math.max(0, ends + 100 - Date.now()));
  await ok(t, 'gc');
  t.deepEqual(await ids(), [stays]);
  t.deepEqual(readdirSync(state.paths.snapshots), [stays]);
  t.is(await ok(t, 'run', '--from', 'stays', '--user', 'root', '--', 'ls', '/root'), 'a');
  await ok(t, 'snapshot', 'rm', 'stays');
});

test.serial('a snapshot whose record is damaged is told of, and gc removes it', async (t) => {
  const id = await kept(t, 'echo one > /root/a');
  const snapshot = await ok(t, 'snapshot', id);
  const record = join(state.paths.snapshots, snapshot, 'snapshot.json');
  writeFileSync(record, readFileSync(record, 'utf8').replace('"bytes":', '"bites":'));
  const listed = await kiln('snapshot', 'ls', '--json');
  t.is(listed.out, '[]');
  t.regex(listed.said, /cannot be used/);
  await ok(t, 'gc');
  t.false(existsSync(join(state.paths.snapshots, snapshot)));
  await ok(t, 'kill', id);
});

test.serial(
  'a snapshot that was killed is whole or not there, and the sandbox goes on',
  async (t) => {
    const id = await kept(t, MANY);
    const count = async (snapshot: string) =>
      (await execa('sh', ['-c', `ls ${state.paths.snapshots}/${snapshot}/tree/m | wc -l`])).stdout;
    const whole = await ok(t, 'snapshot', id);
    const { digest } = JSON.parse(await ok(t, 'snapshot', 'show', whole));
    for (let turn = 0; turn < (isLong ? 40 : 4); turn++) {
      await killed(120 + turn * (isLong ? 30 : 300), 'snapshot', id);
      for (const each of JSON.parse(await ok(t, 'snapshot', 'ls', '--json'))) {
        t.is(await count(each.id), '801');
        t.is(each.digest, digest);
      }
      t.is(await ok(t, 'exec', id, '--', 'cat', '/m/f400'), '400');
    }
    await ok(t, 'kill', id);
    await ok(t, 'gc');
    t.deepEqual(readdirSync(state.paths.snapshots), []);
    t.deepEqual(readdirSync(join(state.paths.store, 'work')), []);
  },
);

test.serial(
  'a rollback that was killed is done again, and its sandbox cannot be entered before',
  async (t) => {
    const id = await kept(t, MANY);
    await ok(t, 'snapshot', id);
    const spoil =
      'cd /m && rm -r d* && for i in $(seq 300); do echo bad > f$i; done; echo x > /m/x';
    const list = [
      'exec',
      id,
      '--',
      'sh',
      '-c',
      'cd /m; ls | wc -l; cat f* | sha256sum; sha256sum big',
    ];
    const good = await ok(t, ...list);
    await ok(t, 'exec', id, '--', 'sh', '-c', spoil);
    const bad = await ok(t, ...list);
    for (let turn = 0; turn < (isLong ? 40 : 4); turn++) {
      await killed(120 + turn * (isLong ? 30 : 300), 'rollback', id, '--kill');
      const now = await kiln(...list);
      if (now.code === 125) t.regex(now.said, /E_ROLLBACK/);
      else t.true([good, bad].includes(now.out), now.out);
      await ok(t, 'rollback', id);
      t.is(await ok(t, ...list), good);
      await ok(t, 'exec', id, '--', 'sh', '-c', spoil);
    }
    await ok(t, 'kill', id);
  },
);

test.serial(
  'what is mounted in a sandbox stays at a rollback, and so does its folder',
  async (t) => {
    const bound = join(state.beside, 'bound');
    mkdirSync(bound, { recursive: true });
    writeFileSync(join(bound, 'file'), 'host\n');
    const words = [
      'run',
      '-r',
      IMAGE,
      '--keep',
      '--user',
      'root',
      '--bind',
      `${bound}:/deep/er/bo und`,
    ];
    const { code, said } = await kiln(
      ...words,
      '--',
      'sh',
      '-c',
      'echo a > /deep/a; echo t > /tmp/t',
    );
    t.is(code, 0, said);
    const id = /kept as (\w+)/.exec(said)?.[1] ?? '';
    await ok(t, 'snapshot', id);
    const more =
      'echo b > /deep/b; echo w > "/deep/er/bo und/written"; rm /deep/a; echo v > /var/v';
    await ok(t, 'exec', id, '--', 'sh', '-c', more);
    await ok(t, 'rollback', id);
    const look = 'cd /deep; cat a "er/bo und/file" "er/bo und/written" /tmp/t; ls /deep /var';
    const expected = 'a\nhost\nw\nt\n/deep:\na\ner\n\n/var:\ntmp';
    t.is(await ok(t, 'exec', id, '--', 'sh', '-c', look), expected);
    t.is(readFileSync(join(bound, 'written'), 'utf8'), 'w\n');
    // A fork has no bind, and its folder is empty.
    const fork = await ok(t, 'fork', id);
    t.is(await ok(t, 'exec', fork, '--', 'ls', '/deep/er/bo und'), '');
    await ok(t, 'kill', fork, id);
  },
);

test.serial('after a rollback, walls, names and layers of folders are as before', async (t) => {
  const folder = join(state.beside, 'layered');
  mkdirSync(folder, { recursive: true });
  writeFileSync(join(folder, 'file'), 'host\n');
  const words = ['run', '-r', IMAGE, '--keep', '--user', 'root', '--bind', `${folder}:/src:cow`];
  const writes = 'echo 192.0.2.1 own >> /etc/hosts; echo mine > /src/file; echo a > /root/a';
  const { code, said } = await kiln(...words, '--', 'sh', '-c', writes);
  t.is(code, 0, said);
  const id = /kept as (\w+)/.exec(said)?.[1] ?? '';
  const mounts = [
    'exec',
    id,
    '--',
    'sh',
    '-c',
    'cut() { busybox cut "$@"; }; cut -d " " -f 4- /proc/self/mountinfo',
  ];
  const table = async () =>
    (await ok(t, ...mounts))
      .replace(/workdir=\S+|upperdir=\S+|lowerdir=\S+/g, '')
      .split('\n')
      .sort();
  const before = await table();
  await ok(t, 'snapshot', id, 'named');
  for (const turn of ['first', 'second']) {
    await ok(
      t,
      'exec',
      id,
      '--',
      'sh',
      '-c',
      'echo other > /etc/hosts; echo more >> /src/file; rm /root/a',
    );
    await ok(t, 'rollback', id);
    t.deepEqual(await table(), before, turn);
    t.regex(await ok(t, 'exec', id, '--', 'cat', '/etc/hosts'), /localhost[\s\S]*192\.0\.2\.1 own/);
    t.is(await ok(t, 'diff', id), '');
    t.is(await ok(t, 'diff', id, '/src'), 'M file');
  }
  t.is(await ok(t, 'exec', id, '--', 'cat', '/src/file', '/root/a'), 'mine\nmore\nmore\na');
  // It stands on the snapshot by now.
  const used = await kiln('snapshot', 'rm', 'named');
  t.regex(used.said, /E_SNAPSHOT_IN_USE|in use by sandbox/);
  await ok(t, 'kill', id);
  await ok(t, 'snapshot', 'rm', 'named');
});

test.serial('a command in a sandbox on snapshots has no descriptor of a layer', async (t) => {
  const id = await kept(t, 'echo a > /root/a');
  const snapshot = await ok(t, 'snapshot', id);
  const script = 'ls -l /proc/self/fd; cat /proc/self/mountinfo';
  const out = await ok(t, 'run', '--from', snapshot, '--', 'sh', '-c', script);
  // The image's mount and the layer's are below the overlay, and nowhere else.
  t.false(out.includes(state.paths.root));
  t.regex(out, / \/ \/ rw,nosuid,nodev.*lowerdir=\S*:\/lower,/);
  t.is(out.match(/ -> (?!pipe:)/g), null);
  await ok(t, 'kill', id);
});

test.serial('only a kept sandbox can be snapshotted, under a valid name', async (t) => {
  const id = await kept(t, 'true');
  const refused = async (wanted: RegExp, ...words: readonly string[]) => {
    const { code, said } = await kiln(...words);
    t.is(code, 125, said);
    t.regex(said, wanted);
  };
  await refused(/E_SNAPSHOT.*\n.*name has/, 'snapshot', id, 'a/b');
  await refused(/is no name of a snapshot/, 'snapshot', id, 'abcd');
  await ok(t, 'snapshot', id, 'taken');
  await refused(/is called taken already/, 'snapshot', id, 'taken');
  await refused(/E_NO_SNAPSHOT/, 'run', '--from', 'other', '--', 'true');
  await refused(/E_NO_SNAPSHOT/, 'fork', 'other');
  const another = await kept(t, 'true');
  const fork = await ok(t, 'fork', 'taken');
  await ok(t, 'rollback', fork, 'taken');
  await refused(/there is no snapshot of sandbox/, 'rollback', another);
  await refused(/E_IMAGE_IN_USE/, 'image', 'rm', IMAGE);
  await ok(t, 'kill', id, another, fork);
  await ok(t, 'snapshot', 'rm', 'taken');
});
