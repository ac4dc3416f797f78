import { existsSync } from 'node:fs';
import { readFile, readlink } from 'node:fs/promises';
import { hostname } from 'node:os';
import { setTimeout as sleep } from 'node:timers/promises';
import test from 'ava';
import { execa } from 'execa';
import { PATIENCE } from '../../support/busybox-state.ts';
import { eventually, until } from '../../support/eventually.ts';
import { long } from '../../support/long.ts';
import { ownSeconds, processesCalled, startedByKiln } from '../../support/processes.ts';
import { BUSYBOX, openWorkshop, type Workshop } from './workshop.ts';

let workshop: Workshop;

test.before(async () => {
  workshop = await openWorkshop();
});
test.after.always(async () => {
  await workshop[Symbol.asyncDispose]();
});

/** A recipe whose one step is a function with this body. */
const recipe = (body: string, more = '') => `
import { defineRecipe, parameters, $host } from 'kiln';
import { $, cd, within, retry, spinner, sleep } from 'zx';
export default defineRecipe({ image: '${BUSYBOX}', sandbox: { workdir: '/tmp' }, ${more}
  steps: [async function work() { ${body} }] });`;

test.serial('zx’s $, cd, within, retry and spinner work in the sandbox as elsewhere', async (t) => {
  const built = await workshop.build(
    {
      'it.ts': recipe(`
      const text = async (p: any) => String(await p.quiet()).trim();
      console.log('pid namespace', await text($\`ls -l /proc/self/ns/pid\`));
      console.log('host', await text($\`hostname\`));
      console.log('quoted', await text($\`echo \${'a b $HOME \\'; exit 3'}\`));
      await $\`mkdir deep\`;
      await within(async () => { cd('deep'); console.log('inside', await text($\`pwd\`)); });
      console.log('outside', await text($\`pwd\`));
      let tries = 0;
      await retry(3, async () => { tries++; await $\`test \${tries} -eq 3\`.quiet(); });
      console.log('tries', tries);
      console.log('spun', await spinner('waiting', () => text($\`echo round\`)));
      console.log('piped', await text($\`echo hello\`.pipe($\`tr a-z A-Z\`)));
      console.log('counted', await text($({ input: 'x'.repeat(3_000_000) })\`wc -c\`));
      console.log('read', (await $\`yes | head -c 5000000\`.quiet()).stdout.length);
      console.log('environment', await text($({ env: { A: 'b' } })\`env | grep ^A=\`));
      console.log('status', await $\`exit 7\`.nothrow().exitCode);
      const parallel = await Promise.all([1, 2, 3].map((n) => text($\`sleep 0.2; echo \${n}\`)));
      console.log('parallel', parallel.join());
      console.log('parameter', parameters.greeting);
    `),
    },
    ['--param', 'greeting=hello=you'],
  );
  t.is(built.exitCode, 0, built.stderr);
  const said = Object.fromEntries(
    built.stdout.split('\n').map((line) => {
      const at = line.lastIndexOf('  ') > 0 ? line.lastIndexOf('  ') : line.indexOf(' ');
      return /^pid namespace/.test(line)
        ? ['namespace', line]
        : [line.slice(0, at), line.slice(at + 1)];
    }),
  );
  t.false(said.namespace?.includes(await readlink('/proc/self/ns/pid')), said.namespace);
  t.is(said.host, 'kiln');
  t.not(said.host, hostname());
  t.is(said.quoted, "a b $HOME '; exit 3");
  t.is(said.inside, '/tmp/deep');
  t.is(said.outside, '/tmp');
  t.is(said.tries, '3');
  t.is(said.spun, 'round');
  t.is(said.piped, 'HELLO');
  t.is(said.counted, '3000000');
  t.is(said.read, '5000000');
  t.is(said.environment, 'A=b');
  t.is(said.status, '7');
  t.is(said.parallel, '1,2,3');
  t.is(said.parameter, 'hello=you');
});

test.serial('commands can be signalled, timed out and aborted', async (t) => {
  const built = await workshop.build({
    'it.ts': recipe(`
      const killed = $\`sleep 100\`.nothrow();
      await sleep(200);
      await killed.kill('SIGKILL');
      console.log('killed', (await killed).signal);
      console.log('late', (await $\`sleep 100\`.nothrow().timeout('300ms')).signal);
      const controller = new AbortController();
      setTimeout(() => controller.abort(), 200);
      console.log('aborted', (await $({ signal: controller.signal })\`sleep 100\`.nothrow()).signal);
      console.log('nowhere', (await $({ cwd: '/nowhere' })\`true\`.nothrow()).message.split('\\n')[0]);
    `),
  });
  t.is(built.exitCode, 0, built.stderr);
  t.regex(built.stdout, /^killed SIGKILL$/m);
  t.regex(built.stdout, /^late SIGTERM$/m);
  t.regex(built.stdout, /^aborted SIGTERM$/m);
  t.regex(built.stdout, /^nowhere cannot enter \/nowhere: ENOENT$/m);
});

