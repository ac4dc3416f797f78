/** `kiln exec`, and `kiln shell ID`: further commands in sandboxes that run or were kept. */
import { existsSync, readFileSync } from 'node:fs';
import { mkdir, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import anyTest, { type TestFn } from 'ava';
import { execa } from 'execa';
import { MAIN, PATIENCE } from '../support/busybox-state.ts';
import { daemonPid } from '../support/daemon.ts';
import { eventually, until } from '../support/eventually.ts';
import { OTHER, USER, type UserState, userState } from '../support/second-user.ts';

const test = anyTest as TestFn<UserState>;
const IMAGE = ['-r', 'busybox'];
const WAIT = 'until test -e /tmp/end; do sleep 0.1; done';

test.before(async (t) => {
  t.context = await userState('  limits:\n    sandboxes: 2\n');
});
test.after.always(async ({ context }) => {
  await context[Symbol.asyncDispose]();
});

interface Listed {
  readonly id: string;
  readonly state: string;
  readonly record: { readonly command?: readonly string[] };
}

async function sandboxes({ kiln }: UserState, ...words: string[]): Promise<Listed[]> {
  return JSON.parse(String((await kiln(['ps', '--json', ...words])).stdout)) as Listed[];
}

/** The one whose command has this word. */
async function running(state: UserState, word: string): Promise<string> {
  return await eventually(async () => {
    const all = await sandboxes(state);
    return all.find(({ record }) => record.command?.some((one) => one.includes(word)))?.id;
  });
}

test.serial('exec enters a detached job: user, environment, input, status, policy', async (t) => {
  const { kiln } = t.context;
  const started = await kiln([
    ...['run', ...IMAGE, '--detach', '--name', 'nightly', '-e', 'OF_RUN=1', '-w', '/tmp'],
    ...['--', 'sh', '-c', `touch main; ${WAIT}`],
  ]);
  t.is(started.exitCode, 0, String(started.stderr));
  t.regex(String((await kiln(['complete', 'sandbox'])).stdout), /^nightly\trunning run -r /m);
  const script = 'echo $OF_RUN $MINE $FROM_IMAGE; id -u; pwd; ls; echo err >&2; exit 3';
  const seen = await kiln(['exec', '-it', '-e', 'MINE=2', 'nightly', '--', 'sh', '-c', script]);
  t.is(seen.exitCode, 3, String(seen.stderr));
  t.deepEqual(String(seen.stdout).split(/\r?\n/), ['1 2 yes', '1000', '/tmp', 'main', 'err']);
  const plain = await kiln(['exec', 'nightly', 'sh', '-c', 'echo out; echo err >&2']);
  t.deepEqual([plain.stdout, plain.stderr], ['out', 'err']);
  const echoed = await kiln(['exec', 'nightly', 'cat'], { input: 'in\n', stdin: 'pipe' });
  t.is(echoed.stdout, 'in');
  // /dev/null, which has ended before the command starts.
  t.is((await kiln(['exec', 'nightly', 'cat'])).exitCode, 0, 'cat waits for input for ever');
  const many = await kiln(['exec', 'nightly', '--', 'dd', 'if=/dev/zero', 'bs=1M', 'count=20'], {
    encoding: 'buffer',
  });
  t.is((many.stdout as unknown as Buffer).length, 20 << 20);
  const root = await kiln([
    'exec',
    '-u',
    'root',
    '-w',
    '/',
    'nightly',
    '--',
    'sh',
    '-c',
    'id -u; pwd',
  ]);
  t.is(root.stdout, '0\n/');
  const status = ['grep', '-E', '^(Seccomp|NoNewPrivs|CapEff|CapBnd):', '/proc/self/status'];
  const policy = String((await kiln(['exec', 'nightly', '--', ...status])).stdout);
  t.regex(policy, /CapEff:\t0+\nCapBnd:\t0+\nNoNewPrivs:\t1\nSeccomp:\t2/);
  t.regex(String((await kiln(['exec', 'nightly', '--', 'ls', '/proc'])).stdout), /^\d+$/m);
  const net = ['exec', 'nightly', '--', 'sh', '-c', 'tail -n +3 /proc/net/dev | wc -l'];
  t.is((await kiln(net)).stdout, '1', 'lo only');
  const missing = await kiln(['exec', 'nightly', 'nothing-of-this-name']);
  t.is(missing.exitCode, 127, String(missing.stderr));
  const nobody = await kiln(['exec', '-u', 'nobody-here', 'nightly', 'true']);
  t.regex(String(nobody.stderr), /has no user nobody-here/);
  // It ends the command that it is beside, whose status is its own.
  t.is((await kiln(['exec', 'nightly', 'touch', '/tmp/end'])).exitCode, 0);
  t.is((await kiln(['wait', 'nightly'])).exitCode, 0);
  t.regex(
    String((await kiln(['exec', 'nightly', 'true'])).stderr),
    /job nightly ended with status 0/,
  );
});

test.serial('exec enters a run in the foreground, and ends with it', async (t) => {
  const { kiln, beside } = t.context;
  await mkdir(join(beside, 'out'), { recursive: true });
  const run = kiln([
    ...[
      'run',
      ...IMAGE,
      '--artifact',
      'late',
      '--workdir',
      '/tmp',
      '--resultdir',
      join(beside, 'out'),
    ],
    ...['--', 'sh', '-c', `echo first >late; : foreground; ${WAIT}`],
  ]);
  const id = await running(t.context, 'foreground');
  const gone = kiln(['exec', id, '--', 'sh', '-c', 'touch /tmp/is-there; sleep 1000']);
  await eventually(async () => {
    return (await kiln(['exec', id, 'test', '-e', '/tmp/is-there'])).exitCode === 0;
  });
  // A caller that goes takes its command with it, and the ends of its pipes: the shell tells of signals.
  const given = kiln([
    'exec',
    id,
    '--',
    'sh',
    '-c',
    'exec 2>/dev/null; trap "touch /tmp/hup; exit" HUP TERM; touch /tmp/b; while :; do sleep 0.1; done',
  ]);
  await eventually(async () => (await kiln(['exec', id, 'test', '-e', '/tmp/b'])).exitCode === 0);
  given.kill('SIGKILL');
  await given;
  await eventually(async () => (await kiln(['exec', id, 'test', '-e', '/tmp/hup'])).exitCode === 0);
  t.is((await kiln(['exec', id, '--', 'sh', '-c', 'echo last >late; touch /tmp/end'])).exitCode, 0);
  t.is((await run).exitCode, 0);
  t.is((await gone).exitCode, 137);
  t.is(await readFile(join(beside, 'out/late'), 'utf8'), 'last\n');
  // It is removed once its caller knows its end.
  t.true(await until(() => !existsSync(join(t.context.paths.sandboxes, id))));
});

test.serial('exec does not wait for processes that a command leaves with its output', async (t) => {
  const { kiln } = t.context;
  const kept = await kiln(['run', ...IMAGE, '--keep=1h', '--', 'true']);
  const id = /kept as (\w+)/.exec(String(kept.stderr))?.[1] ?? '';
  const exec = (words: readonly string[], more = {}) =>
    kiln(['exec', ...words], { timeout: 20_000 * PATIENCE, ...more });
  const script = 'sleep 900 & dd if=/dev/zero bs=1M count=3; echo err >&2; exit 3';
  const seen = await exec([id, '--', 'sh', '-c', script]);
  t.is(seen.exitCode, 3, 'it waits for sleep');
  t.is(String(seen.stdout).length, 3 << 20);
  t.regex(String(seen.stderr), /^err$/m);
  // It writes for ever, more than anybody reads.
  const busy = await exec([id, '--', 'sh', '-c', 'yes & exit 4'], { stdout: 'ignore' });
  t.is(busy.exitCode, 4);
  const held = 'trap "" HUP; sleep 901 & echo out; exit 5';
  const terminal = await exec(['-t', id, '--', 'sh', '-c', held]);
  t.deepEqual([terminal.exitCode, terminal.stdout], [5, 'out']);
  // Without the daemon, to a reader that is slow: all that was written before the end.
  const much = ['exec', id, '--', 'sh', '-c', 'sleep 902 & yes | head -c 900000; exit 6'];
  const slow = '"$@" | { sleep 3; wc -c; }';
  const direct = await execa('sh', ['-c', slow, 'sh', process.execPath, MAIN, ...much], {
    env: t.context.env,
    timeout: 20_000 * PATIENCE,
  });
  t.is(direct.stdout.trim(), '900000');
  const ps = String((await kiln(['exec', id, 'ps'])).stdout);
  t.regex(ps, /sleep 900/);
  t.regex(ps, /sleep 901/);
  t.is((await kiln(['kill', id])).exitCode, 0);
});

/** What the daemon, whose thread holds sandboxes of runs, has read and written, and has in memory: bytes. */
function daemonUse({ paths }: UserState): { readonly moved: number; readonly resident: number } {
  const pid = daemonPid(paths.root);
  const number = (file: string, name: string) =>
    Number(
      new RegExp(`^${name}:\\s+(\\d+)`, 'm').exec(
        readFileSync(`/proc/${pid}/${file}`, 'utf8'),
      )?.[1],
    );
  return {
    moved: number('io', 'rchar') + number('io', 'wchar'),
    resident: number('status', 'VmRSS') * 1024,
  };
}

test.serial('a gigabyte of exec’s output does not pass through the daemon', async (t) => {
  const { kiln } = t.context;
  const run = kiln(['run', ...IMAGE, '--workdir', '/tmp', '--', 'sh', '-c', `: output; ${WAIT}`]);
  const id = await running(t.context, 'output');
  t.is((await kiln(['exec', id, 'true'])).exitCode, 0);
  const before = daemonUse(t.context);
  const dd = ['dd', 'if=/dev/zero', 'bs=1M', 'count=1024'];
  const [counted] = await Promise.all([
    kiln(['exec', id, '--', ...dd], { stdout: 'ignore' }),
    kiln(['exec', id, '--', 'sh', '-c', `${dd.join(' ')} >&2`], { stderr: 'ignore' }),
  ]);
  t.regex(String(counted.stderr), /1024\+0 records out/);
  const after = daemonUse(t.context);
  const moved = after.moved - before.moved;
  t.true(moved < 32 << 20, `${moved} bytes read and written`);
  const bytes = after.resident - before.resident;
  t.true(bytes < 32 << 20, `${bytes} bytes`);
  await kiln(['exec', id, 'touch', '/tmp/end']);
  t.is((await run).exitCode, 0);
});

test.serial('a kept sandbox takes several commands at once, and is kept again', async (t) => {
  const { kiln } = t.context;
  const kept = await kiln(['run', ...IMAGE, '--keep=1h', '--', 'touch', '/tmp/of-run']);
  const [, id = ''] = /kept as (\w+)/.exec(String(kept.stderr)) ?? [];
  const first = kiln(['exec', id, '--', 'sh', '-c', `touch /tmp/first; ${WAIT}; exit 4`]);
  await eventually(
    async () => (await kiln(['exec', id, 'test', '-e', '/tmp/first'])).exitCode === 0,
  );
  const shell = await kiln(['shell', id], { input: 'ls /tmp\n', stdin: 'pipe' });
  t.is(shell.stdout, 'first\nof-run');
  await kiln(['exec', id.slice(0, 5), 'touch', '/tmp/end']);
  t.is((await first).exitCode, 4);
  await eventually(async () => (await sandboxes(t.context))[0]?.state === 'kept');
  t.is((await kiln(['exec', id, 'ls', '/tmp'])).stdout, 'end\nfirst\nof-run');
  t.is((await kiln(['kill', id])).exitCode, 0);
});

test.serial('short commands at once in a kept sandbox all run', async (t) => {
  const { kiln } = t.context;
  const kept = await kiln(['run', ...IMAGE, '--keep=1h', '--', 'true']);
  const [, id = ''] = /kept as (\w+)/.exec(String(kept.stderr)) ?? [];
  for (let round = 0; round < 5; round++) {
    // Each finds the sandbox kept, or another command of theirs in it that is about to begin or to end.
    const ended = await Promise.all(Array.from({ length: 6 }, () => kiln(['exec', id, 'true'])));
    for (const { exitCode, stderr } of ended) t.is(exitCode, 0, String(stderr));
  }
  t.is((await kiln(['kill', id])).exitCode, 0);
});

test.serial('exec says why it cannot enter a sandbox', async (t) => {
  const { kiln, beside } = t.context;
  const refused = async (id: string, why: RegExp) => {
    const { exitCode, stderr } = await kiln(['exec', id, 'true']);
    t.is(exitCode, 125);
    t.regex(String(stderr), why);
  };
  await refused('ffff', /there is no sandbox ffff \[/);
  const parked = await eventually(async () =>
    (await sandboxes(t.context, '-a')).find(({ state }) => state === 'parked'),
  );
  await refused(parked.id, /takes no further command: it is parked/);
  await kiln(['service', 'create', ...IMAGE, 's1', '--', 'sleep', '1000']);
  const service = await kiln(['service', 'start', 's1']);
  t.is(service.exitCode, 0, String(service.stderr));
  await refused(
    await running(t.context, 's1'),
    /service s1 \[E_\w+\]\n {2}hint: kiln service execute s1/,
  );
  await kiln(['service', 'stop', 's1']);
  const recipe = join(beside, 'slow.yaml');
  await writeFile(recipe, 'image: busybox\nsteps:\n  - touch /tmp/x; sleep 1000\n');
  const build = kiln(['build', recipe, '--resultdir', join(beside, 'built')]);
  const id = await eventually(
    async () => (await sandboxes(t.context)).find(({ state }) => state === 'running')?.id,
  );
  await refused(id, /takes no further command: it is a build’s/);
  build.kill('SIGTERM');
  await build;
});

test.serial('users enter their own sandboxes, which takes no room, and no others', async (t) => {
  const { as, kiln } = t.context;
  const keep = ['run', ...IMAGE, '--keep', '--', 'true'];
  const kept = await as(USER, keep);
  const [, id = ''] = /kept as (\w+)/.exec(String(kept.stderr)) ?? [];
  const job = await as(USER, ['run', ...IMAGE, '--detach', '--', 'sh', '-c', WAIT]);
  t.is(job.exitCode, 0, String(job.stderr));
  t.is((await as(USER, ['exec', id, 'id', '-u'])).stdout, '1000');
  t.is((await as(USER, ['exec', String(job.stdout), 'id', '-u'])).stdout, '1000');
  for (const one of [id, String(job.stdout)]) {
    t.regex(String((await as(OTHER, ['exec', one, 'true'])).stderr), /there is no sandbox/);
  }
  // It counts as kept while somebody is in it.
  const inside = as(USER, ['exec', id, '--', 'sh', '-c', WAIT]);
  await eventually(async () =>
    (await sandboxes(t.context)).every(({ state }) => state === 'running'),
  );
  await as(USER, ['exec', String(job.stdout), 'touch', '/tmp/end']);
  t.is((await as(USER, ['wait', String(job.stdout)])).exitCode, 0);
  t.is((await as(USER, keep)).exitCode, 0);
  const shell = await as(USER, ['shell', '-rbusybox']);
  t.regex(String(shell.stderr), /a further sandbox beside 2/, 'a new sandbox, in one word');
  const third = await as(USER, keep);
  t.regex(String(third.stderr), /E_FORBIDDEN|a further sandbox beside 2/);
  t.is((await kiln(['kill', '--all'])).exitCode, 0);
  const { exitCode, stderr } = await inside;
  t.is(exitCode, 125, String(stderr));
  t.regex(String(stderr), /E_SANDBOX_GONE/);
});

test.serial('kill --all ends sandboxes together, not one after the other', async (t) => {
  const { kiln, beside } = t.context;
  const keep = ['run', ...IMAGE, '--keep', '--', 'true'];
  for (const { exitCode, stderr } of await Promise.all([1, 2, 3, 4].map(() => kiln(keep)))) {
    t.is(exitCode, 0, String(stderr));
  }
  const trace = join(beside, 'kill-all.json');
  const env = { ...t.context.env, KILN_TRACE: trace };
  const { exitCode, stdout } = await kiln(['kill', '--all'], { env });
  t.is(exitCode, 0);
  t.true(String(stdout).split('\n').length >= 4);
  const text = readFileSync(trace, 'utf8').replace(/,\s*$/, ']');
  const events = JSON.parse(text) as { name: string; ts: number; dur: number }[];
  const waits = events.filter(({ name }) => name === 'wait for the init’s death');
  t.true(waits.length >= 4, JSON.stringify(events));
  const lastBegan = Math.max(...waits.map(({ ts }) => ts));
  const firstEnded = Math.min(...waits.map(({ ts, dur }) => ts + dur));
  t.true(lastBegan < firstEnded, JSON.stringify(waits));
});
