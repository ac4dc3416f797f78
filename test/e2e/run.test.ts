import { createHash, randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { mkdir, readdir, readFile, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { Readable } from 'node:stream';
import { setTimeout as sleep } from 'node:timers/promises';
import anyTest, { type TestFn } from 'ava';
import { execa } from 'execa';
import { embeddedFiles } from '../../src/host/libvirt/embedded/files.ts';
import { sweepSandboxes } from '../../src/sandbox/domain/sweep.ts';
import {
  type BusyboxState,
  busyboxState,
  IMAGE,
  KILN,
  MAIN,
  PATIENCE,
} from '../support/busybox-state.ts';
import { until } from '../support/eventually.ts';
import { openKiln } from '../support/kiln.ts';
import { long } from '../support/long.ts';
import { ownSeconds, processesCalled } from '../support/processes.ts';

const test = anyTest as TestFn<{ state: BusyboxState }>;
let state: BusyboxState;

/** How many processes, zombies aside, run with the ids of a sandbox. */
/** By their cgroups: a range of ids may be another sandbox's as soon as this one is gone. */
async function processesOf(sandbox: string): Promise<number> {
  const { stdout } = await execa('ps', ['-o', 'stat=,cgroup=', '-ww', '-e']);
  return stdout.split('\n').filter((line) => line.includes(sandbox) && !/^\s*Z/.test(line)).length;
}

/** The only sandbox there is, once those of earlier runs are gone: the daemon removes them in the background. */
async function onlySandbox(): Promise<string> {
  const all = () => readdirSync(state.paths.sandboxes);
  if (!(await until(() => all().length === 1))) throw new Error(`not one: ${all().join()}`);
  return String(all()[0]);
}

test.before(async () => {
  state = await busyboxState();
});
test.after.always(async () => {
  await state[Symbol.asyncDispose]();
});

const run = (args: readonly string[], options = {}) =>
  state.kiln(['run', '-r', IMAGE.slice(0, 12), ...args], options);
const sh = (script: string, args: readonly string[] = [], options = {}) =>
  run([...args, '--', 'sh', '-c', script], options);

test.serial('the exit status is the command’s own, or says why it has none', async (t) => {
  t.is((await sh('exit 7')).exitCode, 7);
  t.is((await sh('kill -TERM $$')).exitCode, 128 + 15);
  t.is((await sh('kill -KILL $$')).exitCode, 128 + 9);
  const missing = await run(['--', 'no-such-command']);
  t.is(missing.exitCode, 127);
  t.regex(
    String(missing.stderr),
    /no-such-command: not found in the image[\s\S]*--bind or --copy-in/,
  );
  t.is((await run(['--', '/etc/passwd'])).exitCode, 126);
  t.is((await state.kiln(['run', '-r', 'feedbeef', '--', 'true'])).exitCode, 125);
  t.is((await run(['--memory', 'lots', '--', 'true'])).exitCode, 125);
  t.is((await run(['--workdir', '/nowhere', '--', 'true'])).exitCode, 125);
});

test.serial('stdin, stdout and stderr are separate, binary-safe and complete', async (t) => {
  const input = randomBytes(48 << 20);
  const result = await sh('cat; echo only-stderr >&2', [], {
    stdin: 'pipe',
    input,
    encoding: 'buffer',
    maxBuffer: 1 << 28,
    stripFinalNewline: false,
  });
  const digest = (bytes: Uint8Array) => createHash('sha256').update(bytes).digest('hex');
  t.is(digest(result.stdout as unknown as Uint8Array), digest(input));
  t.is(Buffer.from(result.stderr as unknown as Uint8Array).toString(), 'only-stderr\n');
});

long('1 GiB passes through each of stdin, stdout and stderr', async (t) => {
  const kiln = join(import.meta.dirname, '../../bin/kiln');
  const block = randomBytes(1 << 20);
  const expected = createHash('sha256');
  for (let i = 0; i < 1024; i++) expected.update(block);
  const digest = expected.digest('hex');
  const blocks = function* () {
    for (let i = 0; i < 1024; i++) yield block;
  };
  for (const [output, script] of [
    ['stdout', 'cat'],
    ['stderr', 'cat >&2'],
  ] as const) {
    // Through kiln, since these are sockets of Node's.
    const through = execa(kiln, ['run', '-r', IMAGE, '--', 'sh', '-c', script], {
      env: state.env,
      input: Readable.from(blocks()),
      buffer: false,
    });
    const hash = createHash('sha256');
    for await (const chunk of through[output]) hash.update(chunk as Buffer);
    t.is((await through).exitCode, 0);
    t.is(hash.digest('hex'), digest, output);
    // Past kiln, into a pipe.
    const fd = output === 'stdout' ? '2>/dev/null' : '2>&1 >/dev/null';
    const past = await execa(
      'sh',
      ['-c', `"${kiln}" run -r ${IMAGE} -- sh -c '${script}' ${fd} | sha256sum`],
      { env: state.env, input: Readable.from(blocks()) },
    );
    t.is(past.stdout, `${digest}  -`, `${output} into a pipe`);
  }
});

test.serial('output to files and pipes is complete, and small pauses are no stall', async (t) => {
  const kiln = join(import.meta.dirname, '../../bin/kiln');
  const run = `"${kiln}" run --stall-timeout 4s -r ${IMAGE} -- sh -c`;
  const file = join(state.paths.root, 'output');
  // Five seconds of little pauses: none is a stall.
  const script =
    'for i in 1 2 3 4 5 6 7 8 9 10; do sleep 0.5; echo $i; done; seq 400000; seq 300000 >&2';
  const both = await execa('sh', ['-c', `${run} '${script}' 2>${file}.err | sha256sum`], {
    env: state.env,
  });
  const expected = await execa('sh', ['-c', '(seq 10; seq 400000) | sha256sum']);
  t.is(both.stdout, expected.stdout);
  t.is(await readFile(`${file}.err`, 'utf8'), `${(await execa('seq', ['300000'])).stdout}\n`);
  const patient = ['--timeout', '30d', '--stall-timeout', '30d'];
  t.is((await sh('sleep 1; echo b', patient)).stdout, 'b');
  const stalled = await execa('sh', ['-c', `${run} 'echo a; sleep 60' >${file}`], {
    env: state.env,
    reject: false,
  });
  t.is(stalled.exitCode, 124);
  t.is(await readFile(file, 'utf8'), 'a\n');
});

test.serial('a reader that goes away ends the command', async (t) => {
  const result = await execa('sh', ['-c', `"$KILN" run -r ${IMAGE} -- yes | head -n 1`], {
    env: { ...state.env, KILN },
    timeout: 20_000 * PATIENCE,
    reject: false,
  });
  t.is(result.stdout, 'y');
  t.false(result.timedOut);
});

test.serial('a reader of --help that goes away is no failure', async (t) => {
  for (const command of ['run', 'image build']) {
    const script = `{ "$KILN" ${command} --help; echo $? >&2; } | true`;
    const { stderr } = await execa('sh', ['-c', script], { env: { ...state.env, KILN } });
    t.is(stderr, '0', command);
  }
});

test.serial('a command runs as an unprivileged user, with nothing of the host', async (t) => {
  const { stdout } = await sh(
    'id; hostname; echo $FROM_IMAGE $HOME; ls /; ls /dev; cat /proc/self/net/dev; ps; ls /sys; test -e /sys/fs/cgroup || echo no-cgroup',
  );
  const text = String(stdout);
  t.regex(text, /^uid=1000\(build\) gid=1000\(build\) groups=50\(extra\)/);
  t.regex(text, /^yes \/home\/build$/m);
  t.regex(text, /^no-cgroup$/m);
  t.regex(text, /^ +lo:/m);
  t.notRegex(text, /eth0|libvirtd|\.oldroot|kiln-init\n.*kiln-init/);
});

test.serial('capabilities, no_new_privs and seccomp are in force, for root too', async (t) => {
  const status = 'cat /proc/self/status';
  const user = String((await sh(status)).stdout);
  t.regex(user, /CapBnd:\t0+$/m);
  t.regex(user, /NoNewPrivs:\t1/);
  t.regex(user, /Seccomp:\t2/);
  const root = String((await sh(status, ['--user', 'root'])).stdout);
  t.regex(root, /CapEff:\t00000000800405fb$/m);
  t.regex(root, /Uid:\t0/);
  for (const attempt of ['mount -t tmpfs none /tmp', 'unshare -U true', 'mknod /tmp/x b 8 0']) {
    t.not((await sh(attempt, ['--user', 'root'])).exitCode, 0, attempt);
  }
});

test.serial(
  'a command belongs to a domain that virsh lists, and has its own namespaces',
  async (t) => {
    const command = sh('echo started; exec sleep 60', [], { buffer: false });
    await once(command.stdout as NodeJS.ReadableStream, 'data');
    const uri = process.env.KILN_URI || embeddedFiles(state.paths).uri;
    const { stdout: names } = await execa('virsh', ['-c', uri, 'list', '--name']);
    const id = await onlySandbox();
    t.true(names.split('\n').some((name) => name.endsWith(`-${id}`)));
    const record = JSON.parse(
      await readFile(join(state.paths.sandboxes, id, 'sandbox.json'), 'utf8'),
    );
    const { stdout: pids } = await execa('ps', ['-o', 'pid=,uid=,comm=', '-e']);
    const line = pids.split('\n').find((text) => text.includes(` ${record.range.base + 1000} `));
    t.truthy(line, 'the command runs as a mapped id');
    const pid = String(line).trim().split(/\s+/)[0];
    const cgroups = await readFile(`/proc/${pid}/cgroup`, 'utf8');
    t.true(cgroups.includes(id), cgroups);
    for (const name of ['cgroup', 'ipc', 'mnt', 'net', 'pid', 'user', 'uts']) {
      const [theirs, ours] = await Promise.all(
        [pid, 'self'].map(async (of) => (await stat(`/proc/${of}/ns/${name}`)).ino),
      );
      t.not(theirs, ours, name);
    }
    command.kill('SIGINT');
    t.is((await command).exitCode, 130);
  },
);

test.serial('limits are enforced, and named when hit', async (t) => {
  const out = await sh('sleep 60', ['--timeout', '1s']);
  t.is(out.exitCode, 124);
  t.regex(String(out.stderr), /--timeout/);
  const stall = await sh('echo x; sleep 60', ['--stall-timeout', '1']);
  t.is(stall.exitCode, 124);
  t.regex(String(stall.stderr), /--stall-timeout/);
  const memory = await sh('dd if=/dev/zero of=/tmp/x bs=1M count=200', ['--memory', '64M']);
  t.is(memory.exitCode, 137);
  t.regex(String(memory.stderr), /--memory/);
  const disk = await sh('dd if=/dev/zero of=/tmp/x bs=1M count=200', ['--disk', '8M']);
  t.not(disk.exitCode, 0);
  t.regex(String(disk.stderr), /--disk/);
  const pids = await sh('for i in $(seq 30); do sleep 5 & done; wait', ['--pids', '8']);
  t.not(pids.exitCode, 0);
  t.regex(String(pids.stderr), /--pids/);
});

test.serial('a command may open as many files as on the host', async (t) => {
  const { stdout } = await sh('ulimit -H -n');
  t.is(stdout, (await execa('sh', ['-c', 'ulimit -H -n'])).stdout);
});

test.serial('--hostname sets the name, and --cpus a share of the processors', async (t) => {
  // Both times in hundredths of a second: what passed, and what was used.
  const script =
    'now() { tr -d . < /proc/uptime | { read -r up rest; echo $up; }; }; hostname; start=$(now); ' +
    'i=0; while [ $i -lt 400000 ]; do i=$((i+1)); done; echo $(( $(now) - start )); cat /proc/$$/stat';
  const { stdout } = await sh(script, ['--hostname', 'named', '--cpus', '0.2']);
  const [name, passed, stat = ''] = String(stdout).split('\n');
  t.is(name, 'named');
  const [user, system] = stat.split(') ')[1]?.split(' ').slice(11, 13) ?? [];
  const used = Number(user) + Number(system);
  t.true(used > 0 && used / Number(passed) < 0.3, `${used} of ${passed}`);
});

test.serial('files of a bind belong to the caller outside, and to the user inside', async (t) => {
  const directory = join(state.beside, 'bound');
  await mkdir(directory);
  await writeFile(join(directory, 'given'), 'given');
  const { stdout, exitCode } = await sh('cat given; stat -c %u given; echo made > made', [
    '--bind',
    `${directory}:/mnt/w:rw,Z`,
    '--workdir',
    '/mnt/w',
  ]);
  t.is(exitCode, 0);
  t.is(stdout, 'given1000');
  t.is(await readFile(join(directory, 'made'), 'utf8'), 'made\n');
  t.is((await stat(join(directory, 'made'))).uid, process.getuid?.() ?? -1);
  const readonly = await sh('echo x > /mnt/w/other', [
    '--user',
    'root',
    '--bind',
    `${directory}:/mnt/w:ro,Z`,
  ]);
  t.not(readonly.exitCode, 0);
  t.deepEqual((await readdir(directory)).sort(), ['given', 'made']);
});

test.serial('an invalid artifact pattern is refused before the command starts', async (t) => {
  const bound = join(state.beside, 'pattern');
  await mkdir(bound, { recursive: true });
  const options = ['--bind', `${bound}:/bound`, '--artifact', 'a/..', '--resultdir', bound];
  const refused = await sh('touch /bound/ran', options);
  t.is(refused.exitCode, 125);
  t.regex(String(refused.stderr), /artifact pattern "a\/\.\." has "\.\."/);
  t.deepEqual((await readdir(bound)).sort(), ['report.html', 'result.json']);
});

test.serial('artifacts come out, and links do not lead out', async (t) => {
  const results = join(state.paths.root, 'results');
  const { exitCode } = await sh(
    'mkdir /tmp/o; echo hello > /tmp/o/a.txt; ln -s /etc/passwd /tmp/o/l.txt',
    ['--artifact', '/tmp/o/*.txt', '--resultdir', results],
  );
  t.is(exitCode, 0);
  t.is(await readFile(join(results, 'a.txt'), 'utf8'), 'hello\n');
  t.false((await readdir(results)).includes('l.txt'));
  const missing = await sh('true', ['--artifact', '/tmp/nothing', '--resultdir', results]);
  t.is(missing.exitCode, 125);
});

test.serial('^C ends the collection of artifacts, and the results are unchanged', async (t) => {
  t.timeout(120_000 * PATIENCE);
  const results = join(state.paths.root, 'interrupted');
  const child = sh('truncate -s 15G /tmp/huge; echo done', [
    ...['--disk', '64M', '--artifact', '/tmp/huge', '--resultdir', results],
  ]);
  const collecting = async () =>
    (await readdir(results).catch(() => [])).some((name) => name.startsWith('.kiln-collecting-'));
  let over = false;
  child.finally(() => {
    over = true;
  });
  while (!over && !(await collecting())) await sleep(10);
  await sleep(300);
  t.true(await collecting());
  const began = performance.now();
  child.kill('SIGINT');
  const { exitCode, stdout, stderr } = await child;
  t.is(stdout, 'done');
  t.regex(String(stderr), /interrupted/);
  t.is(exitCode, 125);
  t.true(performance.now() - began < 5000 * PATIENCE);
  t.deepEqual((await readdir(results)).sort(), ['report.html', 'result.json']);
});

test.serial('a sparse file of any size is refused at once', async (t) => {
  const results = join(state.paths.root, 'sparse');
  const { exitCode, stderr } = await sh('truncate -s 100G /tmp/huge', [
    ...['--artifact', '/tmp/huge', '--resultdir', results],
  ]);
  t.is(exitCode, 125);
  t.regex(String(stderr), /more than 16\.0G of holes in sparse files/);
});

test.serial('a run leaves no processes, mounts, folders or id ranges', async (t) => {
  // The folders are there from the first run on.
  await sh('true');
  const system = (state.env.KILN_URI ?? '') !== '';
  const domainLogs = system ? '/var/log/libvirt/lxc' : embeddedFiles(state.paths).domainLogs;
  t.true(await until(() => readdirSync(state.paths.sandboxes).length === 0));
  const before = readdirSync(state.paths.sandboxes);
  const logs = readdirSync(domainLogs);
  // Others of this machine mount, too.
  const mountsOfState = () => {
    const lines = readFileSync('/proc/self/mountinfo', 'utf8').split('\n');
    const { root, run } = state.paths;
    return lines.filter((line) => line.includes(root) || line.includes(run));
  };
  const mounts = mountsOfState();
  const run = await sh('(sleep 300; touch /tmp/late) & echo done');
  t.is(run.stdout, 'done');
  t.is(run.exitCode, 0, String(run.stderr));
  // Nobody waits for its output: only the end of the sandbox ends it.
  const silent = `sleep ${ownSeconds()}`;
  await sh(`setsid ${silent} </dev/null >/dev/null 2>&1 & sleep 0.2`);
  // The daemon removes a sandbox after it has told the caller.
  t.true(await until(() => processesCalled(...silent.split(' ')).length === 0));
  const newIn = (folder: string, known: readonly string[]) =>
    readdirSync(folder).filter((name) => !known.includes(name));
  t.true(await until(() => newIn(state.paths.sandboxes, before).length === 0));
  t.true(await until(() => mountsOfState().join() === mounts.join()), mountsOfState().join('\n'));
  const left = () => newIn(domainLogs, logs);
  t.true(await until(() => left().length === 0), `libvirt keeps no log of it: ${left().join()}`);
});

test.serial('^C reaches the command, and a second one ends it, whatever it does', async (t) => {
  const polite = sh('trap "echo got; exit 3" INT; echo up; while true; do sleep 0.1; done', [], {
    buffer: true,
  });
  await once(polite.stdout as NodeJS.ReadableStream, 'data');
  polite.kill('SIGINT');
  const ended = await polite;
  t.is(ended.exitCode, 3);
  t.regex(String(ended.stdout), /got/);
  const stubborn = sh('trap "" INT; echo up; while true; do sleep 0.1; done');
  await once(stubborn.stdout as NodeJS.ReadableStream, 'data');
  // On a busy machine two signals may come as one.
  const again = setInterval(() => stubborn.kill('SIGINT'), 300);
  t.is((await stubborn).exitCode, 137);
  clearInterval(again);
});

test.serial('TERM, HUP and QUIT reach the command, too', async (t) => {
  const ends = await Promise.all(
    (['TERM', 'HUP', 'QUIT'] as const).map(async (name) => {
      const trap = `trap "echo got ${name}; exit 3" ${name}; echo up`;
      const command = sh(`${trap}; while true; do sleep 0.1; done`);
      await once(command.stdout as NodeJS.ReadableStream, 'data');
      command.kill(`SIG${name}`);
      const { exitCode, stdout } = await command;
      return [exitCode, stdout];
    }),
  );
  t.deepEqual(ends, [
    [3, 'up\ngot TERM'],
    [3, 'up\ngot HUP'],
    [3, 'up\ngot QUIT'],
  ]);
});

test.serial('kill -9 of kiln ends the sandbox, and the next run removes its folder', async (t) => {
  const command = execa(
    process.execPath,
    [MAIN, 'run', '-r', IMAGE, '--', 'sh', '-c', 'echo up; sleep 300'],
    {
      env: state.env,
      reject: false,
      stdin: 'ignore',
    },
  );
  await once(command.stdout as NodeJS.ReadableStream, 'data');
  const id = await onlySandbox();
  t.true((await processesOf(id)) > 0);
  command.kill('SIGKILL');
  await command;
  for (let i = 0; i < 50 * PATIENCE && (await processesOf(id)) > 0; i++) await sleep(100);
  t.is(await processesOf(id), 0, 'processes of the sandbox');
  t.is((await sh('true')).exitCode, 0);
  // In the background.
  t.true(await until(() => !existsSync(join(state.paths.sandboxes, id))));
});

test.serial('ten runs at once do not disturb each other', async (t) => {
  const results = await Promise.all(
    Array.from({ length: 10 }, (_, i) => sh(`echo ${i}; id -u; exit ${i}`)),
  );
  results.forEach((result, i) => {
    t.is(result.exitCode, i, String(result.stderr));
    t.is(result.stdout, `${i}\n1000`);
  });
  // The daemon removes them after it has told the callers.
  t.true(await until(() => readdirSync(state.paths.sandboxes).length === 0));
});

test.serial('a kept sandbox is entered as it was left, then destroyed', async (t) => {
  t.is((await sh('echo state > /tmp/f', ['--keep=5m'])).exitCode, 0);
  const sandboxes = JSON.parse(String((await state.kiln(['ps', '--json'])).stdout));
  t.is(sandboxes.length, 1);
  t.is(sandboxes[0].state, 'kept');
  const shell = await state.kiln(['shell', sandboxes[0].id], {
    stdin: 'pipe',
    input: 'cat /tmp/f; id -u; exit 4\n',
  });
  t.is(shell.stdout, 'state\n1000');
  t.is(shell.exitCode, 4);
  const file = join(state.beside, 'exec.txt');
  await writeFile(file, 'copied\n');
  const { id } = sandboxes[0];
  const copied = await state.kiln([
    'exec',
    '--copy-in',
    `${file}:/tmp/new`,
    id,
    '--',
    'cat',
    '/tmp/f',
    '/tmp/new',
  ]);
  t.is(copied.stdout, 'state\ncopied');
  const folder = join(state.beside, 'with-fifo');
  await mkdir(folder);
  await execa('mkfifo', [join(folder, 'fifo')]);
  const warned = await state.kiln(['exec', '--copy-in', `${folder}:/tmp`, id, '--', 'true']);
  t.regex(String(warned.stderr), /^kiln: warning: .*fifo.* is a fifo: skipped \[special-file\]$/m);
  t.is((await state.kiln(['kill', id])).exitCode, 0);
  t.is((await state.kiln(['ps', '--json'])).stdout, '[]');
  await sh('true', ['--keep=5m']);
  const kiln = openKiln({ env: { ...process.env, ...state.env } });
  try {
    const sweep = (keptMaxAge: number) =>
      sweepSandboxes(state.paths, kiln.engine.connect, { keptMaxAge });
    t.deepEqual(await sweep(3_600_000), []);
    await sleep(20);
    t.is((await sweep(10)).length, 1);
  } finally {
    await kiln.close();
  }
  t.is((await state.kiln(['ps', '--json'])).stdout, '[]');
});

test.serial('a terminal has a size, job control and control characters', async (t) => {
  const kiln = `'${join(import.meta.dirname, '../../bin/kiln')}' run -r ${IMAGE} --tty -- sh -c 'tty; stty size; echo done'`;
  // Its input stays open until it ends.
  const { stdout } = await execa('script', ['-qec', `stty rows 33 cols 99; ${kiln}`, '/dev/null'], {
    env: state.env,
    timeout: 30_000 * PATIENCE,
  });
  t.regex(stdout.replaceAll('\r', ''), /\/dev\/pts\/0\n+33 99\n+done/);
});

test.serial('a command sees that its terminal changed its size', async (t) => {
  const device = join(state.paths.root, 'terminal');
  // stty(1) sets one after the other, so the sandbox may be told of a size in between.
  const inside =
    'trap "stty size | grep 44.88 && exit 5" WINCH; echo up; while true; do sleep 0.1; done';
  const kiln = `"${join(import.meta.dirname, '../../bin/kiln')}" run -r ${IMAGE} --tty -- sh -c '${inside}'`;
  const script = `tty > "${device}"; stty rows 33 cols 99; ${kiln}`;
  const terminal = execa('script', ['-qec', script, '/dev/null'], {
    env: state.env,
    timeout: 30_000 * PATIENCE,
    reject: false,
  });
  await once(terminal.stdout, 'data');
  const path = (await readFile(device, 'utf8')).trim();
  await execa('stty', ['-F', path, 'rows', '44', 'cols', '88']);
  const { exitCode, stdout } = await terminal;
  t.is(stdout.replaceAll('\r', ''), 'up\n44 88');
  t.is(exitCode, 5);
});
