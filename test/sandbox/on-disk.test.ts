/** Sandboxes whose root is written to on the disk: their snapshots and rollbacks copy nothing. */
import { existsSync, readdirSync, statSync } from 'node:fs';
import { join } from 'node:path';
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

test.serial('what lies on the disk becomes a snapshot without a copy', async (t) => {
  const id = await kept(t, `${TOOLS} ${WRITES}`, '--on-disk');
  const list = ['sh', '-c', `${TOOLS} ${LISTING}`];
  const before = await ok(t, 'exec', id, '--', ...list);
  const written = join(state.paths.written, id);
  const inodeOf = async (from: string) =>
    (await execa('find', [from, '-path', '*/x/a', '-printf', '%i'])).stdout;
  const inode = await inodeOf(written);
  t.is(statSync(written).mode & 0o777, 0o700);
  t.true(statSync(join(written, readdirSync(written)[0] ?? '')).uid === 0);
  const first = await ok(t, 'snapshot', id);
  t.is(await inodeOf(join(state.paths.snapshots, first, 'tree')), inode);
  t.is(await inodeOf(written), '');
  // The sandbox goes on above it.
  t.is(await ok(t, 'exec', id, '--', ...list), before);
  t.is(await ok(t, 'diff', id), '');
  await ok(t, 'exec', id, '--', 'sh', '-c', 'rm /x/link; echo two > /x/a; echo s > /x/second');
  t.is(await ok(t, 'diff', id), 'M x/a\nD x/link\nA x/second');
  t.regex(await ok(t, 'diff', first), /^A x\/link -> a$/m);
  const second = await ok(t, 'snapshot', id, 'second');
  await ok(t, 'exec', id, '--', 'rm', '-r', '/x');
  await ok(t, 'rollback', id, 'second');
  const look = ['sh', '-c', 'cat /x/a /x/second; ls /x'];
  t.regex(await ok(t, 'exec', id, '--', ...look), /^two\ns\n/);
  await ok(t, 'rollback', id, first);
  t.is(await ok(t, 'exec', id, '--', ...list), before);
  const from = ['run', '--from', 'second', '--user', 'root', '--'];
  t.regex(await ok(t, ...from, ...look), /^two\ns\n/);
  // As a copy would be, once somebody looks.
  const shown = JSON.parse(await ok(t, 'snapshot', 'show', first));
  t.regex(shown.digest, /^[0-9a-f]{64}$/);
  t.true(shown.bytes > 1_000_000);
  t.is(statSync(join(state.paths.snapshots, first, 'tree/x/set-id')).mode & 0o7777, 0o755);
  t.is(statSync(join(state.paths.snapshots, first, 'tree/x/deep')).mode & 0o7777, 0o2775);
  const image = await ok(t, 'image', 'commit', second, '--name', 'from-disk');
  t.regex(await ok(t, 'run', '-r', image, '--user', 'root', '--', ...look), /^two\ns\n/);
  await ok(t, 'kill', id);
  t.deepEqual(readdirSync(state.paths.written), []);
  await ok(t, 'snapshot', 'rm', 'second');
  await ok(t, 'gc');
  t.deepEqual(readdirSync(state.paths.snapshots), []);
});

test.serial('a fork goes on in memory, or with --on-disk on the disk', async (t) => {
  const id = await kept(t, 'echo a > /root/a', '--on-disk');
  const fork = await ok(t, 'fork', id);
  const onDisk = await ok(t, 'fork', id, '--on-disk');
  for (const each of [fork, onDisk]) {
    await ok(t, 'exec', '--user', 'root', each, '--', 'sh', '-c', 'cat /root/a > /root/b');
    t.is(await ok(t, 'diff', each), 'A root/b');
  }
  t.false(existsSync(join(state.paths.written, fork)));
  const { stdout } = await execa('find', [join(state.paths.written, onDisk), '-path', '*/root/b']);
  t.not(stdout, '');
  await ok(t, 'kill', fork, onDisk, id);
});

test.serial('where a process runs, what lies on the disk is copied', async (t) => {
  const id = await kept(t, 'echo a > /root/a', '--on-disk');
  await ok(t, 'exec', id, '--', 'sh', '-c', 'sleep 1000 & true');
  const snapshot = await ok(t, 'snapshot', id);
  t.is(await ok(t, 'diff', id), 'A root/a');
  t.is(await ok(t, 'run', '--from', snapshot, '--user', 'root', '--', 'cat', '/root/a'), 'a');
  await ok(t, 'snapshot', id, '--kill');
  t.is(await ok(t, 'diff', id), '');
  t.is(await ok(t, 'exec', id, '--', 'cat', '/root/a'), 'a');
  await ok(t, 'kill', id);
});

test.serial('with --on-disk a command that writes more than --disk allows is ended', async (t) => {
  const fill =
    'i=0; while :; do dd if=/dev/zero of=/root/f$i bs=1M count=16 2>/dev/null; i=$((i+1)); done';
  const words = ['run', '-r', IMAGE, '--on-disk', '--disk', '64M', '--user', 'root', '--'];
  const { code, said } = await kiln(...words, 'sh', '-c', fill);
  t.is(code, 125, said);
  t.regex(said, /put more than 64\.0M on the disk \[E_DISK\]/);
  t.deepEqual(readdirSync(state.paths.written), []);
});

test.serial('a snapshot on the disk that was killed loses nothing', async (t) => {
  const id = await kept(t, MANY, '--on-disk');
  const list = ['exec', id, '--', 'sh', '-c', 'cd /m; ls | wc -l; cat f* | sha256sum'];
  const good = await ok(t, ...list);
  for (let turn = 0; turn < (isLong ? 100 : 6); turn++) {
    await killed(150 + turn * (isLong ? 4 : 60), 'snapshot', id, '--kill');
    t.is(await ok(t, ...list), good);
    const all = JSON.parse(await ok(t, 'snapshot', 'ls', '--json'));
    for (const each of all) {
      t.true(existsSync(join(state.paths.snapshots, each.id, 'tree')));
    }
    if (all.length < 20) continue;
    // Deep enough: all that was written is in one layer again.
    t.is(await ok(t, 'run', '--from', all.at(-1).id, '--', 'sh', '-c', 'ls /m | wc -l'), '801');
    await ok(t, 'rollback', id, all[0].id);
  }
  await ok(t, 'kill', id);
  await ok(t, 'gc');
  t.deepEqual(readdirSync(state.paths.snapshots), []);
  t.deepEqual(readdirSync(state.paths.written), []);
});

test.serial(
  'a root that is read-only stays so after a snapshot and after a roll-back',
  async (t) => {
    for (const how of [[], ['--on-disk']]) {
      const id = await kept(t, ':', '--read-only', ...how);
      const refused = async (when: string) => {
        const { said } = await kiln('exec', '--user', 'root', id, '--', 'sh', '-c', '>/etc/x');
        t.regex(said, /\/etc\/x: Read-only file system/, `${when} ${how}`);
      };
      await refused('before');
      const snapshot = await ok(t, 'snapshot', id);
      await refused('after the snapshot');
      await ok(t, 'rollback', id, snapshot);
      await refused('after the roll-back');
      await ok(t, 'kill', id);
    }
  },
);
