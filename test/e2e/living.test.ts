/** `kiln stop`, `kiln stats` and `kiln top`: what runs in sandboxes, looked at and ended. */
import { readFileSync } from 'node:fs';
import test from 'ava';
import { type BusyboxState, busyboxState } from '../support/busybox-state.ts';
import { eventually } from '../support/eventually.ts';

let state: BusyboxState;
test.before(async () => {
  state = await busyboxState();
});
test.after.always(async () => {
  await state[Symbol.asyncDispose]();
});

const kiln = (...words: string[]) => state.kiln(words);
const RUN = ['run', '-r', 'busybox'];

/** Waits until the command of a sandbox has come to a place. */
const begun = (name: string) =>
  eventually(async () => {
    const { exitCode } = await kiln('exec', name, '--', 'test', '-e', '/tmp/begun');
    return exitCode === 0;
  });

const LOOP = 'touch /tmp/begun; while true; do sleep 0.1; done';

const listed = async () => JSON.parse(String((await kiln('ps', '--json')).stdout));

test.serial('what runs gets SIGTERM, and its run exits with its own status', async (t) => {
  const script = `trap "echo asked; exit 7" TERM; ${LOOP}`;
  const run = kiln(...RUN, '--name', 'asked', '--', 'sh', '-c', script);
  await begun('asked');
  const stopped = await kiln('stop', 'asked');
  t.is(stopped.exitCode, 0, String(stopped.stderr));
  t.regex(String(stopped.stderr), /^kiln: sandbox asked ended$/);
  const { exitCode, stdout } = await run;
  t.is(exitCode, 7);
  t.is(stdout, 'asked');
  t.deepEqual(await listed(), []);
});

test.serial('what does not end is killed after --time', async (t) => {
  const run = kiln(...RUN, '--name', 'stubborn', '--', 'sh', '-c', `trap "" TERM; ${LOOP}`);
  await begun('stubborn');
  const began = Date.now();
  const stopped = await kiln('stop', '--time', '1s', 'stubborn');
  t.true(Date.now() - began >= 1000);
  t.regex(String(stopped.stderr), /^kiln: sandbox stubborn did not end within 1s and was killed$/);
  t.is((await run).exitCode, 125);
  t.deepEqual(await listed(), []);
});

test.serial('a kept sandbox goes, with what a command left in it', async (t) => {
  const kept = await kiln(...RUN, '--keep', '--name', 'kept', '--', 'true');
  t.is(kept.exitCode, 0, String(kept.stderr));
  const [{ id }] = await listed();
  t.is((await kiln('exec', id, '--', 'sh', '-c', 'sleep 1000 >/dev/null 2>&1 &')).exitCode, 0);
  const rows = String((await kiln('top', 'kept', '--format', '{{.User}} {{.Command}}')).stdout);
  t.is(rows, 'build sleep 1000');
  t.is((await kiln('stop', id)).stdout, id);
  t.deepEqual(await listed(), []);
  const none = await kiln('stop', 'kept');
  t.is(none.exitCode, 125);
  t.regex(String(none.stderr), /there is no sandbox kept \[E_NO_SANDBOX\]/);
});

test.serial('a job is stopped in its own way, and its status is said', async (t) => {
  if (process.env.KILN_FROM_SOURCE !== '') return void t.pass('jobs are the daemon’s');
  const script = 'trap "exit 9" TERM; while true; do sleep 0.1; done';
  const job = await kiln(...RUN, '--detach', '--name', 'nightly', '--', 'sh', '-c', script);
  t.is(job.exitCode, 0, String(job.stderr));
  await eventually(async () => String((await kiln('top', 'nightly')).stdout).includes('sleep 0.1'));
  const stopped = await kiln('stop', 'nightly');
  t.is(stopped.stdout, job.stdout);
  t.regex(String(stopped.stderr), /^kiln: job nightly ended with status 9$/);
  t.is((await kiln('wait', 'nightly')).exitCode, 9);
  const deaf = [
    '--detach',
    '--name',
    'stubborn',
    '--',
    'sh',
    '-c',
    'trap "" TERM; while true; do sleep 0.1; done',
  ];
  await kiln(...RUN, ...deaf);
  await eventually(async () =>
    String((await kiln('top', 'stubborn')).stdout).includes('sleep 0.1'),
  );
  const killed = await kiln('stop', '-t', '500ms', 'stubborn');
  t.regex(String(killed.stderr), /did not end within 0\.5s and was killed, with status 137/);
});

