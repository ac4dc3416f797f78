/** Binds with `cow` of users: all is read and written with their rights. */
import {
  chmodSync,
  chownSync,
  existsSync,
  mkdirSync,
  readFileSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import anyTest, { type TestFn } from 'ava';
import { OTHER, USER, type UserState, userState } from '../support/second-user.ts';

const test = anyTest as TestFn<UserState>;

test.before(async (t) => {
  t.context = await userState();
});
test.after.always(async ({ context }) => {
  await context[Symbol.asyncDispose]();
});

test('a user’s changes are shown and taken with the user’s rights, and no other user’s', async (t) => {
  const state = t.context;
  const folder = join(state.home, 'checkout');
  mkdirSync(join(folder, 'closed'), { recursive: true });
  writeFileSync(join(folder, 'a'), 'a\n');
  writeFileSync(join(folder, 'closed/of-root'), 'secret\n', { mode: 0o600 });
  for (const path of ['', 'a', 'closed']) chownSync(join(folder, path), USER.uid, USER.gid);
  const kiln = async (user: typeof USER | typeof OTHER, ...words: readonly string[]) => {
    const ran = await state.as(user, words);
    return { code: ran.exitCode, out: String(ran.stdout), said: String(ran.stderr) };
  };
  const script =
    'echo more >> a; cat closed/of-root; echo x > closed/new; mkdir d; echo y > d/y; echo z > z; busybox chmod 4755 z';
  const bind = ['--bind', 'checkout:/src:cow', '--workdir', '/src'];
  const ran = await kiln(USER, 'run', '-r', 'busybox', '--keep', ...bind, '--', 'sh', '-c', script);
  t.is(ran.code, 0, ran.said);
  t.false(ran.out.includes('secret'));
  const id = /kept as (\w+)/.exec(ran.said)?.[1] ?? '';
  t.is(readFileSync(join(folder, 'a'), 'utf8'), 'a\n');

  const shown = await kiln(USER, 'diff', id, '/src');
  t.is(shown.out, 'M a\nA closed/new\nA d/\nA d/y\nA z', shown.said);
  t.regex((await kiln(OTHER, 'diff', id, '/src')).said, /E_NO_SANDBOX/);
  t.regex((await kiln(OTHER, 'apply', id, '/src')).said, /E_NO_SANDBOX/);

  chownSync(join(folder, 'closed'), 0, 0);
  chmodSync(join(folder, 'closed'), 0o755);
  const applied = await kiln(USER, 'apply', id, '/src');
  t.is(applied.code, 125, applied.said);
  t.regex(applied.said, /left alone: closed\/new: it cannot be written \(EACCES\)/);
  t.false(existsSync(join(folder, 'closed/new')));
  for (const path of ['a', 'd', 'd/y', 'z']) {
    const { uid, gid, mode } = statSync(join(folder, path));
    t.deepEqual({ uid, gid }, USER, path);
    t.is(mode & 0o7000, 0);
  }
  t.is(readFileSync(join(folder, 'a'), 'utf8'), 'a\nmore\n');

  const discarded = await kiln(USER, 'discard', id, '/src');
  t.is(discarded.code, 0, discarded.said);
  t.is((await kiln(USER, 'diff', id, '/src')).out, '');
  t.is((await kiln(USER, 'kill', id)).code, 0);
});
