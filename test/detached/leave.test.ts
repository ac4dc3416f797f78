/** Keys that leave a terminal, of which what runs there goes on: `attach`, `shell`, `exec`, `run --keep`. */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdirSync, readdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import anyTest, { type ExecutionContext, type TestFn } from 'ava';
import { keyBytes, LeaveKeys, shownKeys } from '../../src/options/leave-keys.ts';
import { shellWord } from '../../src/shell-words.ts';
import { KILN, PATIENCE } from '../support/busybox-state.ts';
import { GROUP, USER, type UserState, userState } from '../support/second-user.ts';

const test = anyTest as TestFn<UserState>;

test.before(async (t) => {
  t.context = await userState();
});
test.after.always(async ({ context }) => {
  await context[Symbol.asyncDispose]();
});

test('the keys are found wherever they come, and what only begins as they do is typed', (t) => {
  const type = (words: string, ...parts: readonly string[]) => {
    const keys = new LeaveKeys(words);
    const taken = parts.map((part) => keys.take(Buffer.from(part)));
    return [taken.map(({ typed }) => typed.toString()).join(''), taken.some((one) => one.hasLeft)];
  };
  const usual = 'ctrl-p,ctrl-q';
  t.deepEqual(type(usual, 'ls\r', '\u0010', '\u0011more'), ['ls\r', true]);
  t.deepEqual(type(usual, '\u0010\u0010\u0011'), ['\u0010', true]);
  t.deepEqual(type(usual, '\u0010', 'x\u0011'), ['\u0010x\u0011', false]);
  t.deepEqual(type('ctrl-],q', '\u001dq'), ['', true]);
  t.deepEqual(type('', '\u0010\u0011'), ['\u0010\u0011', false]);
  t.is(shownKeys('ctrl-p,Ctrl-Q,x'), '^P^Qx');
  for (const wrong of ['ctrl-', 'ctrl-1', 'ab', ',', 'a,,b', 'é']) {
    t.throws(() => keyBytes(wrong), { message: /ctrl-LETTER/ }, wrong);
  }
});

/**
 * Runs a command of a shell on a terminal of its own, types each word once what is seen has its pattern, and gives all
 * that was seen, and the status.
 */
async function onTerminal(
  { env }: UserState,
  command: string,
  steps: readonly (readonly [after: RegExp, typed: string])[],
): Promise<{ seen: string; status: number | null }> {
  const child = spawn('script', ['-qefc', command, '/dev/null'], {
    env: { ...env, TERM: 'dumb' },
  });
  const late = setTimeout(() => child.kill(), 60_000 * PATIENCE);
  let seen = '';
  let at = 0;
  const left = [...steps];
  child.stdout.setEncoding('utf8').on('data', (text: string) => {
    seen += text;
    for (let match = left[0]?.[0].exec(seen.slice(at)); match; ) {
      at += match.index + match[0].length;
      child.stdin.write(left.shift()?.[1] ?? '');
      match = left[0]?.[0].exec(seen.slice(at)) ?? null;
    }
  });
  const [status] = (await once(child, 'close')) as [number | null];
  clearTimeout(late);
  return { seen, status };
}

/** The id that a terminal said how to come back to. */
function leftAs(t: ExecutionContext, { seen, status }: { seen: string; status: number | null }) {
  const [, id = ''] = /`kiln attach (\w{10})` comes back/.exec(seen) ?? [];
  t.not(id, '', seen);
  t.is(status, 0, seen);
  return id;
}

const LEAVE = '\u0010\u0011';
/** Typed to a shell, it prints `ready`. */
const READY = 'echo rea""dy\r';
const GOES_ON = /\^P\^Q leaves, and it goes on/;