test.serial('top and stats say what /proc and the control group say', async (t) => {
  const script = 'head -c 30000000 /dev/zero >/tmp/file; sleep 1001 & sleep 1002; true';
  const words = ['--keep', '--memory', '64M', '--user', '1000', '--', 'sh', '-c', script];
  const run = state.kiln([...RUN, '--name', 'busy', ...words]);
  const processes = async () => JSON.parse(String((await kiln('top', 'busy', '--json')).stdout));
  const sleeps = await eventually(async () => {
    const found = (await processes()).filter(({ command }: { command: string[] }) =>
      command.join(' ').startsWith('sleep 100'),
    );
    return found.length === 2 && found;
  });
  for (const { hostPid, pid, uid, parent } of sleeps) {
    t.regex(readFileSync(`/proc/${hostPid}/cmdline`, 'latin1'), /^sleep\x00100[12]\x00$/);
    const status = readFileSync(`/proc/${hostPid}/status`, 'latin1');
    t.is(Number(/^NSpid:.*\t(\d+)$/m.exec(status)?.[1]), pid);
    t.is(uid, 1000);
    t.true(parent > 1);
  }
  const shown = await kiln('stats', '--no-stream', '--json', 'busy');
  const [stats, ...others] = JSON.parse(String(shown.stdout));
  t.deepEqual(others, []);
  t.like(stats, { name: 'busy', state: 'running', pids: 3, memoryLimitBytes: 64 << 20 });
  t.true(stats.sizeBytes >= 30_000_000 && stats.sizeBytes < 31_000_000, String(stats.sizeBytes));
  t.true(stats.memoryBytes > stats.sizeBytes && stats.memoryBytes < 64 << 20);
  t.true(stats.cpuPercent >= 0 && stats.cpuPercent < 50);
  const table = String((await kiln('stats', '--no-stream')).stdout);
  t.regex(table, /^ID +NAME +CPU +MEMORY +LIMIT +PIDS +DISK +STATE\n\w{10} +busy +\d+\.\d% /);
  t.is((await kiln('stats', '--no-stream', '--format', '{{.Name}} {{.Pids}}')).stdout, 'busy 3');
  await kiln('stop', 'busy');
  t.is((await run).exitCode, 143);
});

test.serial('stats go on until there is nothing left to tell', async (t) => {
  await kiln(...RUN, '--keep', '--name', 'short', '--', 'true');
  const stats = state.kiln(['stats', 'short', '--format', '{{.Name}} {{.State}}']);
  let said = '';
  stats.stdout?.on('data', (chunk: Buffer) => {
    said += chunk.toString();
  });
  await eventually(async () => said.split('\n').length > 2);
  await kiln('kill', 'short');
  t.is((await stats).exitCode, 0);
  t.regex(said, /^(?:short kept\n)+$/);
});

test.serial('a command cannot pass for another’s process, or for no process', async (t) => {
  // What a process calls itself is its own; control characters are not printed.
  const script = 'exec -a "$(printf "\\033[31mred")" sleep 1003';
  await kiln(...RUN, '--keep', '--name', 'liar', '--', 'true');
  const started = await kiln('exec', 'liar', '--', 'sh', '-c', `(${script}) >/dev/null 2>&1 &`);
  t.is(started.exitCode, 0, String(started.stderr));
  const table = String((await kiln('top', 'liar')).stdout);
  t.false(table.includes('\x1b'), JSON.stringify(table));
  await kiln('kill', 'liar');
});
