/** Nothing of a caller's makes the Node that kiln runs on load a file. */
import { existsSync } from 'node:fs';
import {
  chmod,
  copyFile,
  mkdir,
  mkdtemp,
  readdir,
  readFile,
  rm,
  symlink,
  writeFile,
} from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import test from 'ava';
import { execa } from 'execa';
import { kilnProgram, withoutOrders } from '../../src/host/process/own-node.ts';
import {
  type BusyboxState,
  busyboxState,
  IMAGE,
  KILN,
  PATIENCE,
} from '../support/busybox-state.ts';
import { endDaemon } from '../support/daemon.ts';

let state: BusyboxState;
/** A working directory that waits for a Node which takes orders from it. */
let folder: string;

test.before(async () => {
  state = await busyboxState();
  folder = await mkdtemp(join(tmpdir(), 'kiln-caller-'));
  await chmod(folder, 0o755);
  await writeFile(join(folder, '.env'), 'NODE_OPTIONS=--require=./evil.js\n');
  const config = { nodeOptions: { require: ['./evil.js'] } };
  await writeFile(join(folder, 'node.config.json'), JSON.stringify(config));
  const ran = JSON.stringify(join(folder, 'ran'));
  await writeFile(join(folder, 'evil.js'), `require('node:fs').writeFileSync(${ran}, '')`);
  await writeFile(join(folder, 'evil'), `#!/bin/sh\n: > ${ran}\nexit 1\n`, { mode: 0o755 });
  await copyFile(join(folder, 'evil'), join(folder, 'node'));
});
test.after.always(async () => {
  await rm(folder, { recursive: true, force: true });
  await state[Symbol.asyncDispose]();
});

/** Whether anything of the folder was run since it was last asked. */
async function ran(): Promise<boolean> {
  const there = existsSync(join(folder, 'ran'));
  await rm(join(folder, 'ran'), { force: true });
  return there;
}

const WORDS = [
  '--env-file=.env',
  '--env-file-if-exists=.env',
  '--experimental-default-config-file',
  '--experimental-config-file=node.config.json',
  '--require=./evil.js',
];
const PAIRS = [
  ['--env-file', '.env'],
  ['--experimental-config-file', 'node.config.json'],
];

test.serial('a plain Node in the test’s folder does load the planted files', async (t) => {
  await writeFile(join(folder, 'app.js'), '');
  for (const words of [...WORDS.slice(0, 4).map((word) => [word]), ...PAIRS]) {
    await execa(process.execPath, ['app.js', ...words], { cwd: folder });
    t.true(await ran(), words.join(' '));
  }
});

test.serial('no word of a command line is an option of Node, and all words arrive', async (t) => {
  const script = 'for word; do echo "[$word]"; done';
  const words = [...WORDS, ...PAIRS.flat(), '--', '', ':', ':--a', 'a\nb "$x" `y` \\', '*'];
  const args = ['run', '-r', IMAGE, '--', 'sh', '-c', script, 'sh', ...words];
  const { stdout, stderr } = await state.kiln(args, { cwd: folder });
  t.is(String(stdout), words.map((word) => `[${word}]`).join('\n'), String(stderr));
  t.false(await ran());
  for (const before of [[], ['run', '-r', IMAGE], ['mock', '--shell']]) {
    for (const each of [...WORDS.map((word) => [word]), ...PAIRS]) {
      await state.kiln([...before, ...each], { cwd: folder });
      t.false(await ran(), [...before, ...each].join(' '));
    }
  }
  await execa(`${KILN}-mock`, ['--shell', '--', '--env-file=.env'], {
    ...{ cwd: folder, env: state.env, reject: false },
  });
  t.false(await ran(), 'kiln-mock');
});

test.serial('many words are passed on quickly', async (t) => {
  const words = Array.from({ length: 20_000 }, (_, index) => `word-${index}`);
  const { stderr } = await state.kiln(['no-such-command', ...words]);
  t.regex(String(stderr), /unknown command/);
});

