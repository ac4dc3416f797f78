/** The API as systemd's client sees it: nothing of it is kiln's. */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import test from 'ava';
import { limitsOf } from '../doors/outside.ts';
import { type ApiState, apiState, program } from '../support/api.ts';
import { IMAGE } from '../support/busybox-state.ts';
import { until } from '../support/eventually.ts';

let state: ApiState;

test.before(async () => {
  state = await apiState();
});
test.after.always(async () => {
  await state[Symbol.asyncDispose]();
});

const varlinkctl = (...args: string[]) => program('varlinkctl', ['--no-pager', ...args]);

/** Calls a method; what it replies, or the error and its parameters. */
async function call(method: string, parameters: object, ...options: string[]) {
  const text = JSON.stringify(parameters);
  const ran = await varlinkctl('-j', ...options, 'call', state.socket, method, text);
  const error = /failed: (\S+)/.exec(ran.stderr)?.[1];
  const replies = repliesIn(ran.stdout);
  return { error, replies, reply: replies.at(-1) };
}

/** What `varlinkctl -j` has written. */
const repliesIn = (text: string) =>
  text
    .split(/[\n\x1e]/)
    .filter((line) => line.trim() !== '')
    .map((line) => JSON.parse(line));

const kiln = (method: string, parameters: object = {}, ...options: string[]) =>
  call(`io.kiln.${method}`, parameters, ...options);

const decoded = (text: string) => Buffer.from(text, 'base64').toString();

