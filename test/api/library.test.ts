/** The library for programs, against a daemon that it starts itself. */
import { once } from 'node:events';
import { mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { text } from 'node:stream/consumers';
import { setTimeout as sleep } from 'node:timers/promises';
import test from 'ava';
import { connect, ExecError, type Kiln, KilnError } from '../../src/index.ts';
import { type BusyboxState, busyboxState, IMAGE } from '../support/busybox-state.ts';
import { daemonPid } from '../support/daemon.ts';
import { endingListener } from '../support/ending-listener.ts';
import { until } from '../support/eventually.ts';

let state: BusyboxState;
let kiln: Kiln;
/** What connecting gave before there was a daemon. */
let noDaemon: unknown;
const image = 'busybox';

test.before(async () => {
  state = await busyboxState();
  process.env.KILN_PARKED = '0';
  const none = connect({ state: state.paths.root, start: false });
  noDaemon = await none.catch((error: KilnError) => error);
  // A daemon that ends before it accepts is as good as none.
  const kill = await endingListener(join(state.paths.root, 'io.kiln'));
  const connecting = connect({ state: state.paths.root });
  kill();
  kiln = await connecting;
});
test.after.always(async () => {
  kiln?.close();
  await state[Symbol.asyncDispose]();
});

test('an image name and a command are enough; the library starts the daemon', async (t) => {
  t.true(noDaemon instanceof KilnError && noDaemon.code === 'E_NO_DAEMON');
  const {
    ended,
    stdout,
    stderr,
    image: used,
  } = await kiln.run({ image, argv: ['sh', '-c', 'echo out; echo err >&2; exit 4'] });
  t.deepEqual(ended, { exitCode: 4, exitStatus: 4 });
  t.deepEqual([`${stdout}`, `${stderr}`], ['out\n', 'err\n']);
  t.is(used.id, IMAGE);
  t.not(daemonPid(state.paths.root), undefined);
});

test('bytes pass unchanged, in both directions', async (t) => {
  const input = Buffer.from(Array.from({ length: 100_000 }, (_, i) => (i * 7) & 0xff));
  const { stdout } = await kiln.run({ image, argv: ['cat'], input });
  t.true(stdout.equals(input));
});

test('input may have any length, whether the command reads it or not', async (t) => {
  const input = Buffer.alloc(9_000_001, 'abcdefg');
  const { stdout } = await kiln.run({ image, argv: ['cat'], input });
  t.true(stdout.equals(input));
  const unread = await kiln.run({ image, argv: ['sh', '-c', 'head -c 3; exit 4'], input });
  t.deepEqual([`${unread.stdout}`, unread.ended.exitCode], ['abc', 4]);
  const text = 'ü'.repeat(2_000_000);
  const resultDirectory = join(state.beside, 'counted');
  const inWorker = await kiln.run({ image, argv: ['wc', '-c'], input: text, resultDirectory });
  t.is(`${inWorker.stdout}`.trim(), '4000000');
});

test('an error that a listener throws fails the call, and ends its command', async (t) => {
  const argv = ['sh', '-c', 'echo one; sleep 60; echo two'];
  const onStdout = () => {
    throw new RangeError('not this');
  };
  await t.throwsAsync(kiln.run({ image, argv, onStdout }), {
    instanceOf: RangeError,
    message: 'not this',
  });
  await until(() => readdirSync(state.paths.sandboxes).length === 0);
  t.is(`${(await kiln.run({ image, argv: ['echo', 'next'] })).stdout}`, 'next\n');
});

test('relative paths start at the program’s folder; artifacts are collected', async (t) => {
  writeFileSync(join(state.beside, 'in'), 'hello');
  const before = process.cwd();
  process.chdir(state.beside);
  t.teardown(() => process.chdir(before));
  const { artifacts, warnings } = await kiln.run({
    image,
    argv: ['sh', '-c', 'cat /in >/tmp/out; cat /copied >>/tmp/out'],
    workdir: '/tmp',
    surroundings: { binds: [{ source: 'in', target: '/in', readonly: true }] },
    copyIn: [{ source: './in', target: '/copied' }],
    artifacts: ['out'],
    resultDirectory: 'results',
  });
  t.deepEqual([artifacts, warnings], [['out'], []]);
  t.is(readFileSync('results/out', 'utf8'), 'hellohello');
});

test('missing and wrong parameters are typed errors', async (t) => {
  await t.throwsAsync(kiln.run({ image: 'nothing', argv: ['true'] }), { code: 'E_IMAGE_MISSING' });
  await t.throwsAsync(kiln.run({ image } as never), {
    code: 'E_ARGUMENT',
    message: 'argv is missing',
  });
  await t.throwsAsync(kiln.run({ image, argv: [] }), { code: 'E_ARGUMENT' });
  await t.throwsAsync(kiln.run({ image, argv: ['no-such-command'] }), {
    code: 'E_COMMAND_NOT_FOUND',
  });
  await t.throwsAsync(kiln.run({ image, argv: ['true'], user: 'nobody-here' }), {
    code: 'E_NO_USER',
  });
  await t.throwsAsync(kiln.open({} as never), { code: 'E_ARGUMENT' });
  await t.throwsAsync(kiln.call('Foo' as 'GetVersion', {}), {
    code: 'E_PROTOCOL',
    message: 'kilnd has no method io.kiln.Foo',
  });
  // In words of the API: its numbers are JSON's.
  const wrong: readonly [object, string][] = [
    [{ timeout: -1 }, 'timeout: not a duration'],
    [{ surroundings: { memory: -1 } }, 'memory: not a size'],
    [{ artifacts: ['x'] }, 'artifacts: there is no resultDirectory for them'],
    [{ argv: [''] }, 'argv: it names no program'],
    // As of a variable that is not set: it is not the folder of this process.
    [{ resultDirectory: '' }, 'resultDirectory: an empty path is not an absolute path'],
    [
      { surroundings: { binds: [{ source: '', target: '/x' }] } },
      'binds: an empty path is not an absolute path',
    ],
    [{ copyIn: [{ source: '', target: '/x' }] }, 'copyIn: an empty path is not an absolute path'],
    [
      { surroundings: { tmpfs: [{ target: '/x' }, { target: '/x/' }] } },
      'two mounts are for /x: the second would hide the first',
    ],
  ];
  for (const [options, message] of wrong) {
    const run = kiln.run({ image, argv: ['true'], ...options });
    const { hint } = await t.throwsAsync<KilnError>(run, { code: 'E_ARGUMENT', message });
    t.truthy(hint, message);
  }
  const types: readonly [unknown, string][] = [
    [undefined, 'options'],
    [{ image, argv: ['true'], input: 5 }, 'input'],
    [{ image, argv: ['true'], signal: 5 }, 'signal'],
    [{ image, argv: ['true'], onStdout: 'x' }, 'onStdout'],
  ];
  const ofType = (field: string) =>
    ({ code: 'E_ARGUMENT', message: new RegExp(`^${field} .*type`) }) as const;
  for (const [options, field] of types)
    await t.throwsAsync(kiln.run(options as never), ofType(field), field);
  await t.throwsAsync(kiln.build(undefined as never), ofType('options'));
  await t.throwsAsync(kiln.buildImage(image, { signal: 'x' } as never), ofType('signal'));
  await using sandbox = await kiln.open({ image });
  await t.throwsAsync(sandbox.writeFile('/tmp/x', 5 as never), ofType('content'));
  await t.throwsAsync(sandbox.execFile('cat', [], { input: {} } as never), ofType('input'));
  t.throws(() => sandbox.spawn('cat', 5 as never), ofType('args'));
  const read = await t.throwsAsync<KilnError>(sandbox.readFile('/nope'), { code: 'E_PATH' });
  t.is(read?.message, 'path: /nope: it does not exist');
  t.notRegex(read?.hint ?? '', /another program/);
  const sources = ['./none.src.rpm'];
  const { failure } = await kiln.build({ sources, image, resultDirectory: state.beside });
  t.regex(failure?.code ?? '', /^E_/);
});

test('an abort signal ends a run and its sandbox', async (t) => {
  const over = new AbortController();
  const argv = ['sh', '-c', 'trap "" TERM; echo here; sleep 60'];
  const seen: string[] = [];
  const onStdout = (chunk: Buffer) => {
    seen.push(`${chunk}`);
    over.abort(new Error('enough'));
  };
  const run = kiln.run({ image, argv, signal: over.signal, onStdout });
  await t.throwsAsync(run, { message: 'enough' });
  t.deepEqual(seen, ['here\n']);
  await until(() => readdirSync(state.paths.sandboxes).length === 0);
  const left = await kiln.sandboxes();
  t.false(left.some(({ command }) => command.includes('sleep 60')));
});

test('commands of a sandbox behave like those of child_process', async (t) => {
  let id: string;
  {
    await using sandbox = await kiln.open({ image });
    id = sandbox.id;
    const cat = sandbox.spawn('sh', ['-c', 'cat >/tmp/f; echo $X; exit 3'], { env: { X: 'ex' } });
    cat.stdin.end('from stdin');
    const [out] = await Promise.all([text(cat.stdout), once(cat, 'close'), once(cat, 'spawn')]);
    t.deepEqual([out, cat.exitCode, cat.signalCode], ['ex\n', 3, null]);
    t.is((await sandbox.execFile('cat', ['f'], { cwd: '/tmp' })).stdout, 'from stdin');
    const sleeper = sandbox.spawn('sleep', ['100']);
    await once(sleeper, 'spawn');
    t.true((sleeper.pid ?? 0) > 1);
    t.true(sleeper.kill());
    t.deepEqual(await once(sleeper, 'exit'), [null, 'SIGTERM']);
    t.false(sleeper.kill());
    const [missing] = await once(
      sandbox.spawn('nothing-here').on('error', () => undefined),
      'error',
    ).catch((e) => [e]);
    t.is(missing.code, 'E_COMMAND_NOT_FOUND');
    const failed = await t.throwsAsync(sandbox.exec('echo a; echo b >&2; exit 5'), {
      instanceOf: ExecError,
    });
    t.like(failed, { code: 5, stdout: 'a\n', stderr: 'b\n' });
    const parallel = await Promise.all(
      Array.from({ length: 8 }, (_, i) => sandbox.exec(`echo ${i}`)),
    );
    t.deepEqual(
      parallel.map(({ stdout }) => stdout.trim()),
      ['0', '1', '2', '3', '4', '5', '6', '7'],
    );
  }
  t.false((await kiln.sandboxes()).some((each) => each.id === id));
});

test('input waits for a slow command, and output for a slow program', async (t) => {
  await using sandbox = await kiln.open({ image });
  const count = 12 << 20;
  const command = sandbox.spawn('sh', ['-c', 'sleep 1; cat']);
  const sent = Buffer.alloc(count, 'x');
  command.stdin.end(sent);
  await sleep(1500);
  let bytes = 0;
  for await (const chunk of command.stdout) {
    bytes += (chunk as Buffer).length;
    if (bytes % 7 === 0) await sleep(1);
  }
  t.is(bytes, count);
  if (command.ended === undefined) await once(command, 'close');
  t.is(command.exitCode, 0);
});

test('a command gets a real terminal, and hears of its new size', async (t) => {
  await using sandbox = await kiln.open({ image });
  const script = `stty size; read x; until test "$(stty size)" = '20 60'; do sleep 0.1; done
stty size; test -t 1 && echo yes`;
  const shell = sandbox.spawn('sh', ['-c', script], { terminal: { rows: 33, columns: 77 } });
  let shown = '';
  shell.stdout.on('data', (chunk: Buffer) => {
    shown += chunk;
  });
  t.true(await until(() => shown.includes('33 77')));
  shell.resize(20, 60);
  shell.stdin.write('go\n');
  await once(shell, 'close');
  t.regex(shown, /33 77.*20 60.*yes/s);
});

test('files of any size can be copied in and out', async (t) => {
  await using sandbox = await kiln.open({ image });
  const bytes = Buffer.alloc(2_500_000, 'abcdefg');
  await sandbox.writeFile('/tmp/large', bytes, { mode: 0o600 });
  const { stdout } = await sandbox.exec('wc -c </tmp/large; stat -c "%U %a" /tmp/large');
  t.is(stdout, '2500000\nbuild 600\n');
  t.true((await sandbox.readFile('/tmp/large')).equals(bytes));
  await sandbox.writeFile('/tmp/empty', '');
  const setuid = sandbox.writeFile('/tmp/empty', '', { mode: 0o4755 });
  const { message, hint } = await t.throwsAsync<KilnError>(setuid, { code: 'E_ARGUMENT' });
  t.deepEqual([message, hint?.includes('420')], ['mode: 2541 is not from 0 to 511', true]);
  t.is((await sandbox.readFile('/tmp/empty')).length, 0);
  await t.throwsAsync(sandbox.readFile('/tmp/none'), { code: 'E_PATH' });
});

test('a recipe builds and reports its progress; a failure says where it happened', async (t) => {
  const recipe = join(state.beside, 'made.yaml');
  const steps = [{ name: 'make', run: 'echo making; echo made >/tmp/out' }];
  writeFileSync(recipe, JSON.stringify({ image, steps, artifacts: ['/tmp/out'] }));
  const phases: string[] = [];
  let output = '';
  const resultDirectory = join(state.beside, 'made');
  const hooks = {
    onPhase: (phase: string) => phases.push(phase),
    onOutput: (chunk: Buffer) => {
      output += chunk;
    },
  };
  const built = await kiln.build({ sources: [recipe], resultDirectory, ...hooks });
  t.like(built, { exitStatus: 0, failure: undefined, files: ['out'] });
  t.deepEqual([phases, output], [['make'], 'making\n']);
  t.is(readFileSync(join(resultDirectory, 'out'), 'utf8'), 'made\n');
  t.is(JSON.parse(readFileSync(join(resultDirectory, 'result.json'), 'utf8')).exitStatus, 0);
  writeFileSync(recipe, JSON.stringify({ image, steps: [{ run: 'exit 6' }] }));
  const failed = await kiln.build({ sources: [recipe], resultDirectory });
  t.is(failed.exitStatus, 6);
  t.regex(failed.failure?.code ?? '', /^E_/);
  // What a kind of build does not heed is refused, as on the command line.
  const unused = kiln.build({ sources: [recipe], resultDirectory, postinstall: true });
  await t.throwsAsync(unused, { code: 'E_ARGUMENT' });
});

test('images are listed; killing a sandbox from elsewhere ends its commands', async (t) => {
  t.deepEqual(
    (await kiln.images()).map(({ name }) => name),
    ['busybox'],
  );
  const sandbox = await kiln.open({ image });
  const command = sandbox.spawn('sleep', ['60']);
  await once(command, 'spawn');
  const ended = once(command, 'close');
  await Promise.all([
    kiln.kill(sandbox.id),
    t.throwsAsync(ended, { code: 'E_SANDBOX_GONE', message: /ended before its command did/ }),
  ]);
  t.is(command.exitCode, null);
  await sandbox.close();
  await sandbox.close();
});

test('commands and files reach the sandbox of a command that runs', async (t) => {
  const said: Buffer[] = [];
  const run = kiln.run({
    ...{ image, argv: ['sh', '-c', 'pwd; until test -e /tmp/go; do sleep 0.1; done; cat /tmp/go'] },
    onStdout: (chunk) => said.push(chunk),
  });
  await until(() => said.length > 0);
  const [listed] = (await kiln.sandboxes()).filter(({ command }) => command[2]?.startsWith('pwd'));
  const id = listed?.id ?? '';
  const read = await kiln.call('ReadFile', { sandbox: id, path: '/etc/passwd' });
  t.regex(Buffer.from(read.data, 'base64').toString(), /^root:/);
  const { result, stdout } = await kiln.call('Execute', { sandbox: id, argv: ['id', '-u'] });
  t.deepEqual([result?.exitStatus, stdout], [0, Buffer.from('1000\n').toString('base64')]);
  await kiln.call('WriteFile', { sandbox: id, path: '/tmp/go', data: 'Z28K' });
  t.is((await run).ended.exitStatus, 0);
  t.regex(Buffer.concat(said).toString(), /go\n$/);
  const error = await t.throwsAsync(kiln.call('ReadFile', { sandbox: id, path: '/etc/passwd' }));
  t.is((error as KilnError).code, 'E_NO_SANDBOX');
});

test('files are copied into an open sandbox before its first command', async (t) => {
  const source = join(state.beside, 'copied');
  writeFileSync(source, 'copied');
  await using sandbox = await kiln.open({ image, copyIn: [{ source, target: '/tmp/in' }] });
  t.is(String(await sandbox.readFile('/tmp/in')), 'copied');
  t.is((await sandbox.exec('cat /tmp/in')).stdout, 'copied');
  const copyIn = [{ source: join(state.beside, 'none'), target: '/tmp/in' }];
  await t.throwsAsync(kiln.open({ image, copyIn }), { message: /none/ });
});

test('a program keeps a sandbox’s files, forks them and goes back', async (t) => {
  const argv = ['sh', '-c', 'echo one > /root/a'];
  const { sandbox } = await kiln.run({ image, argv, user: 'root', keep: 600_000 });
  const snapshot = await kiln.snapshot(sandbox, { name: 'by-program' });
  const [known] = (await kiln.snapshots()).filter(({ id }) => id === snapshot);
  t.is(known?.name, 'by-program');
  t.is(known?.sandbox, sandbox);
  const cat = async (id: string) =>
    String((await state.kiln(['exec', id, '--', 'cat', '/root/a'])).stdout);
  const surroundings = { fromSnapshot: 'by-program' };
  const ran = await kiln.run({ argv: ['cat', '/root/a'], user: 'root', surroundings });
  t.is(`${ran.stdout}`, 'one\n');
  const forks = await kiln.forks('by-program', { number: 2, keep: 600_000 });
  t.is(forks.length, 2);
  await state.kiln(['exec', sandbox, '--', 'sh', '-c', 'echo two > /root/a']);
  t.is(await kiln.rollback(sandbox), snapshot);
  for (const id of [sandbox, ...forks]) t.is(await cat(id), 'one');
  {
    await using opened = await kiln.open({ surroundings, user: 'root' });
    await opened.exec('echo more > /root/b');
    const own = await kiln.snapshot(opened.id);
    t.deepEqual(
      (await kiln.diff(own)).changes.map(({ path }) => path),
      ['root/b'],
    );
    await opened.exec('echo three > /root/a; rm /root/b');
    const running = opened.exec('sleep 1000').catch((error: ExecError) => error.signal);
    await opened.exec('until ps | grep -q "[s]leep 1000"; do sleep 0.1; done');
    await t.throwsAsync(kiln.rollback(opened.id), { code: 'E_SANDBOX_BUSY' });
    t.is(await kiln.rollback(opened.id, { kill: true }), own);
    t.is(await running, 'SIGKILL');
    t.is((await opened.exec('cat /root/a /root/b')).stdout, 'one\nmore\n');
  }
  for (const id of [sandbox, ...forks]) await kiln.kill(id);
  await kiln.removeSnapshot('by-program');
  t.deepEqual(await kiln.snapshots(), []);
});

test('a program takes what a sandbox has changed in a folder', async (t) => {
  const folder = join(state.beside, 'changed');
  mkdirSync(folder);
  writeFileSync(join(folder, 'a'), 'one\n');
  const argv = ['sh', '-c', 'echo two >>a; for i in $(seq 1200); do echo $i >f$i; done'];
  const surroundings = { binds: [{ source: folder, target: '/src', cow: true }] };
  const wanted = { image, argv, workdir: '/src', user: 'root', surroundings, keep: 600_000 };
  const { sandbox } = await kiln.run(wanted);
  const { changes, truncated } = await kiln.diff(sandbox, { target: '/src' });
  t.deepEqual([changes.length, truncated], [1201, false]);
  t.is(changes.filter(({ change }) => change === 'added').length, 1200);
  t.regex(`${await kiln.patch(sandbox, { target: '/src', paths: ['a'] })}`, /^ one\n\+two$/m);
  const done = await kiln.apply(sandbox, '/src', { paths: ['a', 'f1200'] });
  t.deepEqual([done.applied, done.left], [2, 0]);
  t.is(readFileSync(join(folder, 'a'), 'utf8'), 'one\ntwo\n');
  t.deepEqual(readdirSync(folder).sort(), ['a', 'f1200']);
  await kiln.discard(sandbox, '/src');
  t.deepEqual((await kiln.diff(sandbox, { target: '/src' })).changes, []);
  t.deepEqual((await kiln.diff(sandbox)).changes, []);
  await t.throwsAsync(kiln.apply(sandbox, '/other'), { code: 'E_ARGUMENT' });
  await kiln.kill(sandbox);
});
