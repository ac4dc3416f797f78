/** Snapshots of users: each has only their own, within their share. */
import anyTest, { type TestFn } from 'ava';
import { OTHER, USER, type UserState, userState } from '../support/second-user.ts';

const test = anyTest as TestFn<UserState>;

test.before(async (t) => {
  t.context = await userState('  limits: { sandboxes: 3, storage: 9M }\n');
});
test.after.always(async ({ context }) => {
  await context[Symbol.asyncDispose]();
});

test('a user keeps, forks and rolls back own sandboxes, and no other user’s', async (t) => {
  const state = t.context;
  const kiln = async (user: typeof USER | typeof OTHER, ...words: readonly string[]) => {
    const ran = await state.as(user, words);
    return { code: ran.exitCode, out: String(ran.stdout), said: String(ran.stderr) };
  };
  const ok = async (...words: readonly string[]) => {
    const { code, out, said } = await kiln(USER, ...words);
    t.is(code, 0, said);
    return out;
  };
  const words = [
    'run',
    '-r',
    'busybox',
    '--user',
    'root',
    '--keep',
    '--',
    'sh',
    '-c',
    'echo one > /home/build/a',
  ];
  const { code, said } = await kiln(USER, ...words);
  t.is(code, 0, said);
  const id = /kept as (\w+)/.exec(said)?.[1] ?? '';
  const snapshot = await ok('snapshot', id, 'mine');
  t.is(await ok('run', '--from', 'mine', '--', 'cat', '/home/build/a'), 'one');
  const fork = await ok('fork', 'mine');
  t.is(await ok('exec', fork, '--', 'cat', '/home/build/a'), 'one');
  // All forks of a call have room, or none is made.
  const tooMany = await kiln(USER, 'fork', 'mine', '-n', '2');
  t.is(tooMany.code, 125);
  t.regex(tooMany.said, /2 forks .*: you have room for 1 \[E_FORBIDDEN\]/);
  t.is(JSON.parse(await ok('ps', '--json')).length, 2);
  // Looking into sandboxes takes no room for another one.
  const last = await ok('fork', 'mine');
  await ok('exec', id, '--', 'sh', '-c', 'echo two > /home/build/a');
  await ok('snapshot', last);
  await ok('rollback', id);
  t.is(await ok('exec', id, '--', 'cat', '/home/build/a'), 'one');
  t.is(await ok('diff', 'mine'), 'A home/build/a');
  t.is(await ok('diff', id, 'mine'), '');
  await ok('kill', last, fork);
  await ok('gc');
  const both = (await ok('fork', 'mine', '-n', '2')).split('\n');
  t.is(both.length, 2);
  await ok('kill', ...both);

  for (const words of [
    ['snapshot', id],
    ['snapshot', 'show', 'mine'],
    ['snapshot', 'rm', snapshot],
    ['run', '--from', snapshot, '--', 'true'],
    ['fork', snapshot],
    ['rollback', id],
    ['image', 'commit', snapshot, '--name', 'stolen'],
    ['diff', snapshot],
  ]) {
    const other = await kiln(OTHER, ...words);
    t.is(other.code, 125, words.join(' '));
    t.regex(other.said, /E_NO_(SNAPSHOT|SANDBOX)/, words.join(' '));
  }
  t.is((await kiln(OTHER, 'snapshot', 'ls', '--json')).out, '[]');

  const writes = 'cat /bin/busybox /bin/busybox /bin/busybox >/home/build/large';
  await ok('exec', id, '--', 'sh', '-c', writes);
  const large = await ok('snapshot', id, 'large');
  const over = await kiln(USER, 'snapshot', id);
  t.is(over.code, 125);
  t.regex(over.said, /users\.limits\.storage/);
  t.regex(await ok('df'), /^snapshots +2 +[56]\.\d/m);
  await ok('snapshot', 'rm', large);

  t.regex(await ok('df'), /^snapshots +1 /m);
  const shown = await state.kiln(['user', 'show', `${USER.uid}`]);
  t.regex(String(shown.stdout), /^snapshots +1 /m);
  const image = await ok('image', 'commit', 'mine', '--name', 'own');
  t.is(await ok('run', '-r', image, '--', 'cat', '/home/build/a'), 'one');
  await ok('kill', id);
  const removed = await state.kiln(['user', 'remove', `${USER.uid}`]);
  t.regex(String(removed.stdout), /1 snapshot,/, String(removed.stderr));
  t.is((await state.kiln(['snapshot', 'ls', '--json'])).stdout, '[]');
});