test.serial(
  'the cause of a failure is reported: a command, an error, a time-out, an exit',
  async (t) => {
    const command = await workshop.build({
      'it.ts': recipe("await $`echo 'x.c:1: error' >&2; exit 9`.quiet();"),
    });
    t.is(command.exitCode, 9);
    t.regex(command.stderr, /\$ echo 'x\.c:1: error' >&2; exit 9/);
    t.regex(command.stderr, /\| x\.c:1: error/);
    t.deepEqual(command.result!.failure?.lastLines, ['x.c:1: error']);
    t.is(command.result!.failure?.phase, 'step work');

    const thrown = await workshop.build({
      'it.ts': `import { fail } from './lib/help.ts';\n${recipe('await $`true`;\n fail();')}`,
      'lib/help.ts': '\nexport function fail(): never {\n  throw new Error("not today");\n}\n',
    });
    t.is(thrown.exitCode, 1);
    t.regex(thrown.stderr, /step work failed: not today/);
    t.regex(thrown.stderr, /at fail \(lib\/help\.ts:3:\d+\)/);

    const time = { more: "sandbox: { timeout: '1s' }," };
    const hanging = await workshop.build({
      'it.ts': recipe('await $`sleep 300`;', time.more).replace(
        "sandbox: { workdir: '/tmp' }, ",
        '',
      ),
    });
    t.is(hanging.exitCode, 124);
    t.is(hanging.result?.limitHit, 'timeout');
    const spinning = await workshop.build({
      'it.ts': recipe('for (;;);', time.more).replace("sandbox: { workdir: '/tmp' }, ", ''),
    });
    t.is(spinning.exitCode, 124, spinning.stderr);
    // What stands outside of steps has the time that the caller gives: the recipe's own is not known yet.
    for (const outside of [
      'for (;;);',
      'setInterval(() => {}, 50); await new Promise(() => {});',
    ]) {
      const text = `${outside}\n${recipe('await $`true`;')}`;
      const endless = await workshop.build({ 'it.ts': text }, ['--timeout', '2s']);
      t.is(endless.exitCode, 124, endless.stderr);
      t.is(endless.result?.failure?.code, 'E_RECIPE_TIMEOUT');
      t.regex(endless.stderr, /it\.ts was not loaded in 2 s/);
    }
    const synchronous = await workshop.build({
      'it.ts': recipe(
        'try { $.sync`true`; } catch (error: any) { console.log("said", error.cause.message); }',
        'sources: [], ',
      ).replace('steps: [', 'steps: [async function first() { try { $.sync`true`; } catch {} }, '),
    });
    t.is(synchronous.exitCode, 0, synchronous.stderr);
    t.regex(synchronous.stdout, /^said a command .* synchronously: use await \$`…`$/m);
    const forgotten = await workshop.build({
      'it.ts': recipe('Promise.reject(new Error("für …")); await sleep(500);'),
    });
    t.is(forgotten.exitCode, 125);
    t.regex(forgotten.stderr, /für …/);
    const gone = await workshop.build({ 'it.ts': recipe('process.exit(0);') });
    t.is(gone.exitCode, 125);
    t.is(gone.result?.failure?.code, 'E_RECIPE_SCRIPT');
  },
);

test.serial('a recipe program that cannot be loaded says where and why', async (t) => {
  const cases: readonly (readonly [string | Buffer, RegExp])[] = [
    [
      Buffer.from('// ok\n// gr\u00fcn', 'latin1'),
      /line 2 of it\.ts is not UTF-8; save it as UTF-8/,
    ],
    ['const x: number = ;', /it\.ts:1\b[\s\S]*Expression expected/],
    ["import 'lodash';", /a recipe cannot import 'lodash': only zx/],
    ["import '../other.ts';", /the recipe cannot have other\.ts/],
    ["import './link.ts';", /the recipe cannot have link\.ts/],
    ['throw new Error("at once");', /cannot be loaded: at once \[E_\w+\]\n.*it\.ts:1/],
    [
      "import { $ } from 'zx'; await $`echo top`;",
      /cannot be loaded: commands can be run in steps only, .* \[E_\w+\]\n.*it\.ts:1/,
    ],
    ['export const a = 1;', /must have a default export/],
    ["export default { image: 'x', stps: [] };", /stps: unknown key \(did you mean "steps"\?\)/],
  ];
  for (const [text, message] of cases) {
    const built = await workshop.build({ 'it.ts': text });
    t.is(built.exitCode, 125, String(text));
    t.regex(built.stderr, message);
  }
});

