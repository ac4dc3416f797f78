/** Kills while snapshots are used: forks, commands that begin with one, images of one. See also snapshot, on-disk, cow. */
import { once } from 'node:events';
import { existsSync, mkdirSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import anyTest, { type ExecutionContext, type TestFn } from 'ava';
import { execa } from 'execa';
import { type BusyboxState, busyboxState, KILN, MAIN, PATIENCE } from '../support/busybox-state.ts';
import { until } from '../support/eventually.ts';
import { keptSandboxes, MANY } from '../support/kept-sandbox.ts';
import { isLong } from '../support/long.ts';

const test = anyTest as TestFn;

let state: BusyboxState;
test.before(async () => {
  state = await busyboxState();
  // Sandboxes that wait for a command are none that was left.
  state.env.KILN_PARKED = '0';
});
test.after.always(() => state[Symbol.asyncDispose]());

const { ok, kept, killed } = keptSandboxes(() => state);

const TURNS = isLong ? 34 : 2;
/** From before the program has read its words to after its last step, ms. */
const SPAN = 2400;
const LOOK = ['sh', '-c', 'cd /m; ls | wc -l; cat f* | sha256sum; sha256sum big'];

const at = (turn: number) => 120 + Math.floor((turn * SPAN) / TURNS);

/** The ids of all that are kept; one whose maker was killed before that is about to end. */
async function listed(t: ExecutionContext): Promise<string[]> {
  const all: { id: string; state: string }[] = JSON.parse(await ok(t, 'ps', '--json'));
  return all.filter(({ state: is }) => is === 'kept').map(({ id }) => id);
}

/** What is left once everything was removed that can be. */
async function nothingLeft(t: ExecutionContext): Promise<void> {
  for (const id of await listed(t)) await ok(t, 'kill', id);
  await ok(t, 'gc');
  const { snapshots, sandboxes, written, store } = state.paths;
  for (const folder of [snapshots, sandboxes, written, join(store, 'work'), join(store, 'trash')]) {
    t.deepEqual(existsSync(folder) ? readdirSync(folder) : [], [], folder);
  }
}

test.serial(
  'a fork that was killed leaves whole sandboxes, and the snapshot as it was',
  async (t) => {
    const id = await kept(t, MANY);
    const good = await ok(t, 'exec', id, '--', ...LOOK);
    await ok(t, 'snapshot', id, 'base');
    const { digest } = JSON.parse(await ok(t, 'snapshot', 'show', 'base'));
    for (let turn = 0; turn < TURNS; turn++) {
      await killed(at(turn), 'fork', 'base', '-n', '3', ...(turn % 2 === 0 ? [] : ['--on-disk']));
      for (const each of await listed(t)) {
        t.is(await ok(t, 'exec', '--user', 'root', each, '--', ...LOOK), good);
        if (each !== id) await ok(t, 'kill', each);
      }
      t.is(JSON.parse(await ok(t, 'snapshot', 'show', 'base')).digest, digest);
    }
    t.is(await ok(t, 'run', '--from', 'base', '--user', 'root', '--', ...LOOK), good);
    await ok(t, 'kill', id);
    await ok(t, 'snapshot', 'rm', 'base');
    await nothingLeft(t);
  },
);

test.serial(
  'a run from a snapshot that was killed leaves nothing, and the snapshot as it was',
  async (t) => {
    const id = await kept(t, MANY, '--on-disk');
    const good = await ok(t, 'exec', id, '--', ...LOOK);
    await ok(t, 'snapshot', id, 'base');
    const spoil = ['sh', '-c', 'rm -r /m; echo x > /x; sleep 1'];
    for (let turn = 0; turn < TURNS; turn++) {
      await killed(at(turn), 'run', '--from', 'base', '--user', 'root', '--', ...spoil);
      t.is(await ok(t, 'run', '--from', 'base', '--user', 'root', '--', ...LOOK), good);
      t.is(await ok(t, 'exec', id, '--', ...LOOK), good);
    }
    await ok(t, 'kill', id);
    await ok(t, 'snapshot', 'rm', 'base');
    await nothingLeft(t);
  },
);

test.serial('an image of a snapshot that was killed is whole or not there', async (t) => {
  const id = await kept(t, MANY);
  const good = await ok(t, 'exec', id, '--', ...LOOK);
  await ok(t, 'snapshot', id, 'base');
  for (let turn = 0; turn < TURNS; turn++) {
    const name = `image${turn}`;
    await killed(at(turn), 'image', 'commit', 'base', '--name', name);
    const there = JSON.parse(await ok(t, 'image', 'ls', '--json'));
    if (there.some((each: { name: string }) => each.name === name)) {
      t.is(await ok(t, 'run', '-r', name, '--user', 'root', '--', ...LOOK), good);
      await ok(t, 'image', 'rm', name);
    }
  }
  const image = await ok(t, 'image', 'commit', 'base', '--name', 'last');
  t.is(await ok(t, 'run', '-r', image, '--user', 'root', '--', ...LOOK), good);
  await ok(t, 'kill', id);
  await ok(t, 'snapshot', 'rm', 'base');
  await nothingLeft(t);
});

/** Interrupts one call of kiln once `begun` holds. @returns its exit status */
async function interrupted(
  t: ExecutionContext,
  begun: () => Promise<unknown>,
  ...words: readonly string[]
): Promise<number | undefined> {
  const { env } = state;
  const calling = execa(process.execPath, [MAIN, ...words], { env, reject: false });
  await begun();
  const since = performance.now();
  calling.kill('SIGINT');
  const { exitCode, signal } = await calling;
  t.true(performance.now() - since < 3000 * PATIENCE, words.join(' '));
  // On a slow host the signal comes before Node listens for it.
  return signal === 'SIGINT' ? 130 : exitCode;
}

/** Each has one while it writes. */
const worksThere = () =>
  until(() => {
    const folder = join(state.paths.store, 'work');
    return existsSync(folder) && readdirSync(folder).length > 0;
  });

test.serial('an interruption ends what copies or reads a layer, and leaves nothing', async (t) => {
  const folder = join(state.beside, 'much');
  mkdirSync(folder);
  const write = 'for i in $(seq 3000); do echo $i > f$i; done';
  const bind = ['--bind', `${folder}:/src:cow`];
  const id = await kept(t, `mkdir /m; cd /m; ${write}; cd /src; ${write}`, '--on-disk', ...bind);
  const copied = await kept(t, `mkdir /m; cd /m; ${write}`);
  t.is(await interrupted(t, worksThere, 'snapshot', copied, 'none'), 130);
  t.is(await interrupted(t, worksThere, 'fork', copied), 130);
  t.is(await ok(t, 'snapshot', 'ls', '--json'), '[]');
  await ok(t, 'snapshot', id, 'base');
  for (const words of [['show', 'base'], ['ls']]) {
    const status = await interrupted(t, () => sleep(800), 'snapshot', ...words);
    t.true(status === 130 || status === 0, `${words[0]}: ${status}`);
  }
  t.is(await interrupted(t, worksThere, 'image', 'commit', 'base', '--name', 'none'), 130);
  t.notRegex(await ok(t, 'image', 'ls'), /none/);
  for (const words of [['diff'], ['diff', '--patch'], ['apply']]) {
    const status = await interrupted(t, () => sleep(1000), ...words, id, '/src');
    t.true(status === 130 || status === 0, `${words.join(' ')}: ${status}`);
  }
  await ok(t, 'apply', id, '/src');
  t.is(readdirSync(folder).length, 3000);
  for (const each of [id, copied]) await ok(t, 'kill', each);
  await ok(t, 'snapshot', 'rm', 'base');
  await nothingLeft(t);
});

test.serial(
  'an interruption ends a rollback that waits, and the sandbox is as it was',
  async (t) => {
    const id = await kept(t, 'echo one > /root/a');
    await ok(t, 'snapshot', id, 'base');
    await ok(t, 'exec', '--user', 'root', id, '--', 'sh', '-c', 'echo two > /root/a');
    const { env } = state;
    // Who does not move stays in the sandbox, though its command is killed.
    const holder = execa(
      process.execPath,
      [MAIN, 'exec', id, '--', 'sh', '-c', 'echo in; sleep 60'],
      {
        ...{ env, reject: false, buffer: false },
      },
    );
    await once(holder.stdout, 'data');
    holder.kill('SIGSTOP');
    const calling = execa(KILN, ['rollback', id, '--kill'], { env, reject: false });
    await sleep(1500);
    const since = performance.now();
    calling.kill('SIGINT');
    const { exitCode, stderr } = await calling;
    t.is(exitCode, 130, stderr);
    t.true(performance.now() - since < 3000 * PATIENCE);
    holder.kill('SIGCONT');
    await holder;
    t.is(await ok(t, 'exec', '--user', 'root', id, '--', 'cat', '/root/a'), 'two');
    await ok(t, 'kill', id);
    await ok(t, 'snapshot', 'rm', 'base');
    await nothingLeft(t);
  },
);
