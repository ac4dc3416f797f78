/** Who ran what, as `kiln events` tells it: looked for in the state, with `kiln ps`, and by killing processes. */
import { spawn } from 'node:child_process';
import {
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { createServer, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import anyTest, { type ExecutionContext, type TestFn } from 'ava';
import type { KilnEvent } from '../../src/events/event.ts';
import { attempt } from '../../src/host/calls/libc.ts';
import { IMAGE, KILN, PATIENCE } from '../support/busybox-state.ts';
import { daemonPid, plainEnvironment, workersOf } from '../support/daemon.ts';
import { eventually, until } from '../support/eventually.ts';
import { OTHER, USER, type UserState, userState } from '../support/second-user.ts';

const test = anyTest as TestFn<UserState>;
const RUN = ['run', '-r', 'busybox'];
/** What a test looks for begins at its own time: others have run before it. */
const ALL = ['events', '--json'];

test.before(async (t) => {
  t.context = await userState();
});
test.after.always(async ({ context }) => {
  await context[Symbol.asyncDispose]();
});

const linesIn = (text: unknown): KilnEvent[] =>
  String(text)
    .split('\n')
    .filter((line) => line !== '')
    .map((line) => JSON.parse(line));

/** The events of the command with this word in its arguments. */
async function eventsOf({ context }: ExecutionContext<UserState>, word: string) {
  const events = linesIn((await context.kiln(ALL)).stdout);
  const ids = events.filter(({ argv = [] }) => argv.includes(word)).map(({ id }) => id);
  return events.filter(({ id }) => ids.includes(id));
}

test.serial(
  'kiln events has the start and the end of kiln run, with what it was given',
  async (t) => {
    const { kiln, beside } = t.context;
    const ran = await kiln([
      ...RUN,
      '--bind',
      `${beside}:/b:ro`,
      '--',
      'sh',
      '-c',
      'exit 3',
      'bound',
    ]);
    t.is(ran.exitCode, 3);
    const [start, end, ...more] = await eventsOf(t, 'bound');
    t.deepEqual(more, []);
    const { id, sandbox = '', time, ...about } = start ?? ({} as KilnEvent);
    t.regex(id, /^[0-9a-f]{10}$/);
    t.regex(sandbox, /^[0-9a-f]{10}$/);
    t.true(Math.abs(Date.parse(time) - Date.now()) < 60_000 * PATIENCE);
    t.deepEqual(about, {
      ...{ event: 'start', uid: 0, user: 'root', command: 'run', by: 'command', image: IMAGE },
      ...{ isolation: 'container', network: 'private', binds: [`${beside}:/b:ro`] },
      argv: ['sh', '-c', 'exit 3', 'bound'],
    });
    const { duration = -1, time: ended = '', ...rest } = end ?? ({} as KilnEvent);
    t.true(duration >= 0 && ended >= time);
    t.deepEqual(rest, {
      ...about,
      id,
      sandbox,
      event: 'end',
      outcome: 'ended',
      status: 3,
    } as never);
  },
);

test.serial('kiln events names the limit and the failure that ended kiln run', async (t) => {
  const { kiln } = t.context;
  await kiln([...RUN, '--timeout', '300ms', '--', 'sleep', '77']);
  const [, limited] = await eventsOf(t, '77');
  t.like(limited, { outcome: 'ended', status: 124, limit: 'timeout' });
  await kiln([...RUN, '--', 'no-such-program']);
  const [, failed] = await eventsOf(t, 'no-such-program');
  t.like(failed, { outcome: 'failed', status: 127, code: 'E_COMMAND_NOT_FOUND' });
  await kiln(['image', 'rm', 'no-such-image']);
  const [started, missed] = await eventsOf(t, 'no-such-image');
  t.like(started, { event: 'start', command: 'image rm' });
  t.like(missed, { event: 'end', status: 125, code: 'E_IMAGE_MISSING' });
});

test.serial('kiln events tells of kiln shell, exec and detached jobs', async (t) => {
  const { kiln } = t.context;
  const { stdout } = await kiln([...RUN, '--detach', '--name', 'long', '--', 'sleep', '88']);
  const job = String(stdout).trim();
  t.is((await kiln(['exec', 'long', '--', 'echo', 'inside'])).stdout, 'inside');
  const [start, end] = await eventsOf(t, 'inside');
  const [own] = await eventsOf(t, '88');
  // The oracle: what `kiln ps` says of the sandbox.
  t.regex(String((await kiln(['ps'])).stdout), new RegExp(own?.sandbox ?? 'none'));
  t.like(own, { command: 'run', job });
  t.like(start, { command: 'exec', sandbox: own?.sandbox, image: IMAGE, isolation: 'container' });
  t.like(end, { event: 'end', status: 0 });
  await kiln(['kill', 'long']);
  await kiln(['wait', 'long']);
  t.like((await eventsOf(t, '88')).at(-1), { event: 'end', job });
  t.like((await eventsOf(t, 'long')).at(-1), { command: 'kill', outcome: 'ended', status: 0 });
});

test.serial('kiln events names the file that a build was asked for', async (t) => {
  const { kiln, beside } = t.context;
  const file = join(beside, 'named.yaml');
  writeFileSync(file, 'image: busybox\nsteps: ["true"]\n');
  const built = await kiln(['build', file, '--resultdir', join(beside, 'named')]);
  t.is(built.exitCode, 0, String(built.stderr));
  const [start] = await eventsOf(t, file);
  t.like(start, { command: 'build', argv: ['kiln build', file] });
});

test.serial(
  'kiln events names the failure of a build, though its exit status is its own',
  async (t) => {
    const { kiln, beside } = t.context;
    const file = join(beside, 'failing.yaml');
    writeFileSync(file, 'image: busybox\nsteps: ["exit 3"]\n');
    const built = await kiln(['build', file, '--resultdir', join(beside, 'failing')]);
    t.is(built.exitCode, 3);
    const [, end] = await eventsOf(t, file);
    const code = /\[(E_\w+)\]/.exec(String(built.stderr))?.[1];
    t.like(end, { event: 'end', outcome: 'failed', status: 3, code: code ?? 'none told' });
  },
);

test.serial('kiln events shows users their own events, and root the refusals of all', async (t) => {
  const { as, kiln } = t.context;
  await as(USER, [...RUN, '--', 'echo', 'of-the-user']);
  await as(OTHER, [...RUN, '--', 'echo', 'of-the-other']);
  const refused = await as(USER, [
    ...RUN,
    '--network',
    'host',
    '--allow-host-network',
    '--',
    'true',
  ]);
  t.is(refused.exitCode, 125);
  await as(USER, ['service', 'list']);
  const own = linesIn((await as(USER, ALL)).stdout);
  t.deepEqual([...new Set(own.map(({ uid }) => uid))], [USER.uid]);
  t.deepEqual(
    own.map(({ event, command, code }) => [event, command, code ?? '']),
    [
      ['start', 'run', ''],
      ['end', 'run', ''],
      ['refused', 'run', 'E_FORBIDDEN'],
      ['refused', 'service list', 'E_FORBIDDEN'],
    ],
  );
  const all = linesIn((await kiln(['events', '--format', 'json'])).stdout);
  for (const { uid } of [USER, OTHER]) t.true(all.some((event) => event.uid === uid));
  t.deepEqual(
    all.map(({ time }) => time),
    all.map(({ time }) => time).toSorted(),
  );
  // Nobody else reads the files.
  const folder = join(t.context.paths.root, 'events');
  t.is(statSync(folder).mode & 0o777, 0o700);
  for (const name of readdirSync(folder)) t.is(statSync(join(folder, name)).mode & 0o077, 0);
});

test.serial('kiln events tells of snapshots, and of what is made of them', async (t) => {
  const { as, beside, kiln } = t.context;
  mkdirSync(join(beside, 'layered'));
  const since = new Date().toISOString();
  const bind = `${join(beside, 'layered')}:/src:cow`;
  const kept = await kiln([
    ...RUN,
    '--keep',
    '--bind',
    bind,
    '--user',
    'root',
    '--',
    'touch',
    '/src/a',
  ]);
  const id = /kept as (\w+)/.exec(String(kept.stderr))?.[1] ?? '';
  const text = async (...words: string[]) => String((await kiln(words)).stdout);
  const snapshot = await text('snapshot', id, 'evented');
  const forks = (await text('fork', 'evented', '-n', '2')).split('\n');
  await text('run', '--from', 'evented', '--', 'true');
  await text('rollback', id);
  await text('apply', id, '/src');
  await text('discard', id, '/src');
  const image = await text('image', 'commit', 'evented', '--name', 'committed');
  await text('kill', id, ...forks);
  await text('snapshot', 'rm', 'evented');
  await text('snapshot', 'ls');
  await as(USER, ['snapshot', id]);
  const events = linesIn(await text('events', '--json', '--since', since)).filter(
    ({ event, command }) => event === 'end' && command !== 'kill',
  );
  const found = events.map(({ command, argv = [], code, ...about }) => {
    const { sandbox, sandboxes, snapshot: of } = about;
    const known = [
      sandbox === id && 'sandbox',
      of === snapshot && 'snapshot',
      sandboxes && 'forks',
    ];
    return [command, argv.join(' '), known.filter(Boolean).join(' '), code ?? ''].join(': ');
  });
  t.deepEqual(found, [
    'run: touch /src/a: sandbox: ',
    `snapshot: ${id} evented: sandbox snapshot: `,
    'fork: evented: snapshot forks: ',
    'run: true: snapshot: ',
    `rollback: ${id}: sandbox snapshot: `,
    `apply: ${id} /src: sandbox: `,
    `discard: ${id} /src: sandbox: `,
    'image commit: evented: snapshot: ',
    'snapshot rm: evented: : ',
    `snapshot: ${id}: : E_NO_SANDBOX`,
  ]);
  const [, , forked, , , , , committed] = events;
  t.deepEqual(forked?.sandboxes?.toSorted(), forks.toSorted());
  t.is(committed?.image, image);
  t.is(events.at(-1)?.uid, USER.uid);
  const lines = await text('events', '--since', since);
  t.regex(
    lines,
    new RegExp(`fork ended .* in sandboxes ${forks[0]} ${forks[1]} with snapshot ${snapshot}`),
  );
  t.notRegex(lines, /undefined/);
});

test.serial(
  'kiln events has a line for each host that a sandbox reached or was denied',
  async (t) => {
    const server: Server = createServer((_, response) => response.end('served'));
    server.listen(0, '127.0.0.1');
    await new Promise((resolve) => server.once('listening', resolve));
    const { port } = server.address() as AddressInfo;
    const script = `busybox wget -qO- http://127.0.0.1:${port}/; busybox wget -qO- http://denied.example/`;
    const egress = ['--egress', `127.0.0.1:${port}`];
    await t.context.kiln([...RUN, ...egress, '--', 'sh', '-c', script, 'reaching']);
    server.close();
    server.closeAllConnections();
    const told = (await eventsOf(t, 'reaching')).map(({ event, host, decision, count, message }) =>
      event === 'egress' ? [host, decision, count, message] : event,
    );
    t.deepEqual(told, [
      'start',
      ['127.0.0.1', 'allowed', 1, undefined],
      ['denied.example', 'denied', 1, 'not on the list'],
      'end',
    ]);
  },
);

test.serial('kiln events -f prints what comes, and ends by ^C', async (t) => {
  const { kiln, env } = t.context;
  const following = spawn(KILN, ['events', '-f'], { env, stdio: ['ignore', 'pipe', 'inherit'] });
  const lines: string[] = [];
  createInterface({ input: following.stdout }).on('line', (line) => lines.push(line));
  await eventually(async () => {
    await kiln([...RUN, '--', 'echo', 'followed']);
    return lines.some((line) => /root run ended with status 0 .*: echo followed$/.test(line));
  });
  following.kill('SIGINT');
  t.true(await until(() => following.exitCode !== null || following.signalCode !== null));
  t.deepEqual(
    lines.filter((line) => /bound|of-the-user/.test(line)),
    [],
    'what came before is not printed',
  );
});

test.serial('a command whose process was killed is lost, and told of once', async (t) => {
  const { kiln, paths } = t.context;
  const lost = async (word: string) => (await eventsOf(t, word)).filter(isLost);
  const isLost = ({ outcome }: KilnEvent) => outcome === 'lost';
  // In a worker, whose end kilnd notices.
  const before = new Set(workersOf(paths.root));
  await kiln([...RUN, '--detach', '--', 'sleep', '991']);
  const worker = workersOf(paths.root).filter((pid) => !before.has(pid));
  // One that was idle may have ended by itself.
  for (const pid of [...before, ...worker]) attempt(() => process.kill(pid, 'SIGKILL'));
  await eventually(async () => (await lost('991')).length > 0);
  // In kilnd itself, whose end the next one notices.
  const { KILN_CONFIG } = t.context.env;
  const env = { ...plainEnvironment(t.context.env), KILN_CONFIG };
  const running = kiln([...RUN, '--', 'sleep', '992'], { env, extendEnv: false });
  await eventually(async () => (await eventsOf(t, '992')).length > 0);
  process.kill(daemonPid(paths.root) ?? 0, 'SIGKILL');
  await running;
  await eventually(async () => (await lost('992')).length > 0);
  await kiln(['gc']);
  await kiln(['ps']);
  const [once, ...more] = await lost('991');
  t.like(once, { event: 'end', command: 'run', image: IMAGE });
  t.deepEqual([more.length, (await lost('992')).length], [0, 1]);
});

test.serial('kiln events says of what has failed or was refused what it was about', async (t) => {
  const { as, kiln } = t.context;
  const since = new Date().toISOString();
  await kiln(['service', 'reload', '--unit', 'none.service']);
  await kiln(['gc', '--max-age', '99w', '--dry-run']);
  await kiln(['exec', 'nobody', '--', 'echo', 'never']);
  await kiln(['run', '-r', 'no-such-image', '--', 'echo', 'nowhere']);
  await as(USER, ['service', 'stop', 'of-root']);
  const told = linesIn((await kiln([...ALL, '--since', since])).stdout);
  t.deepEqual(
    told
      .filter(({ event }) => event !== 'start')
      .map(({ uid, event, command, argv = [] }) => [uid, event, command, ...argv].join(' ')),
    [
      '0 end service reload --unit none.service',
      '0 end gc --max-age 99w --dry-run',
      '0 end exec nobody -- echo never',
      '0 end run echo nowhere',
      `${USER.uid} refused service stop of-root`,
    ],
  );
});

test.serial('kiln events names files as their caller did, a line each', async (t) => {
  const { kiln, as, beside, paths } = t.context;
  const at = (name: string) => join(beside, name);
  writeFileSync(at('good.yaml'), 'image: busybox\nsteps:\n  - run: echo made\n');
  writeFileSync(at('bad.yaml'), 'image: busybox\nstep: []\n');
  writeFileSync(at('bad.ext4'), 'no file system');
  const disk = `type=image,source=${at('bad.ext4')},target=/x`;
  const since = Date.now();
  for (const name of ['good.yaml', 'bad.yaml', 'none.yaml']) {
    await kiln(['build', at(name), '--resultdir', at(`of-${name}`)]);
    await as(USER, ['build', at(name), '--resultdir', `/tmp/of-${name}`]);
  }
  await kiln([...RUN, '--copy-in', `${at('none')}:/x`, '--', 'true']);
  await kiln([...RUN, '--mount', disk, '--', 'echo', 'mounted']);
  const text = String((await kiln(['events', '--since', '10m'])).stdout);
  t.false(text.includes(`${paths.root}/`), text);
  const events = linesIn((await kiln(ALL)).stdout).filter(({ time }) => Date.parse(time) >= since);
  const told = events.map(({ event, uid, argv, code }) => [event, uid, code, ...(argv ?? [])]);
  for (const uid of [0, USER.uid]) {
    t.true(
      told.some((one) => one.join() === `start,${uid},,kiln build,${at('good.yaml')}`),
      text,
    );
  }
  const [failed] = events.filter(({ code }) => code === 'E_RECIPE');
  t.true(failed?.message?.startsWith(`recipe ${at('bad.yaml')} has `), failed?.message);
  t.true(events.some(({ message }) => message?.startsWith(`"${at('none')}" cannot be copied`)));
  // What unpacks a disk for a command is not the command.
  t.like(events.at(-1), { event: 'end', code: 'E_BIND' });
  t.is(events.at(-1)?.sandbox, undefined);
  const lines = String((await kiln(['events'])).stdout).split('\n');
  t.deepEqual(
    lines.filter((line) => !/^\d{4}-\S+Z \S+ /.test(line)),
    [],
  );
});

test.serial('half an event’s line is skipped, and the next event is read whole', async (t) => {
  const { kiln, paths } = t.context;
  const file = join(paths.root, 'events/0.jsonl');
  const whole = readFileSync(file);
  writeFileSync(file, Buffer.concat([whole, Buffer.from('{"event":"start","id":"0123')]));
  await kiln([...RUN, '--', 'echo', 'after-the-tear']);
  t.deepEqual(
    (await eventsOf(t, 'after-the-tear')).map(({ event }) => event),
    ['start', 'end'],
  );
  t.true(linesIn((await kiln(ALL)).stdout).length > 5);
});

test.serial('events that cannot be written hinder no command', async (t) => {
  const { kiln, paths } = t.context;
  const folder = join(paths.root, 'events');
  // At once: the end of a command before may still be written.
  renameSync(folder, `${folder}.before`);
  writeFileSync(folder, 'no folder');
  t.is((await kiln([...RUN, '--', 'echo', 'all the same'])).stdout, 'all the same');
  t.is((await kiln(ALL)).exitCode, 0);
  rmSync(folder);
  rmSync(`${folder}.before`, { recursive: true });
  await kiln([...RUN, '--', 'true']);
  t.true(existsSync(join(folder, '0.jsonl')));
});

test('kiln events refuses an invalid time', async (t) => {
  const { exitCode, stderr } = await t.context.kiln(['events', '--since', 'yesterday']);
  t.is(exitCode, 125);
  t.regex(String(stderr), /not a time: write it as 10m/);
});