test.serial(
  'a recipe program is confined: no files, no network, no programs, nothing of kiln',
  async (t) => {
    const built = await workshop.build({
      'it.ts': `
import fs from 'node:fs';
import { execSync } from 'node:child_process';
import net from 'node:net';
import { Worker } from 'node:worker_threads';
const attempt = async (name: string, action: () => unknown) => {
  try { console.log(name, 'worked', await action()); }
  catch (error: any) { console.log(name, 'failed', error.code ?? error.message); }
};
await attempt('passwd', () => fs.readFileSync('/etc/passwd', 'utf8'));
await attempt('proc', () => fs.readFileSync('/proc/self/status', 'utf8'));
await attempt('root', () => fs.readdirSync('/').join());
await attempt('write', () => fs.writeFileSync('/x', 'y'));
await attempt('exec', () => execSync('id').toString());
await attempt('connect', () => new Promise((resolve, reject) =>
  net.connect(1, '127.0.0.1').on('connect', resolve).on('error', reject)));
await attempt('listen', () => new Promise((resolve, reject) =>
  net.createServer().listen(0, () => resolve(1)).on('error', reject)));
await attempt('kill', () => process.kill(-1, 0));
await attempt('ids', () => process.setuid!(0));
await attempt('import', () => import('file:///etc/hostname'));
console.log('environment', Object.keys(process.env).join());
console.log('ids', process.getuid!(), fs.readdirSync('/').length);
${recipe('try { await $host`id`; } catch (error: any) { console.log("host", error.message); }')}`,
    });
    t.is(built.exitCode, 0, built.stderr);
    for (const name of ['passwd', 'proc', 'write', 'exec', 'connect', 'listen', 'ids', 'import']) {
      t.regex(built.stdout, new RegExp(`^${name} failed`, 'm'), built.stdout);
    }
    t.regex(built.stdout, /^root worked $/m);
    t.regex(built.stdout, /^environment PATH,CI$/m);
    t.regex(built.stdout, /^host \$host is not allowed: kiln build --allow-host allows it$/m);
  },
);

test.serial('a recipe that forges messages to kiln gains nothing', async (t) => {
  const folder = await workshop.folder({ 'secret.txt': 'secret' });
  const forged = (message: string) => `
import fs from 'node:fs';
const body = Buffer.from(JSON.stringify({ type: 'message', value: ${message} }));
const head = Buffer.alloc(4);
head.writeUInt32LE(body.length);
const forge = () => fs.writeSync(3, Buffer.concat([head, body]));
${recipe('forge(); await $`sleep 1`.quiet();')}`;
  const touch = {
    'it.ts': forged(`{ type: 'spawn', id: 5, where: 'host', cwd: '/', env: {},
      argv: ['touch', '${folder}/touched'] }`),
  };
  const host = await workshop.build(touch);
  t.is(host.exitCode, 0, host.stderr);
  t.false(existsSync(`${folder}/touched`));
  // The message is as kiln wants it: with the caller's word it does what it says.
  await workshop.build(touch, ['--allow-host']);
  t.true(existsSync(`${folder}/touched`));
  const read = await workshop.build({ 'it.ts': forged(`{ type: 'read', path: '../secret.txt' }`) });
  t.is(read.exitCode, 0, read.stderr);
  for (const broken of [`{ type: 'spawn', id: 'x' }`, `{ type: 'nothing' }`, '7']) {
    const built = await workshop.build({ 'it.ts': forged(broken) });
    t.is(built.exitCode, 125, broken);
    t.is(built.result?.failure?.code, 'E_CONFINE_PROTOCOL', broken);
  }
});