test.serial('a run that is kept is left, goes on as a job, and is come back to', async (t) => {
  const state = t.context;
  const run = `'${KILN}' run -t --keep -r busybox -- sh`;
  const id = leftAs(
    t,
    await onTerminal(state, run, [
      [GOES_ON, 'x=lost\r'],
      [/[#$] /, `x=found; ${READY}`],
      [/\nready/, LEAVE],
    ]),
  );
  const jobs = JSON.parse(String((await state.kiln(['ps', '--jobs', '--json'])).stdout));
  t.like(jobs, [{ id, state: 'running' }]);
  // What was written before is in its log.
  t.regex(String((await state.kiln(['logs', id])).stdout), /^ready/m);
  const { seen, status } = await onTerminal(state, `'${KILN}' attach ${id}`, [
    [/\^P\^Q leaves/, 'echo $x\r'],
    [/\nfound/, 'exit 7\r'],
  ]);
  t.is(status, 7, seen);
  t.is((await state.kiln(['wait', id])).exitCode, 7);
  const [, sandbox = ''] = /kept as (\w{10})/.exec(seen) ?? [];

  // A shell in it is left in the same way; one that is not left is no job afterwards.
  const shell = leftAs(
    t,
    await onTerminal(state, `'${KILN}' shell ${sandbox} --detach-keys x,ctrl-y`, [
      [/x\^Y leaves, and it goes on/, `y=there; ${READY}`],
      [/\nready/, 'x\u0019'],
    ]),
  );
  const back = await onTerminal(state, `'${KILN}' attach --detach-keys ctrl-] ${shell}`, [
    [/\^\] leaves/, `${READY}echo $y\r`],
    [/\nthere/, '\u001d'],
  ]);
  t.is(back.status, 0, back.seen);
  t.regex(back.seen, /the job \w+ goes on/);
  const folders = readdirSync(join(state.paths.root, 'detached')).length;
  const stayed = await onTerminal(state, `'${KILN}' exec -t ${sandbox} sh`, [
    [GOES_ON, 'exit 9\r'],
  ]);
  t.is(stayed.status, 9, stayed.seen);
  t.is(readdirSync(join(state.paths.root, 'detached')).length, folders);
  await state.kiln(['kill', shell]);
  t.is((await state.kiln(['kill', sandbox])).exitCode, 0);
});

test.serial('a command ends with a terminal that is closed before it was left', async (t) => {
  const state = t.context;
  const run = `timeout -s KILL 3 '${KILN}' run -t --name gone --keep -r busybox -- sh`;
  const { seen } = await onTerminal(state, run, []);
  t.regex(seen, GOES_ON);
  const ended = await state.kiln(['exec', 'gone', 'ps']);
  t.notRegex(String(ended.stdout), / sh$/m, 'nothing of it runs any more');
  await state.kiln(['kill', 'gone']);
});

test.serial(
  'kiln.yaml says by which keys, none where it is empty; others are told how',
  async (t) => {
    const state = t.context;
    const own = join(state.beside, 'own');
    mkdirSync(own);
    const file = join(own, 'kiln.yaml');
    const configured = { ...state, env: { ...state.env, XDG_CONFIG_HOME: own } };
    writeFileSync(file, 'defaults:\n  detach-keys: ctrl-a,d\n');
    const run = `'${KILN}' run -t -r busybox -- sh`;
    const id = leftAs(
      t,
      await onTerminal(configured, run, [
        [/\^Ad leaves, and it goes on/, READY],
        [/\nready/, '\u0001d'],
      ]),
    );
    await state.kiln(['kill', id]);
    writeFileSync(file, "defaults:\n  detach-keys: ''\n");
    const none = await onTerminal(configured, `'${KILN}' run -t --keep=1s -r busybox -- sh`, [
      [/[#$] /, `${LEAVE}\r`],
      [/[#$] /, 'exit 5\r'],
    ]);
    t.notRegex(none.seen, /leaves/);
    t.is(none.status, 5, none.seen);
    const wrong = await state.kiln(['attach', '--detach-keys', 'alt-x', 'y']);
    t.regex(String(wrong.stderr), /write keys as letters or ctrl-LETTER/);
    const both = await state.kiln([
      'run',
      '-d',
      '--detach-keys',
      'a',
      '-r',
      'busybox',
      '--',
      'true',
    ]);
    t.regex(String(both.stderr), /--detach-keys leaves a terminal, and --detach has none/);
  },
);

test.serial('a user’s terminal is left, and told of a new size', async (t) => {
  const state = t.context;
  const resize = '(sleep 2; stty rows 44 cols 111 </dev/tty)&';
  const script = 'trap "stty size" WINCH; while :; do sleep 0.1; done';
  const asUser = ['setpriv', `--reuid=${USER.uid}`, `--regid=${USER.gid}`, `--groups=${GROUP}`];
  const kiln = join(state.beside, 'client/dist/kiln');
  const words = [...asUser, kiln, 'run', '-t', '--keep', '-r', 'busybox', '--', 'sh', '-c', script];
  const command = `cd /; ${resize} ${words.map(shellWord).join(' ')}`;
  const id = leftAs(t, await onTerminal(state, command, [[/44 111/, LEAVE]]));
  t.regex(String((await state.as(USER, ['ps'])).stdout), new RegExp(`^${id} .*running`, 'm'));
  await state.as(USER, ['kill', id]);
});
