/** Accounts of the host that end, change and leave the group: what kiln keeps of a number, and for whom. */
import { existsSync, mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import anyTest, { type ExecutionContext, type TestFn } from 'ava';
import { execa } from 'execa';
import { until } from '../support/eventually.ts';
import { ownSeconds, processesCalled } from '../support/processes.ts';
import { GROUP, type UserState, userState, writeConfig } from '../support/second-user.ts';

const test = anyTest as TestFn<UserState>;

const UID = 62_000 + (process.pid % 1000);
const ACCOUNT = { uid: UID, gid: UID };
const NAME = `kiln-test-${process.pid}`;

test.before(async (t) => {
  t.context = await userState();
  await execa('groupadd', ['--non-unique', '--gid', `${GROUP}`, NAME]);
});
test.after.always(async (t) => {
  for (const name of [`${NAME}-a`, `${NAME}-b`, `${NAME}-c`]) await end(name);
  // One that was renamed has left its group's name.
  for (const name of [NAME, `${NAME}-b`]) {
    await execa('groupdel', ['--force', name], { reject: false });
  }
  await t.context[Symbol.asyncDispose]();
});

async function begin(name: string, home: string): Promise<void> {
  const number = ['--uid', `${UID}`, '--user-group', '--groups', NAME, '--no-log-init'];
  await execa('useradd', [...number, '--home-dir', home, '--no-create-home', name]);
}

async function end(name: string): Promise<void> {
  await execa('userdel', ['--force', name], { reject: false });
}

interface Listed {
  readonly uid: number;
  readonly name?: string;
  readonly now?: string;
  readonly state: string;
}

async function listed({ kiln }: UserState): Promise<Listed | undefined> {
  const users: Listed[] = JSON.parse(String((await kiln(['user', 'ls', '--json'])).stdout));
  return users.find(({ uid }) => uid === UID);
}

async function kept({ kiln }: UserState): Promise<Record<string, number>> {
  const { stdout } = await kiln(['user', 'show', `${UID}`, '--json']);
  const rows: { type: string; count: number }[] = JSON.parse(String(stdout));
  return Object.fromEntries(rows.map(({ type, count }) => [type, count]));
}

/** Answers of the API to a process of the account. */
async function callOf(
  { run, paths }: UserState,
  method = 'ListSandboxes',
  parameters: Record<string, unknown> = {},
): Promise<string> {
  const script = `import socket, sys
peer = socket.socket(socket.AF_UNIX)
peer.connect(sys.argv[1])
peer.sendall(sys.argv[2].encode() + b'\\0')
print(peer.recv(65536).decode())`;
  const call = JSON.stringify({ method: `io.kiln.${method}`, parameters });
  const argv = ['/usr/bin/python3', '-c', script, join(paths.root, 'io.kiln'), call];
  return String((await run(ACCOUNT, argv)).stdout);
}

async function isRefused(t: ExecutionContext<UserState>, now: string, before: string) {
  const refused = await t.context.as(ACCOUNT, ['ps']);
  t.is(refused.exitCode, 125);
  const said = String(refused.stderr);
  t.true(said.includes(`uid ${UID} is ${now}, and was ${before} [E_ACCOUNT]`), said);
  t.true(said.includes(`kiln user remove ${UID}`), said);
  t.regex(await callOf(t.context), /E_ACCOUNT/);
}

test.serial('an account inherits nothing from the account that had its number', async (t) => {
  const { as, kiln, paths, home } = t.context;
  await begin(`${NAME}-a`, home);
  const seconds = ownSeconds();
  const job = ['run', '-r', 'busybox', '--detach', '--', 'sleep', seconds];
  t.is((await as(ACCOUNT, job)).exitCode, 0);
  t.true(await until(() => processesCalled('sleep', seconds).length === 1));
  const layout = join(t.context.beside, 'rootfs.tar');
  const content = join(t.context.beside, 'content');
  mkdirSync(content);
  writeFileSync(join(content, 'text'), 'theirs');
  await execa('tar', ['-C', content, '-cf', layout, '.']);
  const imported = await as(ACCOUNT, ['image', 'import', layout, '--name', 'theirs']);
  t.is(imported.exitCode, 0, String(imported.stderr));
  const cache = join(paths.root, 'users', `${UID}`, 'cache');
  mkdirSync(cache, { recursive: true });
  writeFileSync(join(cache, 'theirs'), 'x');
  t.like(await listed(t.context), { name: `${NAME}-a`, now: `${NAME}-a` });

  await end(`${NAME}-a`);
  t.like(await listed(t.context), { name: `${NAME}-a`, state: 'gone' });
  await begin(`${NAME}-b`, home);
  await isRefused(t, `${NAME}-b`, `${NAME}-a`);
  t.like(await listed(t.context), { name: `${NAME}-a`, now: `${NAME}-b`, state: 'renamed' });
  t.like(await kept(t.context), { sandboxes: 1, jobs: 1, images: 1 });

  const removed = await kiln(['user', 'remove', `${UID}`]);
  t.is(removed.exitCode, 0, String(removed.stderr));
  t.true(await until(() => processesCalled('sleep', seconds).length === 0));
  t.is(await listed(t.context), undefined);
  t.false(existsSync(cache));
  t.is((await as(ACCOUNT, ['ps', '--json'])).stdout, '[]');
  t.like(await kept(t.context), { sandboxes: 0, jobs: 0, images: 0 });
  const again = await as(ACCOUNT, ['run', '-r', 'busybox', '--', 'true']);
  t.is(again.exitCode, 0, String(again.stderr));
});

test.serial('a renamed account keeps what it has once root confirms it', async (t) => {
  const { as, kiln, paths } = t.context;
  const keep = ['run', '-r', 'busybox', '--keep', '--', 'true'];
  t.is((await as(ACCOUNT, keep)).exitCode, 0);
  await execa('usermod', ['--login', `${NAME}-c`, `${NAME}-b`]);
  await isRefused(t, `${NAME}-c`, `${NAME}-b`);
  const confirmed = await kiln(['user', 'confirm', `${UID}`]);
  t.is(confirmed.exitCode, 0, String(confirmed.stderr));
  const { stdout } = await as(ACCOUNT, ['ps', '--json']);
  t.is(JSON.parse(String(stdout)).length, 1);
  t.is((await as(ACCOUNT, ['kill', '--all'])).exitCode, 0);
  writeFileSync(join(paths.root, 'users', `${UID}`, 'account.json'), '{');
  await isRefused(t, `${NAME}-c`, 'an account that kiln cannot tell any more');
  t.is((await kiln(['user', 'confirm', `${UID}`])).exitCode, 0);
  t.is((await as(ACCOUNT, ['ps'])).exitCode, 0);
});

test.serial('the commands for accounts are root’s', async (t) => {
  for (const words of [['ls'], ['show', `${UID}`], ['remove', `${UID}`], ['confirm', `${UID}`]]) {
    const refused = await t.context.as(ACCOUNT, ['user', ...words]);
    t.is(refused.exitCode, 125);
    t.regex(String(refused.stderr), /\[E_FORBIDDEN\]/);
  }
});

test.serial('a user who leaves the group while commands wait is then refused', async (t) => {
  const { as, kiln, config } = t.context;
  writeConfig(config, '  limits: { sandboxes: 1 }\n');
  const [first, second] = [ownSeconds(), ownSeconds()];
  const runs = as(ACCOUNT, ['run', '-r', 'busybox', '--', 'sleep', first]);
  t.true(await until(() => processesCalled('sleep', first).length === 1));
  const waits = as(ACCOUNT, ['run', '-r', 'busybox', '--', 'sleep', second]);
  let said = '';
  waits.stderr?.on('data', (text) => {
    said += text;
  });
  t.true(await until(() => said.includes('waiting until one of your 1 sandbox ends')), said);
  const called = callOf(t.context, 'Run', { image: 'busybox', argv: ['sleep', second] });
  await sleep(500);
  await execa('gpasswd', ['--delete', `${NAME}-c`, NAME]);
  await kiln(['kill', '--all']);
  await runs;
  const ended = await waits;
  t.is(ended.exitCode, 125, String(ended.stderr));
  t.regex(String(ended.stderr), /you have left the group that may use it \[E_FORBIDDEN\]/);
  t.regex(
    await called,
    /you have left the group that may use it.*E_FORBIDDEN|E_FORBIDDEN.*you have left/s,
  );
  t.deepEqual(processesCalled('sleep', second), []);
});