long('a recipe that asks without reading is ended before it fills the memory', async (t) => {
  const send = `
import fs from 'node:fs';
const send = (text: string) => {
  const body = Buffer.from(text);
  const head = Buffer.alloc(4);
  head.writeUInt32LE(body.length);
  for (const part of [head, body])
    for (let at = 0; at < part.length; ) at += fs.writeSync(3, part, at);
};
const message = (value: unknown) => send(JSON.stringify({ type: 'message', value }));
`;
  const flooded = async (body: string) =>
    await workshop.build({ 'it.ts': `${send}${recipe(body)}`, 'big.json': '"'.padEnd(1e6, 'x') });
  const files = await flooded(
    "for (let i = 0; i < 100; i++) message({ type: 'read', path: 'big.json' });",
  );
  t.is(files.exitCode, 125, files.stderr);
  t.is(files.result?.failure?.code, 'E_RECIPE_SCRIPT');
  t.regex(files.stderr, /it\.ts does not read kiln's answers/);
  const commands = await flooded(`
    const spawn = { type: 'spawn', where: 'host', argv: ['true'], cwd: '/', env: {} };
    for (let id = 1; id < 600_000; id++) message({ ...spawn, id });`);
  t.is(commands.exitCode, 125, commands.stderr);
  t.is(commands.result?.failure?.code, 'E_RECIPE_SCRIPT');
  const long = await flooded("send('['.repeat(20_000_000));");
  t.is(long.exitCode, 125, long.stderr);
  t.regex(long.stderr, /a message of 20000000 bytes is too long/);
});

test.serial(
  'a recipe’s process has its own seccomp filter, ids and namespaces, by the kernel’s word',
  async (t) => {
    const folder = await workshop.folder({
      'it.ts': recipe('await $`echo up; sleep 600`.quiet(); '),
    });
    const run = workshop.state.kiln(['build', `${folder}/it.ts`, '--resultdir', folder]);
    let status = '';
    let pid = '';
    for (let tries = 0; tries < 600 * PATIENCE && !/^Seccomp:\s+2$/m.test(status); tries++) {
      await sleep(50);
      const found = startedByKiln(workshop.state.paths.root, run.pid, /^:recipe-script$/);
      pid = String(found.at(-1) ?? '');
      status = await readFile(`/proc/${pid}/status`, 'utf8').catch(() => '');
    }
    t.regex(status, /^Seccomp:\s+2$/m);
    t.regex(status, /^NoNewPrivs:\s+1$/m);
    t.notRegex(status, /^Uid:\s+0\b/m);
    for (const kind of ['user', 'mnt', 'pid', 'net', 'ipc', 'uts']) {
      t.not(
        await readlink(`/proc/${pid}/ns/${kind}`),
        await readlink(`/proc/self/ns/${kind}`),
        kind,
      );
    }
    run.kill('SIGINT');
    t.is((await run).exitCode, 130);
    // The kernel may take a moment to bury it.
    t.true(await until(() => !existsSync(`/proc/${pid}`)));
  },
);

test.serial('commands of $host end, in time, when kiln is asked to end', async (t) => {
  const seconds = ownSeconds();
  const sleeps = async () => processesCalled('sleep', seconds).length > 0;
  const folder = await workshop.folder({
    'it.ts': recipe(`await $host\`sleep ${seconds}; true\`;`),
  });
  const args = ['build', `${folder}/it.ts`, '--allow-host', '--resultdir', folder];
  const run = workshop.state.kiln(args);
  for (let tries = 0; tries < 600 * PATIENCE && !(await sleeps()); tries++) await sleep(50);
  t.true(await sleeps());
  run.kill('SIGTERM');
  t.is((await run).exitCode, 130);
  t.true(await eventually(async () => !(await sleeps())));
  const late = await workshop.state.kiln([...args, '--timeout', '3s']);
  t.is(late.exitCode, 124, String(late.stderr));
  t.true(await eventually(async () => !(await sleeps())));
});

test.serial('$host runs on the host, in the recipe’s folder, as the user of sudo', async (t) => {
  const files = {
    'it.ts': recipe(
      'console.log("said", String(await $host`hostname; id -u; pwd; echo $CALLERS`.quiet()));',
    ),
  };
  const folder = await workshop.folder(files);
  const env = { ...workshop.state.env, SUDO_UID: '65534', SUDO_GID: '65534', CALLERS: 'own' };
  const run = await workshop.state.kiln(
    ['build', `${folder}/it.ts`, '--allow-host', '--resultdir', `${folder}/out`],
    { env },
  );
  t.is(run.exitCode, 0, String(run.stderr));
  const { stdout: name } = await execa('hostname');
  t.true(String(run.stdout).includes(`said ${name}\n65534\n${folder}\nown`), String(run.stdout));
});