test.serial('the caller’s variables do not reach Node or the loader', async (t) => {
  const evil = join(folder, 'evil.js');
  const env = {
    ...state.env,
    NODE_OPTIONS: `--require=${evil}`,
    NODE_V8_COVERAGE: join(folder, 'ran'),
    NODE_REDIRECT_WARNINGS: join(folder, 'ran'),
    NODE_COMPILE_CACHE: join(folder, 'ran'),
    OPENSSL_CONF: join(folder, 'openssl.cnf'),
    LD_LIBRARY_PATH: folder,
    LINES: `a\nexport NODE_OPTIONS='b'\nexport NODE_PATH=c`,
    CDPATH: folder,
  };
  const names = ['NODE_OPTIONS', 'LD_LIBRARY_PATH', 'LINES'];
  const script = 'sleep 1; for name; do eval echo \\"[\\$$name]\\"; done';
  const options = names.flatMap((name) => ['--env', name]);
  const args = ['run', '-r', IMAGE, ...options, '--', 'sh', '-c', script, 'sh', ...names];
  const own = process.env.NODE_EXTRA_CA_CERTS === undefined ? [] : ['NODE_EXTRA_CA_CERTS'];
  // By the daemon, which this call starts, and in a process of its own.
  await endDaemon(state.paths.root);
  for (const program of [KILN, `${KILN}-node`]) {
    // The client leaves it to a process of its own where that is set.
    const given = program === KILN ? { ...env, KILN_FROM_SOURCE: '' } : env;
    const running = execa(program, args, { cwd: folder, env: given, reject: false });
    const seen = await orders(
      program === KILN ? ['kilnd.cjs'] : ['programs/command-line.ts', 'kiln.cjs'],
      state.paths.root,
    );
    t.deepEqual(seen, program === KILN ? [] : own, program);
    // What a sandbox is given by name is the caller's own value all the same.
    const { stdout, stderr } = await running;
    t.is(String(stdout), `[--require=${evil}]\n[${folder}]\n[${env.LINES}]`, String(stderr));
    t.false(await ran());
  }
});

/** Names of what would give orders to a Node, in the environment of the one that runs one of `programs` for a state. */
async function orders(programs: readonly string[], root: string): Promise<string[]> {
  for (const end = Date.now() + 30_000 * PATIENCE; ; await sleep(10)) {
    for (const pid of await readdir('/proc')) {
      const read = (name: string) => readFile(`/proc/${pid}/${name}`, 'latin1').catch(() => '');
      // Before it is executed it has another environment: read first, believed if the program is there.
      const environment = (await read('environ')).split('\0');
      const [node = '', ...words] = (await read('cmdline')).split('\0');
      const runs = words.some((word) => programs.some((program) => word.endsWith(`/${program}`)));
      if (!node.endsWith('/node') || !runs) continue;
      if (!environment.includes(`KILN_STATE=${root}`)) continue;
      const again = (await read('environ')).split('\0').map((line) => line.replace(/=.*$/s, ''));
      return again.filter((name) => /^(?:NODE|LD|OPENSSL)_|^CDPATH$/.test(name));
    }
    if (Date.now() > end) throw new Error(`no process runs ${programs.join(' or ')}`);
  }
}

test.serial('KILN_NODE must be root’s, and is no file of the working directory', async (t) => {
  // A kiln that others may pass to, wherever this checkout lies, and that does nothing.
  const top = await mkdtemp(join(tmpdir(), 'kiln-others-'));
  t.teardown(() => rm(top, { recursive: true, force: true }));
  await chmod(top, 0o755);
  for (const name of ['bin', 'dist']) await mkdir(join(top, name));
  await copyFile(`${KILN}-node`, join(top, 'bin/kiln'));
  await writeFile(join(top, 'dist/kiln.cjs'), '');
  await chmod(folder, 0o777);
  const call = async (env: Record<string, string>, ...as: string[]) => {
    const [program = '', ...args] = [...as, join(top, 'bin/kiln')];
    await execa(program, args, { cwd: folder, env: { KILN_NODE: '', ...env }, reject: false });
    return await ran();
  };
  const other = ['setpriv', '--reuid', '65534', '--regid', '65534', '--clear-groups', '--'];
  t.true(await call({ KILN_NODE: join(folder, 'evil') }), 'root may name another');
  t.false(await call({ KILN_NODE: join(folder, 'evil') }, ...other));
  t.false(await call({ KILN_NODE: 'node' }));
  t.false(await call({ KILN_NODE: './node' }));
  t.false(await call({ PATH: `.:${process.env.PATH}` }));
  // `cd bin/..` goes elsewhere with this one.
  await mkdir(join(folder, 'elsewhere/bin'), { recursive: true });
  await mkdir(join(folder, 'elsewhere/dist'));
  await symlink('../../evil.js', join(folder, 'elsewhere/dist/kiln.cjs'));
  await execa('bin/kiln', [], {
    ...{ cwd: top, env: { CDPATH: join(folder, 'elsewhere') }, reject: false },
  });
  t.false(await ran());
});

test('processes that kiln starts get neither variables nor options for Node', (t) => {
  const orders = { NODE_OPTIONS: 'a', LD_PRELOAD: 'b', NODE_PATH: 'c', OPENSSL_CONF: 'd' };
  const kept = { PATH: '/bin', NODE_EXTRA_CA_CERTS: '/x.pem', KILN_NODE: '/n', NODE: 'e' };
  t.deepEqual(withoutOrders({ ...orders, ...kept }), kept);
  const command = kilnProgram(['service', '--env-file=.env']) ?? [];
  t.deepEqual(command.slice(-2), [':service', ':--env-file=.env']);
});
