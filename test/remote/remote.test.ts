/** `kiln --host`: commands on another machine, through a real sshd. The far end's state is another one than the near end's. */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import {
  chmodSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmdirSync,
  rmSync,
  statSync,
  symlinkSync,
  unlinkSync,
  utimesSync,
  writeFileSync,
} from 'node:fs';
import { dirname, join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import anyTest, { type TestFn } from 'ava';
import { execa, type Options } from 'execa';
import { sourcePackage } from '../build/core/build-state.ts';
import {
  type BusyboxState,
  busyboxState,
  IMAGE,
  KILN,
  PATIENCE,
} from '../support/busybox-state.ts';
import { GithubRunner } from '../support/ci-runner.ts';
import { daemonPid } from '../support/daemon.ts';
import { until } from '../support/eventually.ts';
import { long } from '../support/long.ts';
import { ownSeconds, processesCalled } from '../support/processes.ts';
import { type SshServer, sshServer } from '../support/ssh-server.ts';
import { giveUnpackedPackages, NOARCH_RECIPE } from '../support/unpacked-packages.ts';

interface World {
  readonly far: BusyboxState;
  readonly near: BusyboxState;
  readonly server: SshServer;
  readonly env: Record<string, string>;
  readonly cwd: string;
}

const test = anyTest as TestFn<World>;
const RUN = ['run', '-r', 'busybox'];

test.before(async (t) => {
  const [far, near] = [await busyboxState(), await busyboxState()];
  const path = `${dirname(KILN)}:${process.env.PATH}`;
  const server = await sshServer(join(far.beside, 'ssh'), {
    KILN_STATE: far.paths.root,
    KILN_NODE: process.execPath,
    KILN_PARKED: '1',
    PATH: path,
  });
  const cwd = join(near.beside, 'work');
  mkdirSync(cwd);
  const env = {
    PATH: `${server.bin}:${path}`,
    HOME: process.env.HOME ?? '/root',
    KILN_STATE: near.paths.root,
    KILN_NODE: process.execPath,
  };
  t.context = { far, near, server, env, cwd };
});
test.after.always(async ({ context: { far, near, server } }) => {
  await server[Symbol.asyncDispose]();
  await far[Symbol.asyncDispose]();
  await near[Symbol.asyncDispose]();
});

/** Runs kiln there. Never rejects. */
async function there(
  { server, env, cwd }: World,
  args: readonly string[],
  options: Options = {},
): Promise<{ exitCode: number | undefined; stdout: string; stderr: string }> {
  const { exitCode, stdout, stderr } = await execa(KILN, ['--host', server.url, ...args], {
    ...{ env, cwd, extendEnv: false, reject: false, stdin: 'ignore' },
    timeout: 120_000 * PATIENCE,
    killSignal: 'SIGKILL',
    ...options,
  });
  return { exitCode, stdout: String(stdout), stderr: String(stderr) };
}

/** Folders of far ends that are there: also those of other tests, or what a killed one left. */
function farFolders(): string[] {
  return readdirSync('/var/tmp').filter((name) => name.startsWith('kiln-remote-'));
}

const BEFORE: readonly string[] = farFolders();

/** Whether what is there now, and was not before these tests, goes. */
async function allFoldersGo(): Promise<boolean> {
  const now = farFolders().filter((name) => !BEFORE.includes(name));
  return await until(() => !farFolders().some((name) => now.includes(name)));
}

test.serial('a command runs there, with its status, both outputs and standard input', async (t) => {
  const world = t.context;
  const script = 'cat; echo out; echo err >&2; exit 7';
  const done = await there(world, [...RUN, '--', 'sh', '-c', script], {
    stdin: 'pipe',
    input: 'given\n',
  });
  t.is(done.exitCode, 7, done.stderr);
  t.is(done.stdout, 'given\nout');
  t.is(done.stderr, 'err');
  t.truthy(daemonPid(world.far.paths.root));
  t.is(daemonPid(world.near.paths.root), undefined, 'nothing of it is here');
  const env = { ...world.env, KILN_HOST: world.server.url };
  const named = await execa(KILN, ['ps', '--json'], { env, extendEnv: false });
  t.true(Array.isArray(JSON.parse(String(named.stdout))));
  t.is(daemonPid(world.near.paths.root), undefined);
});

test.serial('a run that names no file needs no Node here', async (t) => {
  const world = t.context;
  const env = { ...world.env, KILN_NODE: '/bin/false' };
  const limits = ['--memory=64M', '--env', 'A=b', '-w', '/tmp', '--timeout', '60s'];
  const done = await there(world, [...RUN, ...limits, '--', 'sh', '-c', 'echo $A $PWD'], { env });
  t.deepEqual([done.exitCode, done.stdout], [0, 'b /tmp'], done.stderr);
  // What names a file, or is no option, is for src/remote.
  for (const words of [['--copy-in', '/etc/hostname:/h'], ['--nosuch']]) {
    t.not((await there(world, [...RUN, ...words, '--', 'true'], { env })).exitCode, 0);
  }
  const unknown = await there(world, [...RUN, '--nosuch', '--', 'true']);
  t.regex(unknown.stderr, /unknown option '--nosuch'/);
});

test.serial('messages of the far kiln give no commands to a CI service here', async (t) => {
  const world = t.context;
  const env = { ...world.env, GITHUB_ACTIONS: 'true' };
  const { exitCode, stderr } = await there(world, ['run', '-r', 'x##[add-mask]y', '--', 'true'], {
    env,
  });
  t.is(exitCode, 125);
  t.regex(stderr, /x##\\x5badd-mask\]y/);
  t.deepEqual(new GithubRunner().read(stderr).executed, []);
});

test.serial('the value of --env NAME is in no command line of the far machine', async (t) => {
  const world = t.context;
  const { cwd } = world;
  const value = `hidden-${Date.now()}`;
  // Neither kiln nor ssh there obeys it, and the far machine's own value is not meant.
  const env = { ...world.env, TOKEN: value, LD_PRELOAD_OF_MINE: value };
  const script = 'echo "$TOKEN $LD_PRELOAD_OF_MINE $(env | grep -c ^NONE=)"; cat';
  const names = ['TOKEN', 'LD_PRELOAD_OF_MINE', 'NONE'].flatMap((name) => ['--env', name]);
  const child = spawn(
    KILN,
    ['--host', world.server.url, ...RUN, ...names, '--', 'sh', '-c', script],
    { env, cwd },
  );
  let said = '';
  child.stdout.on('data', (chunk: Buffer) => {
    said += chunk.toString();
  });
  t.true(await until(() => said.includes('\n')), 'the command has begun');
  t.is(said, `${value} ${value} 0\n`);
  const words = readdirSync('/proc')
    .filter((name) => /^\d+$/.test(name))
    .map((pid) => {
      try {
        return readFileSync(`/proc/${pid}/cmdline`, 'utf8');
      } catch {
        return '';
      }
    });
  t.true(
    words.some((line) => line.includes('--env=TOKEN')),
    'the far kiln is among them',
  );
  t.deepEqual(
    words.filter((line) => line.includes(value)),
    [],
  );
  child.stdin.end();
  await once(child, 'exit');
});

test.serial('files are copied there, and artifacts come back', async (t) => {
  const world = t.context;
  const { cwd } = world;
  mkdirSync(join(cwd, 'tree/sub'), { recursive: true });
  writeFileSync(join(cwd, 'tree/sub/script'), '#!/bin/sh\necho ran "$1"\n', { mode: 0o755 });
  chmodSync(join(cwd, 'tree/sub/script'), 0o755);
  symlinkSync('sub/script', join(cwd, 'tree/link'));
  writeFileSync(join(cwd, 'token'), 'secret\n');
  const work =
    '/tmp/tree/link x; cat /run/secrets/token; mkdir -p o/d; echo made > o/d/f; ln -s /etc o/l';
  const args = [
    ...RUN,
    '--copy-in',
    'tree:/tmp/tree',
    '--secret',
    'token=token',
    '--workdir',
    '/tmp',
  ];
  const done = await there(world, [
    ...args,
    ...['--artifact', 'o', '--resultdir', 'out', '--', 'sh', '-c', work],
  ]);
  t.is(done.exitCode, 0, done.stderr);
  t.is(done.stdout, 'ran x\nsecret');
  t.is(readFileSync(join(cwd, 'out/o/d/f'), 'utf8'), 'made\n');
  const result = JSON.parse(readFileSync(join(cwd, 'out/result.json'), 'utf8')) as object;
  t.truthy(result);
  t.true(await allFoldersGo());
});

test.serial('much data passes, in both directions', async (t) => {
  const world = t.context;
  const { cwd } = world;
  // A gigabyte with `scripts/test --long`.
  const bytes = process.env.KILN_TEST_LONG === '1' ? 1 << 30 : 20 << 20;
  const big = join(cwd, 'big');
  await execa('sh', ['-c', `head -c ${bytes} /dev/urandom > ${big}`]);
  const digest = async (path: string) =>
    String((await execa('sha256sum', [path])).stdout).slice(0, 64);
  const done = await there(
    world,
    [
      ...[...RUN, '--disk', '4G', '--copy-in', 'big:/tmp/big', '--artifact', '/tmp/back'],
      ...['--resultdir', 'much', '--', 'sh', '-c', 'cp /tmp/big /tmp/back; cat /tmp/big'],
    ],
    // More than execa keeps.
    { encoding: 'buffer', stdout: { file: join(cwd, 'streamed') }, buffer: { stdout: false } },
  );
  t.is(done.exitCode, 0, done.stderr);
  const back = existsSync(join(cwd, 'much/back')) ? 'much/back' : 'much/tmp/back';
  t.is(await digest(join(cwd, back)), await digest(big));
  t.is(await digest(join(cwd, 'streamed')), await digest(big));
  const piped = await execa(
    'sh',
    ['-c', `"$0" "$@" < ${big} | sha256sum`, KILN, '--host', world.server.url, ...RUN, '--', 'cat'],
    {
      env: world.env,
      cwd,
      extendEnv: false,
    },
  );
  t.is(String(piped.stdout).slice(0, 64), await digest(big));
});

long<World>('results arrive while they are made', async (t) => {
  const world = t.context;
  const recipe = `image: ${IMAGE.slice(0, 12)}\nsteps: ["echo begun", "sleep 8"]\nsources: [{file: sub/data}]\n`;
  mkdirSync(join(world.cwd, 'sub'));
  writeFileSync(join(world.cwd, 'sub/data'), 'data\n');
  writeFileSync(join(world.cwd, 'it.yaml'), recipe.replace('echo begun', 'cat /sources/data'));
  const building = there(world, ['build', 'it.yaml', '--resultdir', 'live']);
  const done = await building;
  t.is(done.exitCode, 0, done.stderr);
  t.regex(done.stdout, /data/);
  t.true(existsSync(join(world.cwd, 'live/result.json')));
  t.notRegex(done.stderr, /kiln-remote-/, 'messages have the caller’s names');
});

test.serial('packages and chains build there, and arrive as they are made', async (t) => {
  const world = t.context;
  const fixtures = process.env.KILN_FIXTURES ?? join(import.meta.dirname, '../../.cache/fixtures');
  symlinkSync(fixtures, join(world.far.paths.root, 'fixtures'));
  await giveUnpackedPackages(world.far.paths, 'noarch');
  writeFileSync(join(world.cwd, 'noarch.yaml'), NOARCH_RECIPE);
  const image = await there(world, ['image', 'build', './noarch.yaml'], { timeout: 600_000 });
  t.is(image.exitCode, 0, image.stderr);
  const first = await sourcePackage(world.cwd, { name: 'first' });
  // Ended below, when the first has come.
  const seconds = ownSeconds();
  const install = `sleep ${seconds} || :`;
  const second = await sourcePackage(world.cwd, { name: 'second', install });
  const chain = there(world, [
    ...['build', '--chain', '--jobs', '2', '-r', 'noarch', '--resultdir', 'chain'],
    ...[first, second],
  ]);
  const made = () =>
    readdirSync(join(world.cwd, 'chain'), { recursive: true })
      .map(String)
      .filter((name) => /(first|second)-1-1\.[^/]*\.rpm$/.test(name) && !name.includes('.src.'));
  let ended = false;
  const over = chain.then((result) => {
    ended = true;
    return result;
  });
  const came = await until(() => existsSync(join(world.cwd, 'chain')) && made().length > 0);
  t.true(came);
  t.false(ended, 'before the chain has ended');
  t.true(made().every((name) => name.includes('first')));
  t.true(await until(() => processesCalled('sleep', seconds).length === 1));
  for (const pid of processesCalled('sleep', seconds)) process.kill(pid);
  const done = await over;
  t.is(done.exitCode, 0, done.stderr);
  t.true(made().some((name) => name.includes('second')));
  t.regex(done.stdout, /first-1-1 +built/);
  const bad = await sourcePackage(world.cwd, { name: 'bad', install: 'exit 7' });
  const failed = await there(world, ['build', '-r', 'noarch', bad]);
  t.is(failed.exitCode, 1);
  t.regex(readFileSync(join(world.cwd, 'result/build.log'), 'utf8'), /exit 7/);
});

test.serial('signals and terminals work there', async (t) => {
  const world = t.context;
  const { server, env, cwd } = world;
  const trap = 'trap "echo caught; exit 9" INT; echo ready; while :; do sleep 0.1; done';
  const child = spawn(KILN, ['--host', server.url, ...RUN, '--', 'sh', '-c', trap], { env, cwd });
  let said = '';
  child.stdout.on('data', (chunk: Buffer) => {
    said += chunk.toString();
    if (said === 'ready\n') child.kill('SIGINT');
  });
  const [code] = (await once(child, 'close')) as [number];
  t.is(code, 9);
  t.is(said, 'ready\ncaught\n');
  const shown = `stty rows 33 cols 111; exec "$0" --host ${server.url} run -r busybox --tty -- sh -c 'stty size; read -r l; echo got $l; exit 4'`;
  const terminal = await execa(
    'script',
    ['-qefc', `sh -c ${quote(shown)} ${quote(KILN)}`, '/dev/null'],
    {
      ...{ env: { ...env, TERM: 'xterm' }, cwd, extendEnv: false, reject: false },
      input: 'typed\r',
      timeout: 60_000 * PATIENCE,
    },
  );
  t.is(terminal.exitCode, 4, String(terminal.stdout));
  t.regex(String(terminal.stdout), /33 111/);
  t.regex(String(terminal.stdout), /got typed/);
  const raw = `exec "$0" --host ${server.url} run -r busybox -t -- sh -c 'stty raw -echo -opost; printf "a\\nb\\n"'`;
  const plain = await execa(
    'script',
    ['-qefc', `sh -c ${quote(raw)} ${quote(KILN)}`, '/dev/null'],
    {
      ...{ env: { ...env, TERM: 'xterm' }, cwd, extendEnv: false, stripFinalNewline: false },
      timeout: 60_000 * PATIENCE,
    },
  );
  t.regex(String(plain.stdout), /a\nb\n$/);
});

test.serial('a reader that has seen enough ends the far command', async (t) => {
  const { server, env, cwd } = t.context;
  const pipe = `"$0" --host ${server.url} run -r busybox -- yes | head -n 2; echo "\${PIPESTATUS[0]}"`;
  const options = { env, cwd, extendEnv: false, timeout: 60_000 * PATIENCE };
  const { stdout } = await execa('bash', ['-c', pipe, KILN], options);
  t.is(stdout, 'y\ny\n141');
});

function quote(text: string): string {
  return `'${text.replaceAll("'", String.raw`'\''`)}'`;
}

test.serial('a broken connection ends the far command', async (t) => {
  const world = t.context;
  const { server, env, cwd } = world;
  for (const [whose, isResult] of [
    ...[['ssh', true] as const, ['client', true] as const, ['sshd', true] as const],
    ...[['ssh', false] as const, ['client', false] as const, ['sshd', false] as const],
  ]) {
    const seconds = ownSeconds();
    // What writes no results here is the client's own way.
    const results = isResult ? ['--resultdir', `broken-${whose}`] : [];
    const args = ['--host', server.url, ...RUN, ...results, '--', 'sleep', seconds];
    const child = spawn(KILN, args, { env, cwd });
    let said = '';
    child.stderr.on('data', (chunk: Buffer) => {
      said += chunk.toString();
    });
    t.true(await until(() => processesCalled('sleep', seconds).length === 1), said);
    if (whose === 'client') child.kill('SIGKILL');
    else if (whose === 'sshd') server.killSessions();
    else {
      const children = readFileSync(`/proc/${child.pid}/task/${child.pid}/children`, 'utf8');
      process.kill(Number(children.trim().split(' ')[0]), 'SIGKILL');
    }
    const [code] = (await once(child, 'close')) as [number | null];
    if (whose !== 'client') {
      t.is(code, 125);
      t.regex(said, /the connection to 127\.0\.0\.1 ended before the command did/);
    }
    t.true(await until(() => processesCalled('sleep', seconds).length === 0), whose);
  }
  // The result of a command that was ended is written after that.
  await sleep(2000);
  t.true(await allFoldersGo());
});

test.serial('a connection that ssh keeps serves later commands', async (t) => {
  const { server, env, cwd } = t.context;
  const folder = mkdtempSync('/var/tmp/kiln-kept-');
  t.teardown(() => rmSync(folder, { recursive: true, force: true }));
  const keeping = `-o ControlMaster=auto -o ControlPath=${folder}/%C -o ControlPersist=600`;
  const ssh = join(folder, 'ssh');
  writeFileSync(ssh, `#!/bin/sh\nexec ${server.bin}/ssh ${keeping} "$@"\n`, { mode: 0o755 });
  const kept = { ...env, PATH: `${folder}:${env.PATH}` };
  const { hostname, port, username } = new URL(server.url);
  const ask = async (what: string) =>
    await execa(ssh, ['-O', what, '-p', port, '-l', username, hostname], {
      env: kept,
      reject: false,
    });
  // It does not wait for what keeps the connection.
  for (let n = 0; n < 2; n++) {
    const { exitCode, stdout, stderr } = await there({ ...t.context, env: kept, cwd }, [
      ...RUN,
      '--',
      'echo',
      'kept',
    ]);
    t.deepEqual([exitCode, stdout], [0, 'kept'], stderr);
    const { stderr: said } = await ask('check');
    t.regex(String(said), /Master running/);
  }
  t.is((await ask('exit')).exitCode, 0);
});

test.serial('a detached job goes on there, and is found again', async (t) => {
  const world = t.context;
  writeFileSync(join(world.cwd, 'input'), 'input\n');
  const begun = await there(world, [
    ...[...RUN, '--detach', '--name', 'apart', '--copy-in', 'input:/tmp/input'],
    ...[
      '--artifact',
      '/tmp/o',
      '--',
      'sh',
      '-c',
      'sleep 2; cp /tmp/input /tmp/o; echo said; exit 3',
    ],
  ]);
  t.is(begun.exitCode, 0, begun.stderr);
  t.regex(begun.stdout, /^[0-9a-f]{10}$/);
  t.is((await there(world, ['wait', 'apart'])).exitCode, 3);
  t.is((await there(world, ['logs', begun.stdout])).stdout, 'said');
  const fetched = await there(world, ['results', 'apart', 'fetched']);
  t.is(fetched.exitCode, 0, fetched.stderr);
  t.is(fetched.stdout, 'fetched');
  const nowhere = await there(world, ['results', 'apart', '/proc/x']);
  t.regex(nowhere.stderr, /the result folder \/proc\/x cannot be used/);
  t.true(existsSync(join(world.cwd, 'fetched/result.json')));
  t.true(await allFoldersGo());
});

test.serial('root’s own options of gc and image rm are sent with --host', async (t) => {
  const world = t.context;
  const tried = await there(world, ['gc', '--dry-run', '--verify', '--max-size', '100G']);
  t.is(tried.exitCode, 0, tried.stderr);
  t.regex(tried.stdout, /^would remove nothing/);
  const missing = await there(world, ['image', 'rm', '--packages', 'nothing']);
  t.regex(missing.stderr, /there is no image and no recipe called nothing/);
});

test.serial('options that cannot travel are refused by name before anything is sent', async (t) => {
  const world = t.context;
  const refusals: readonly (readonly [readonly string[], RegExp])[] = [
    [[...RUN, '--bind', '.:/work', '--', 'true'], /--bind does not go to another machine/],
    [['service', 'list'], /kiln service list does not go to another machine/],
    [['build', './it.ts'], /\.\/it\.ts does not go to another machine/],
    [['build', '-r', 'busybox', '--addrepo', '/srv/repo', 'x.src.rpm'], /--addrepo does not go/],
    [
      [...RUN, '--detach', '--resultdir', 'x', '--', 'true'],
      /--resultdir with --detach does not go/,
    ],
    [[...RUN, '--copy-in', 'nothing:/x', '--', 'true'], /nothing cannot travel: .*no such file/i],
    [[...RUN, '--frobnicate', '--', 'true'], /unknown option '--frobnicate'/],
  ];
  for (const [args, why] of refusals) {
    const { exitCode, stderr } = await there(world, args);
    t.is(exitCode, 125, args.join(' '));
    t.regex(stderr, why);
  }
  const wrong = await execa(KILN, ['--host', 'ssh://-oProxyCommand=x', 'ps'], {
    ...{ env: world.env, reject: false, extendEnv: false },
  });
  t.regex(String(wrong.stderr), /is not the address of a machine/);
});

test.serial('errors of the far machine are reported', async (t) => {
  const world = t.context;
  const { server, far } = world;
  const known = readFileSync(server.knownHosts, 'utf8');
  const key = join(far.beside, 'other');
  await execa('ssh-keygen', ['-q', '-t', 'ed25519', '-N', '', '-f', key]);
  const [kind, other] = readFileSync(`${key}.pub`, 'utf8').split(' ');
  writeFileSync(server.knownHosts, `${known.split(' ')[0]} ${kind} ${other}\n`);
  const changed = await there(world, ['ps']);
  writeFileSync(server.knownHosts, known);
  t.is(changed.exitCode, 125);
  t.regex(changed.stderr, /127\.0\.0\.1 has not the host key that ssh knows it by/);
  const closed = await execa(KILN, ['--host', 'ssh://root@127.0.0.1:1', 'ps'], {
    ...{ env: world.env, reject: false, extendEnv: false },
  });
  t.regex(String(closed.stderr), /ssh to 127\.0\.0\.1 ended \(status 255\)/);
  // Of servers whose kiln is another one, or none.
  const bin = join(far.beside, 'other-bin');
  mkdirSync(bin);
  const message = JSON.stringify({ kiln: '9.9.9', protocol: 1, folder: '/x' });
  const size = Buffer.alloc(5);
  size.writeUInt32LE(message.length, 0);
  writeFileSync(join(far.beside, 'hello'), Buffer.concat([size, Buffer.from(message)]));
  writeFileSync(join(bin, 'kiln'), `#!/bin/sh\ncat ${far.beside}/hello; cat >/dev/null\n`, {
    mode: 0o755,
  });
  chmodSync(join(bin, 'kiln'), 0o755);
  const elsewhere = async (name: string, PATH: string) => {
    await using another = await sshServer(join(far.beside, name), { PATH });
    const env = { ...world.env, PATH: `${another.bin}:${world.env.PATH}` };
    return await there({ ...world, server: another, env }, ['ps']);
  };
  const old = await elsewhere('ssh-old', `${bin}:/usr/bin:/bin`);
  t.regex(old.stderr, /127\.0\.0\.1 has kiln 9\.9\.9, and this is \d/);
  writeFileSync(join(bin, 'kiln'), '#!/bin/sh\necho Welcome to this machine; cat >/dev/null\n');
  const chatty = await elsewhere('ssh-chatty', `${bin}:/usr/bin:/bin`);
  t.regex(chatty.stderr, /127\.0\.0\.1 sent what no kiln sends/);
  t.is(chatty.exitCode, 125);
  const none = await elsewhere('ssh-none', '/usr/bin:/bin');
  t.regex(none.stderr, /127\.0\.0\.1 has no kiln that ssh finds/);
  t.is(none.exitCode, 125);
  t.true(statSync(server.bin).isDirectory());
});

test.serial('files that others plant beside the far end’s folders do not block it', async (t) => {
  const world = t.context;
  const ring = `/var/tmp/kiln-remote-ring-${process.pid}`;
  const other = `/var/tmp/ring-${process.pid}`;
  const victim = mkdtempSync('/var/tmp/victim-');
  const link = `/var/tmp/kiln-remote-link-${process.pid}`;
  for (const path of [ring, other]) symlinkSync(path, path);
  symlinkSync(victim, link);
  try {
    const { exitCode, stderr } = await there(world, ['ps']);
    t.is(exitCode, 0, stderr);
    t.deepEqual(readdirSync(victim), []);
  } finally {
    for (const path of [ring, other, link]) unlinkSync(path);
    rmdirSync(victim);
  }
});

test.serial(
  'the next call removes a folder that was never locked, and one that a command made anew',
  async (t) => {
    const old = `/var/tmp/kiln-remote-old-${process.pid}`;
    const young = `/var/tmp/kiln-remote-young-${process.pid}`;
    for (const folder of [old, young])
      mkdirSync(join(folder, 'out0'), { mode: 0o700, recursive: true });
    const before = Date.now() / 1000 - 3600;
    utimesSync(old, before, before);
    try {
      const { exitCode, stderr } = await there(t.context, ['ps']);
      t.is(exitCode, 0, stderr);
      t.deepEqual([existsSync(old), existsSync(young)], [false, true]);
    } finally {
      for (const folder of [old, young]) rmSync(folder, { recursive: true, force: true });
    }
  },
);