test('the daemon describes itself and its interface', async (t) => {
  const info = await varlinkctl('info', state.socket);
  t.regex(info.stdout, /Vendor: kiln\n.*io\.kiln/s);
  const described = await varlinkctl('introspect', state.socket, 'io.kiln');
  const file = join(import.meta.dirname, '../../src/api/io.kiln.varlink');
  t.is(described.stdout, (await varlinkctl('validate-idl', file)).stdout);
  const service = await varlinkctl('introspect', state.socket, 'org.varlink.service');
  t.regex(service.stdout, /method GetInterfaceDescription\(/);
  t.deepEqual((await kiln('GetVersion')).reply, { kiln: '0.1.0', interface: 1 });
});

test('the reply to a command has its output and how it ended', async (t) => {
  const argv = ['sh', '-c', 'cat; echo $A $FROM_IMAGE >&2; pwd >&2; exit 3'];
  const parameters = {
    image: 'busybox',
    argv,
    env: { A: 'a' },
    input: 'aGVsbG8=',
    workdir: '/tmp',
  };
  const { reply } = await kiln('Run', parameters);
  t.is(decoded(reply.stdout), 'hello');
  t.is(decoded(reply.stderr), 'a yes\n/tmp\n');
  t.deepEqual(reply.result.ended, { exitCode: 3, exitStatus: 3 });
  t.is(reply.result.image.id, IMAGE);
  // What was measured inside, as result.json has it.
  t.is(reply.result.report.policy.noNewPrivileges, true);
});

test('a call with "more" gets events as they happen', async (t) => {
  const gate = join(state.beside, 'gate');
  mkdirSync(gate);
  const wait = 'until test -e /gate/open; do sleep 0.1; done';
  const parameters = {
    image: 'busybox',
    argv: ['sh', '-c', `echo one; ${wait}; echo two; kill -9 $$`],
    surroundings: { binds: [{ source: gate, target: '/gate', readonly: true }] },
  };
  const args = ['--no-pager', '-j', '--more', 'call', state.socket, 'io.kiln.Run'];
  const running = spawn('varlinkctl', [...args, JSON.stringify(parameters)], {
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  let said = '';
  running.stdout.on('data', (chunk: Buffer) => {
    said += String(chunk);
  });
  const closed = once(running, 'close');
  t.true(await until(() => said.includes('"stdout"')), said);
  writeFileSync(join(gate, 'open'), '');
  await closed;
  const replies = repliesIn(said);
  t.deepEqual(
    replies.map((reply) => Object.keys(reply)[0]),
    ['started', 'stdout', 'stdout', 'result'],
  );
  t.deepEqual(
    replies.slice(1, 3).map(({ stdout }) => decoded(stdout)),
    ['one\n', 'two\n'],
  );
  t.deepEqual(replies.at(-1).result.ended, { signal: 'SIGKILL', exitStatus: 137 });
});

test('a command gets the binds, tmpfs, host name and limits that were asked for', async (t) => {
  const surroundings = {
    binds: [{ source: state.beside, target: '/shared', readonly: true }],
    tmpfs: [{ target: '/mem', size: 1 << 20 }],
    hostname: 'other',
    pids: 7,
    memory: 64 << 20,
  };
  const script = 'hostname; touch /shared/x; echo y >/mem/y && cat /mem/y';
  const { reply } = await kiln('Run', {
    image: 'busybox',
    argv: ['sh', '-c', script],
    surroundings,
  });
  t.is(decoded(reply.stdout), 'other\ny\n');
  t.regex(decoded(reply.stderr), /Read-only/);
  t.like(reply.result.report.policy.limits, { pids: 7, memory: 64 << 20 });
});

test('a time limit ends a command, and the result says so', async (t) => {
  const { reply } = await kiln('Run', { image: 'busybox', argv: ['sleep', '60'], timeout: 300 });
  t.like(reply.result.ended, { limit: 'timeout', exitStatus: 124 });
});

test('a worker runs long jobs, and their artifacts come out', async (t) => {
  const resultDirectory = join(state.beside, 'out');
  const argv = ['sh', '-c', 'echo made >made; cat'];
  const wanted = { workdir: '/tmp', artifacts: ['made'], resultDirectory, input: 'aGk=' };
  const { replies } = await kiln('Run', { image: 'busybox', argv, ...wanted }, '--more');
  t.deepEqual(replies.at(-1).result.artifacts, ['made']);
  t.is(readFileSync(join(resultDirectory, 'made'), 'utf8'), 'made\n');
  t.is(JSON.parse(readFileSync(join(resultDirectory, 'result.json'), 'utf8')).exitStatus, 0);
  t.true(replies.some(({ stdout }) => stdout === 'aGk='));
});

test('errors have a code, a message and a hint; unknown and missing fields are errors', async (t) => {
  const missing = await kiln('Run', { image: 'busybx', argv: ['true'] });
  t.is(missing.error, 'io.kiln.Failed');
  t.like(missing.reply, { code: 'E_IMAGE_MISSING' });
  t.regex(missing.reply.hint, /kiln image ls/);
  const wrong: readonly (readonly [object, string])[] = [
    [{ image: 'busybox' }, 'argv'],
    [{ argv: ['true'], memory: 5 }, 'memory'],
    [{ argv: 'true' }, 'argv'],
    [{ argv: ['true'], surroundings: { bind: [] } }, 'surroundings.bind'],
    [{ argv: ['true'], surroundings: { binds: [{ source: '/' }] } }, 'surroundings.binds.target'],
    [{ argv: ['true'], timeout: 1.5 }, 'timeout'],
  ];
  for (const [parameters, parameter] of wrong) {
    const { error, reply } = await kiln('Run', parameters);
    t.deepEqual([error, reply], ['org.varlink.service.InvalidParameter', { parameter }]);
  }
  t.is((await kiln('Fly')).error, 'org.varlink.service.MethodNotFound');
  t.is((await call('io.other.Fly', {})).error, 'org.varlink.service.InterfaceNotFound');
  const values: readonly object[] = [
    { surroundings: { memory: 1 } },
    { surroundings: { disk: 0 } },
    { surroundings: { tmpfs: [{ target: '/x', size: 0 }] } },
    { surroundings: { tmpfs: [{ target: '/x', size: -1 }] } },
    { timeout: 0 },
    { stallTimeout: -1 },
    { keep: 0 },
    { surroundings: { network: 'host' } },
    { surroundings: { binds: [{ source: 'relative', target: '/x' }] } },
    { surroundings: { binds: [{ source: '/', target: '/proc' }] } },
    { surroundings: { capabilities: ['FLY'] } },
    { surroundings: { profile: 'other' } },
    { artifacts: ['x'] },
    { resultDirectory: 'relative' },
    { interactive: true },
    { input: '!!!' },
    { env: { 'A=B': 'a' } },
    { env: { '': 'a' } },
    { surroundings: { seccomp: 'strict.json' } },
    { image: 'var/tmp/relative.yaml' },
    { image: 'relative.lock.json' },
  ];
  for (const value of values) {
    const { error, reply } = await kiln('Run', { image: 'busybox', argv: ['true'], ...value });
    t.is(error, 'io.kiln.Failed', JSON.stringify(value));
    t.is(reply.code, 'E_ARGUMENT', JSON.stringify(value));
  }
});

test('several commands share an open sandbox; files can be copied in and out', async (t) => {
  const opened = await kiln('OpenSandbox', { image: 'busybox' });
  const { sandbox } = opened.reply;
  await kiln('WriteFile', { sandbox, path: '/tmp/in', data: 'aGVs' });
  await kiln('WriteFile', { sandbox, path: '/tmp/in', data: 'bG8K', append: true });
  const argv = ['sh', '-c', 'cat /tmp/in; stat -c %U.%a /tmp/in; echo out >/tmp/out'];
  const { reply } = await kiln('Execute', { sandbox, argv });
  t.is(decoded(reply.stdout), 'hello\nbuild.644\n');
  t.deepEqual((await kiln('ReadFile', { sandbox, path: '/tmp/out' })).reply, {
    data: 'b3V0Cg==',
    size: 4,
  });
  const listed = (await kiln('ListSandboxes')).reply.sandboxes;
  t.like(
    listed.find(({ id }: { id: string }) => id === sandbox),
    { state: 'running', image: IMAGE },
  );
  const argument = async (method: string, parameters: object) => {
    const { reply: said } = await kiln(method, { sandbox, path: '/tmp/in', ...parameters });
    t.is(said.code, 'E_ARGUMENT', JSON.stringify(parameters));
  };
  for (const value of [
    { timeout: 0 },
    { stallTimeout: -1 },
    { input: 'a' },
    { env: { 'A=B': '' } },
  ]) {
    const { reply: said } = await kiln('Execute', { sandbox, argv: ['true'], ...value });
    t.is(said.code, 'E_ARGUMENT', JSON.stringify(value));
  }
  t.is((await kiln('SendInput', { process: 'x', data: 'a b' })).reply.code, 'E_ARGUMENT');
  await argument('ReadFile', { offset: -1 });
  await argument('WriteFile', { data: '%%%' });
  await argument('WriteFile', { data: 'aGk', mode: -1 });
  await argument('WriteFile', { data: 'aGk', mode: 99_999 });
  // No link leads out, and nothing but a plain file is opened.
  await kiln('Execute', {
    sandbox,
    argv: ['sh', '-c', 'ln -s /../../../etc/hostname /tmp/l; mknod /tmp/p p'],
  });
  t.is((await kiln('ReadFile', { sandbox, path: '/tmp/l' })).reply.code, 'E_PATH');
  t.is((await kiln('ReadFile', { sandbox, path: '/tmp/p' })).reply.code, 'E_ARGUMENT');
  // Root would write into the memory of its init.
  for (const path of ['/dev/zero', '/proc/1/mem', '/proc/1/environ', '/proc/meminfo']) {
    t.is((await kiln('ReadFile', { sandbox, path })).reply.code, 'E_ARGUMENT', path);
    t.is((await kiln('WriteFile', { sandbox, path, data: '' })).reply.code, 'E_ARGUMENT', path);
  }
  t.is((await kiln('WriteFile', { sandbox, path: '/proc/new', data: '' })).error, 'io.kiln.Failed');
  t.falsy((await kiln('CloseSandbox', { sandbox })).error);
  t.is((await kiln('Execute', { sandbox, argv: ['true'] })).reply.code, 'E_NO_SANDBOX');
  const left = (await kiln('ListSandboxes')).reply.sandboxes;
  t.false(left.some(({ id }: { id: string }) => id === sandbox));
});

test('files behind a link of the command’s user are accessed with the user’s rights', async (t) => {
  const { sandbox } = (await kiln('OpenSandbox', { image: 'busybox' })).reply;
  const run = async (script: string, user: string) => {
    const command = ['exec', '--user', user, sandbox, '--', 'sh', '-ec', script];
    const { code, stdout, stderr } = await program('dist/kiln', command, { env: state.userEnv });
    t.is(code, 0, stderr);
    return stdout;
  };
  const roots = 'cd /etc; echo hidden >secret; chmod 600 secret; echo shown >open; mkdir /safe';
  await run(`${roots}; ln -s /etc/open /roots; ln -s /etc/secret /secrets`, 'root');
  await run(
    `cd /tmp; for name in secret open new; do ln -s /etc/$name $name; done; ln -s /safe safe
     echo own >mine; ln -s mine link`,
    'build',
  );
  const data = Buffer.from('forged\n').toString('base64');
  for (const path of ['/tmp/secret', '/tmp/open', '/tmp/new', '/tmp/safe/x']) {
    const { reply } = await kiln('WriteFile', { sandbox, path, data });
    t.is(reply.code, 'E_ARGUMENT', path);
    t.regex(reply.message, /the command’s user may not/);
  }
  const { reply } = await kiln('ReadFile', { sandbox, path: '/tmp/secret' });
  t.is(reply.code, 'E_ARGUMENT');
  t.regex(reply.message, /the command’s user may not/);
  t.is(await run('cd /etc; cat secret open; ls /safe', 'root'), 'hidden\nshown\n');
  // What the user may do itself, and what the caller names without a link.
  const read = async (path: string) =>
    decoded((await kiln('ReadFile', { sandbox, path })).reply.data);
  t.is(await read('/tmp/open'), 'shown\n');
  t.is(await read('/roots'), 'shown\n');
  t.is(await read('/tmp/link'), 'own\n');
  t.is(await read('/etc/secret'), 'hidden\n');
  t.falsy((await kiln('WriteFile', { sandbox, path: '/tmp/link', data })).error);
  t.falsy((await kiln('WriteFile', { sandbox, path: '/secrets', data })).error);
  t.is(await run('cat /tmp/mine /etc/secret', 'root'), 'forged\nforged\n');
  t.falsy((await kiln('CloseSandbox', { sandbox })).error);
});

test('images, sandboxes, services and checks can be listed', async (t) => {
  const { images } = (await kiln('ListImages')).reply;
  t.like(images[0], { id: IMAGE, name: 'busybox', arch: 'x86_64' });
  t.deepEqual((await kiln('ListServices')).reply, { services: [] });
  t.like((await kiln('Doctor', { names: ['landlock'] })).reply.checks[0], { name: 'landlock' });
  t.is((await kiln('StartService', { name: 'none' })).reply.code, 'E_NO_SERVICE');
  t.is((await kiln('RemoveImage', { image: 'none' })).reply.code, 'E_IMAGE_MISSING');
  t.is((await kiln('KillSandbox', { sandbox: 'none' })).reply.code, 'E_NO_SANDBOX');
  const recipe = await kiln('Build', { sources: ['nowhere'], resultDirectory: state.beside });
  t.is(recipe.error, 'io.kiln.Failed');
});

test('Events tells who did what, and with more what comes', async (t) => {
  const { PATH, HOME, KILN_STATE } = state.userEnv;
  const words = ['-j', '-E', 'call', state.socket, 'io.kiln.Events'];
  const following = spawn('varlinkctl', [...words, '{"follow":true}'], {
    env: { PATH, HOME, KILN_STATE },
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  let text = '';
  following.stdout.on('data', (chunk) => {
    text += chunk;
  });
  const seen = () => (text.endsWith('\n') ? repliesIn(text) : []).flatMap(({ events }) => events);
  const begun = Date.now();
  const run = () => kiln('Run', { image: 'busybox', argv: ['echo', 'followed'] });
  for (let i = 0; i < 50 && seen().length < 2; i++) await run();
  t.true(await until(() => seen().length >= 2));
  following.kill();
  await once(following, 'close');
  const { reply } = await kiln('Events', { since: begun });
  // Other tests call at the same time.
  const isOwn = ({ argv }: { argv?: string[] }) => argv?.[1] === 'followed';
  const [start, end] = reply.events.filter(isOwn);
  t.like(start, { event: 'start', command: 'run', by: 'api', uid: 0, argv: ['echo', 'followed'] });
  t.like(end, { event: 'end', id: start.id, outcome: 'ended', status: 0, image: IMAGE });
  t.is((await kiln('Events', { follow: true })).error, 'io.kiln.Failed');
});

test('a program keeps what a sandbox has written, forks it, and goes back', async (t) => {
  const surroundings = { pids: 100 };
  const argv = ['sh', '-c', 'echo one >/root/a'];
  const run = { image: 'busybox', argv, user: 'root', keep: 600_000, surroundings };
  const { sandbox } = (await kiln('Run', run)).reply.result;
  const { snapshot } = (await kiln('Snapshot', { sandbox, name: 'by-varlinkctl' })).reply;
  t.is((await kiln('Snapshot', { sandbox, name: 'by-varlinkctl' })).reply.code, 'E_SNAPSHOT');
  const { snapshots } = (await kiln('ListSnapshots')).reply;
  const known = snapshots.find(({ id }: { id: string }) => id === snapshot);
  t.like(known, { name: 'by-varlinkctl', sandbox, image: IMAGE, layers: [] });
  t.regex(known.digest, /^[0-9a-f]{64}$/);
  const cat = { argv: ['cat', '/root/a'], user: 'root' };
  const from = await kiln('Run', { ...cat, surroundings: { fromSnapshot: 'by-varlinkctl' } });
  t.is(Buffer.from(from.reply.stdout, 'base64').toString(), 'one\n');
  const forked = (await kiln('Fork', { from: snapshot, number: 2, keep: 600_000 })).reply;
  t.is(forked.snapshot, snapshot);
  t.is(forked.sandboxes.length, 2);
  const inFork = async (id: string, script: string) =>
    String((await state.kiln(['exec', id, '--', 'sh', '-c', script])).stdout);
  for (const id of forked.sandboxes) t.is(await inFork(id, 'cat /root/a'), 'one');
  await inFork(sandbox, 'echo two >/root/a');
  t.is((await kiln('Diff', { of: sandbox, against: snapshot })).reply.changes[0].path, 'root/a');
  t.is((await kiln('Rollback', { sandbox })).reply.snapshot, snapshot);
  t.is(await inFork(sandbox, 'cat /root/a'), 'one');
  t.deepEqual((await kiln('Diff', { of: sandbox, against: snapshot })).reply.changes, []);
  t.is((await kiln('Fork', { from: 'none' })).reply.code, 'E_NO_SNAPSHOT');
  t.is((await kiln('Rollback', { sandbox, snapshot: 'none' })).reply.code, 'E_NO_SNAPSHOT');
  t.is((await kiln('RemoveSnapshot', { snapshot })).reply.code, 'E_SNAPSHOT_IN_USE');
  for (const id of [sandbox, ...forked.sandboxes]) await kiln('KillSandbox', { sandbox: id });
  t.deepEqual((await kiln('RemoveSnapshot', { snapshot })).reply, {});
});

test('an open sandbox has snapshots, forks, images and changes, too', async (t) => {
  const folder = join(state.beside, 'opened');
  mkdirSync(folder);
  const binds = [{ source: folder, target: '/src', cow: true }];
  const open = { image: 'busybox', user: 'root', surroundings: { binds, onDisk: true } };
  const { sandbox } = (await kiln('OpenSandbox', open)).reply;
  const sh = async (script: string) => {
    const { reply } = await kiln('Execute', { sandbox, argv: ['sh', '-c', script] });
    t.is(reply.result.exitStatus, 0);
    return Buffer.from(reply.stdout, 'base64').toString();
  };
  const inode = async (of: string) =>
    (await program('find', [of, '-path', '*/root/a', '-printf', '%i'])).stdout;
  await sh('echo one >/root/a; echo new >/src/b');
  const written = await inode(join(state.paths.written, sandbox));
  const { snapshot } = (await kiln('Snapshot', { sandbox, name: 'of-open' })).reply;
  // No byte was copied.
  t.is(await inode(join(state.paths.snapshots, snapshot)), written);
  t.not(written, '');
  await sh('echo two >>/root/a');
  const paths = (reply: { changes: { path: string }[] }) => reply.changes.map(({ path }) => path);
  t.deepEqual(paths((await kiln('Diff', { of: sandbox })).reply), ['root/a']);
  t.deepEqual(paths((await kiln('Diff', { of: sandbox, target: '/src' })).reply), ['b']);
  t.is((await kiln('Apply', { sandbox, target: '/src' })).reply.applied, 1);
  t.is(readFileSync(join(folder, 'b'), 'utf8'), 'new\n');
  const limited = { from: sandbox, number: 2, keep: 600_000, pids: 40, onDisk: true };
  const { sandboxes } = (await kiln('Fork', limited)).reply;
  for (const fork of sandboxes) {
    t.is(String((await state.kiln(['exec', fork, '--', 'cat', '/root/a'])).stdout), 'one\ntwo');
    t.true(existsSync(join(state.paths.written, fork)));
    const all = JSON.parse(String((await state.kiln(['ps', '--json'])).stdout));
    const { record } = all.find(({ id }: { id: string }) => id === fork);
    t.is(limitsOf(readFileSync(`/proc/${record.init.pid}/cgroup`, 'utf8')).processes, 40);
  }
  const { image } = (await kiln('CommitImage', { from: sandbox, name: 'opened' })).reply;
  const { madeOf } = JSON.parse(String((await state.kiln(['image', 'show', image.id])).stdout));
  t.is(madeOf.image, IMAGE);
  t.is((await kiln('Rollback', { sandbox, snapshot })).reply.snapshot, snapshot);
  t.is(await sh('cat /root/a'), 'one\n');
  const run = { image: 'opened', user: 'root', argv: ['cat', '/root/a'] };
  const ran = (await kiln('Run', run)).reply;
  t.is(Buffer.from(ran.stdout, 'base64').toString(), 'one\ntwo\n');
  t.is((await kiln('Fork', { from: sandbox, number: 101 })).reply.code, 'E_ARGUMENT');
  t.is((await kiln('CommitImage', { from: 'none', name: 'x' })).reply.code, 'E_NO_SNAPSHOT');
  t.is((await kiln('CommitImage', { from: snapshot, name: 'a/b' })).reply.code, 'E_ARGUMENT');
  await kiln('CloseSandbox', { sandbox });
  for (const id of sandboxes) await kiln('KillSandbox', { sandbox: id });
  t.deepEqual((await kiln('RemoveSnapshot', { snapshot })).reply, {});
});

test('a refused fork or image of an open sandbox leaves no snapshot', async (t) => {
  const snapshots = async (of: string) =>
    ((await kiln('ListSnapshots')).reply.snapshots as { sandbox: string; id: string }[]).filter(
      ({ sandbox }) => sandbox === of,
    );
  for (const onDisk of [false, true]) {
    const open = { image: 'busybox', user: 'root', surroundings: { onDisk } };
    const { sandbox } = (await kiln('OpenSandbox', open)).reply;
    await kiln('Execute', { sandbox, argv: ['sh', '-c', 'echo one >/root/a'] });
    const refusals: [string, object][] = [
      ['Fork', { number: 0 }],
      ['Fork', { number: 101 }],
      ['Fork', { memory: 1 }],
      ['Fork', { keep: -1 }],
      ['CommitImage', { name: 'a/b' }],
      // That is a shipped recipe.
      ['CommitImage', { name: 'debian-build' }],
    ];
    for (const [method, parameters] of refusals) {
      const { error, reply } = await kiln(method, { from: sandbox, ...parameters });
      t.is(error, 'io.kiln.Failed', JSON.stringify([method, parameters, reply]));
      t.deepEqual(await snapshots(sandbox), [], method);
    }
    // Only the worker that makes the image finds out. On the disk, a deep tree would end the sandbox itself.
    const [why, script] = onDisk
      ? ['E_SNAPSHOT', `dd if=/dev/zero of=d bs=1 count=1 seek=${20 * 2 ** 30}`]
      : ['E_TREE_DEPTH', 'for i in $(seq 1200); do mkdir d && cd d || exit; done'];
    await kiln('Execute', { sandbox, argv: ['sh', '-c', `cd /root; ${script}`] });
    const failed = await kiln('CommitImage', { from: sandbox, name: 'late' });
    t.is(failed.reply.code, why, JSON.stringify(failed.reply));
    // What was renamed is what the sandbox stands on now.
    const left = (await snapshots(sandbox)).map(({ id }) => id);
    t.is(left.length, onDisk ? 1 : 0);
    await kiln('Execute', { sandbox, argv: ['rm', '-r', '/root/d'] });
    const { snapshot, sandboxes } = (await kiln('Fork', { from: sandbox })).reply;
    t.deepEqual(
      (await snapshots(sandbox)).map(({ id }) => id),
      [...left, snapshot],
    );
    for (const id of sandboxes) await kiln('KillSandbox', { sandbox: id });
    await kiln('CloseSandbox', { sandbox });
  }
});

test('a program looks at changes, takes some, and throws the others away', async (t) => {
  const folder = join(state.beside, 'checkout');
  mkdirSync(folder);
  writeFileSync(join(folder, 'a'), 'one\n');
  writeFileSync(join(folder, 'b'), 'two\n');
  writeFileSync(join(folder, '.envrc'), '');
  const argv = [
    'sh',
    '-c',
    'cd /src; echo more >>a; rm b; echo x >"$(printf "new\\nline")"; echo x >.envrc',
  ];
  const surroundings = { binds: [{ source: folder, target: '/src', cow: true }] };
  const run = { image: 'busybox', argv, surroundings, user: 'root', keep: 600_000 };
  const { sandbox } = (await kiln('Run', run)).reply.result;
  const at = { of: sandbox, target: '/src' };
  const { reply } = await kiln('Diff', at);
  const expected = [
    '.envrc changed file',
    'a changed file',
    'b removed file',
    'new\nline added file',
  ];
  const seen = ({ changes }: { changes: { path: string; change: string; kind: string }[] }) =>
    changes.map(({ path, change, kind }) => `${path} ${change} ${kind}`);
  t.deepEqual(seen(reply), expected);
  t.deepEqual([reply.truncated, reply.changes[0].protected], [false, true]);
  const { replies } = await kiln('Diff', at, '--more');
  t.deepEqual(seen(replies[0]), expected);
  t.deepEqual(replies.slice(1), [{ truncated: false }]);
  const patched = (await kiln('Diff', { ...at, paths: ['a'], patch: true })).reply;
  // What git makes of it is what the sandbox sees.
  const elsewhere = join(state.beside, 'elsewhere');
  mkdirSync(elsewhere);
  writeFileSync(join(elsewhere, 'a'), 'one\n');
  writeFileSync(join(elsewhere, 'patch'), Buffer.from(patched.patch, 'base64'));
  t.is((await program('git', ['apply', 'patch'], { cwd: elsewhere })).code, 0);
  t.is(readFileSync(join(elsewhere, 'a'), 'utf8'), 'one\nmore\n');

  writeFileSync(join(folder, 'b'), 'changed meanwhile\n');
  const applied = (await kiln('Apply', { sandbox, target: '/src' })).reply;
  t.deepEqual([applied.source, applied.applied, applied.left], [folder, 2, 2]);
  t.deepEqual(
    applied.leftAlone.map(({ path, conflict }: { path: string; conflict: boolean }) => [
      path,
      conflict,
    ]),
    [
      ['.envrc', false],
      ['b', true],
    ],
  );
  t.is(readFileSync(join(folder, 'a'), 'utf8'), 'one\nmore\n');
  t.is(readFileSync(join(folder, 'new\nline'), 'utf8'), 'x\n');
  t.is(readFileSync(join(folder, 'b'), 'utf8'), 'changed meanwhile\n');
  const forced = await kiln('Apply', { sandbox, target: '/src', paths: ['b'], force: true });
  t.is(forced.reply.applied, 1);
  t.false(existsSync(join(folder, 'b')));
  t.deepEqual((await kiln('Discard', { sandbox, target: '/src' })).reply, {});
  t.deepEqual((await kiln('Diff', at)).reply, { changes: [], truncated: false });
  t.is(readFileSync(join(folder, '.envrc'), 'utf8'), '');
  for (const [method, parameters] of [
    ['Diff', { of: sandbox, target: 'src' }],
    ['Diff', { of: sandbox, target: '/src', paths: ['../a'] }],
    ['Apply', { sandbox, target: '/' }],
  ] as const) {
    t.is((await kiln(method, parameters)).reply.code, 'E_ARGUMENT');
  }
  await kiln('KillSandbox', { sandbox });
});
