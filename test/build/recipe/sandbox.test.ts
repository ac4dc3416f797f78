import { createHash } from 'node:crypto';
import { once } from 'node:events';
import { mkdir, readdir, readFile, symlink, writeFile } from 'node:fs/promises';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { join } from 'node:path';
import test from 'ava';
import { execa } from 'execa';
import { eventually, until } from '../../support/eventually.ts';
import { ownSeconds, processesCalled } from '../../support/processes.ts';
import { BUSYBOX, openWorkshop, type Workshop } from './workshop.ts';

let workshop: Workshop;

test.before(async () => {
  workshop = await openWorkshop();
});
test.after.always(async () => {
  await workshop[Symbol.asyncDispose]();
});

const sha256 = (text: string) => createHash('sha256').update(text).digest('hex');

test.serial(
  'steps share one sandbox; sources, variables, users and artifacts are as written',
  async (t) => {
    const built = await workshop.build({
      'it.yaml': `
image: ${BUSYBOX}
sandbox:
  workdir: /home/build
  user: root
  env: { COLOUR: red, SHAPE: round }
sources:
  - file: patches/one.patch
    name: renamed
steps:
  - cat /sources/renamed > copy
  - name: second
    env: { COLOUR: blue }
    run: echo "$COLOUR $SHAPE $FROM_IMAGE" > colours; id -u > uid
  - user: build
    workdir: /tmp
    run: pwd; id -u; false || true
artifacts: [copy, colours, uid]
`,
      'patches/one.patch': 'a source\n',
    });
    t.is(built.exitCode, 0, built.stderr);
    t.is(built.stdout, '/tmp\n1000');
    const read = (name: string) => readFile(join(built.resultDirectory, name), 'utf8');
    t.is(await read('copy'), 'a source\n');
    t.is(await read('colours'), 'blue round yes\n');
    t.is(await read('uid'), '0\n');
    t.is(await read('build.log'), '/tmp\n1000\n');
    const names = built.result!.phases.map(({ name }) => name);
    t.deepEqual(names, [
      ...['recipe', 'sources', 'image', 'sandbox', 'copy-in', 'step 1', 'step second', 'step 3'],
      ...['artifacts', 'destroy'],
    ]);
    const { stdout: digest } = await execa('sha256sum', [join(built.resultDirectory, 'copy')]);
    const copy = built.result!.artifacts.find(({ path }) => path === 'copy');
    t.is(String(digest).slice(0, 64), copy?.sha256 ?? '');
    t.true(built.result!.policy?.noNewPrivileges);
    // Values of variables may be secrets.
    t.false(JSON.stringify(built.result).includes('round'));
  },
);

test.serial(
  'a failed step is named with its command and last lines; later steps do not run',
  async (t) => {
    const built = await workshop.build({
      'it.yaml': `
image: ${BUSYBOX}
sandbox: { workdir: /tmp }
steps:
  - echo early > early
  - name: breaks
    run: |
      echo compiling
      echo 'x.c:1: error: no such thing' >&2
      cat /nowhere
      echo not reached
  - name: later
    run: echo later
artifacts: [early, never]
`,
    });
    t.is(built.exitCode, 1);
    t.notRegex(built.stdout, /not reached|later/);
    t.regex(built.stderr, /\$ cat \/nowhere/);
    t.regex(built.stderr, /\| x\.c:1: error: no such thing/);
    t.regex(built.stderr, /step breaks failed: exit status 1/);
    const { failure, exit, exitStatus } = built.result!;
    t.deepEqual([failure?.code, failure?.phase, exitStatus], ['E_STEP_FAILED', 'step breaks', 1]);
    t.deepEqual(exit, { code: 1 });
    t.true(failure!.lastLines.includes('x.c:1: error: no such thing'));
    // What there is of the artifacts is worth having, and none is missed.
    t.is(await readFile(join(built.resultDirectory, 'early'), 'utf8'), 'early\n');
    t.is((await workshop.build({ 'it.yaml': `image: ${BUSYBOX}\nsteps: [exit 42]` })).exitCode, 42);
    const missing = `image: ${BUSYBOX}\nsteps: ['true']\nartifacts: [/tmp/never]`;
    const unmet = await workshop.build({ 'it.yaml': missing });
    t.is(unmet.exitCode, 125);
    t.is(unmet.result?.failure?.code, 'E_ARTIFACT_MISSING');
    // What is no pattern is refused before any step.
    const senseless = `image: ${BUSYBOX}\nsteps: [echo ran]\nartifacts: [a/..]`;
    const refused = await workshop.build({ 'it.yaml': senseless });
    t.is(refused.exitCode, 125);
    t.is(refused.result?.failure?.code, 'E_ARTIFACT_PATTERN');
    t.notRegex(refused.stdout, /ran/);
  },
);

test.serial('sources come from files and servers, and only with the right digest', async (t) => {
  const content = 'upstream\n';
  let asked = 0;
  const server = createServer((request, response) => {
    asked++;
    if (request.url !== '/pool/up.txt') response.writeHead(404).end();
    else response.end(content);
  }).listen(0, '127.0.0.1');
  await once(server, 'listening');
  const base = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
  const recipe = (sha: string, url = `[${base}/gone/up.txt, ${base}/pool/up.txt]`) => ({
    'it.yaml': `image: ${BUSYBOX}\nsources:\n  - {url: ${url}, sha256: ${sha}}\nsteps: [cat /sources/up.txt]`,
  });
  try {
    const offline = await workshop.build(recipe(sha256(content)), ['--offline']);
    t.is(offline.exitCode, 125);
    t.is(offline.result?.failure?.code, 'E_SOURCE_MISSING');
    t.is(asked, 0);
    const refused = await workshop.build(recipe(sha256(content)));
    t.is(refused.exitCode, 125);
    t.is(refused.result?.failure?.code, 'E_DOWNLOAD');
    t.regex(refused.stderr, /127\.0\.0\.1 is not a public address.*--allow-host/s);
    const named = base.replace('127.0.0.1', 'localhost');
    const byName = await workshop.build(recipe(sha256(content), `${named}/pool/up.txt`));
    t.regex(byName.stderr, /localhost is [:.\d]+, not a public address/);
    t.is(asked, 0);
    const wrong = await workshop.build(recipe(sha256('something else')), ['--allow-host']);
    t.is(wrong.exitCode, 125);
    t.is(wrong.result?.failure?.code, 'E_DOWNLOAD');
    asked = 0;
    const fetched = await workshop.build(recipe(sha256(content)), ['--allow-host']);
    t.is(fetched.exitCode, 0, fetched.stderr);
    t.is(fetched.stdout, 'upstream');
    t.is(asked, 2);
    const cached = await workshop.build(recipe(sha256(content)), ['--offline']);
    t.is(cached.stdout, 'upstream');
    t.is(asked, 2);
  } finally {
    server.close();
  }
});

test.serial(
  '--sources offers files by their digest; a matching name alone is not enough',
  async (t) => {
    const folder = await workshop.folder({ 'other-name.bin': 'offered\n', 'named.txt': 'wrong\n' });
    const recipe = (name: string) => ({
      'it.yaml': `image: ${BUSYBOX}\nsources:\n  - {name: ${name}, sha256: ${sha256('offered\n')}}\nsteps: [cat /sources/*]`,
    });
    const refused = await workshop.build(recipe('named.txt'), ['--sources', folder]);
    t.is(refused.result?.failure?.code, 'E_SOURCE_DIGEST');
    const built = await workshop.build(recipe('x.bin'), ['--sources', folder]);
    t.is(built.stdout, 'offered', built.stderr);
  },
);

test.serial('a recipe can read files of its folder, and nothing else of the host', async (t) => {
  const folder = await workshop.folder({ 'secret.txt': 'secret\n' });
  const recipe = (rest: string) => `image: ${BUSYBOX}\nsteps: ['cat /sources/* /host/*']\n${rest}`;
  for (const file of ['../x', '/etc/passwd', 'link/secret.txt', 'a/../../x']) {
    const path = await workshop.folder({ 'it.yaml': recipe(`sources: [{file: ${file}}]`) });
    await symlink(folder, join(path, 'link'));
    const run = await workshop.state.kiln(['build', join(path, 'it.yaml'), '--resultdir', path]);
    t.is(run.exitCode, 125, file);
    t.regex(String(run.stderr), /the recipe cannot have/, file);
  }
  const bind = { 'it.yaml': recipe(`sandbox: {bind: [{source: ${folder}, target: /host}]}`) };
  const refused = await workshop.build(bind);
  t.is(refused.result?.failure?.code, 'E_HOST_NOT_ALLOWED');
  t.true(refused.stderr.includes(folder), refused.stderr);
  t.regex((await workshop.build(bind, ['--allow-host'])).stdout, /secret/);
  // An image recipe of its own could have any file of the host.
  const image = 'packages: []\nfiles: [{path: /x, source: /etc/passwd}]\n';
  for (const name of ['./mine.yaml', './mine.json']) {
    const files = { 'it.yaml': `image: ${name}\nsteps: [cat /x]`, [name]: image };
    const own = await workshop.build(files);
    t.is(own.result?.failure?.code, 'E_HOST_NOT_ALLOWED', own.stderr);
    t.regex(own.stderr, /hint: .*-r \//);
  }
  const network = await workshop.build({ 'it.yaml': recipe('sandbox: {network: host}') });
  t.is(network.result?.failure?.code, 'E_HOST_NOT_ALLOWED');
  t.regex(network.stderr, /asks for the network of the host/);
});

test.serial('time limits end a step and its processes; ^C and kill -9 leave nothing', async (t) => {
  const time = await workshop.build({
    'it.yaml': `image: ${BUSYBOX}\nsteps:\n  - {name: slow, timeout: 500ms, run: 'sleep 300 & sleep 300'}`,
  });
  t.is(time.exitCode, 124);
  t.is(time.result?.limitHit, 'timeout');
  const stall = await workshop.build({
    'it.yaml': `image: ${BUSYBOX}\nsandbox: {stall-timeout: 3s}\nsteps: ['for i in 1 2 3 4 5 6 7 8 9 10 11 12; do echo $i; sleep 0.4; done; sleep 300']`,
  });
  t.is(stall.exitCode, 124);
  t.is(stall.result?.limitHit, 'stall');
  t.regex(stall.stdout, /12$/);
  const whole = await workshop.build({
    'it.yaml': `image: ${BUSYBOX}\nsandbox: {timeout: 1s}\nsteps: [sleep 0.6, sleep 0.6, sleep 300]`,
  });
  t.is(whole.exitCode, 124);

  for (const signal of ['SIGINT', 'SIGKILL'] as const) {
    // No other's on this machine.
    const seconds = ownSeconds();
    const path = await workshop.folder({
      'it.yaml': `image: ${BUSYBOX}\nsteps: [echo started; sleep ${seconds}]`,
    });
    const run = workshop.state.kiln(['build', join(path, 'it.yaml'), '--resultdir', path]);
    await once(run.stdout!, 'data');
    run.kill(signal);
    const ended = await run;
    if (signal === 'SIGINT') t.is(ended.exitCode, 130);
    await workshop.state.kiln(['gc']);
    // The daemon ends it by itself, for a client that is gone.
    const left = async () => (await workshop.state.kiln(['ps', '--json'])).stdout;
    t.true(await eventually(async () => (await left()) === '[]'), signal);
    t.true(await until(() => processesCalled('sleep', seconds).length === 0), signal);
  }
});

test.serial('an unwritable result folder is reported before anything is built', async (t) => {
  const folder = await workshop.folder({
    'it.yaml': `image: ${BUSYBOX}\nsteps: [echo ran]`,
    out: '',
  });
  const run = await workshop.state.kiln([
    'build',
    join(folder, 'it.yaml'),
    '--resultdir',
    join(folder, 'out'),
  ]);
  t.is(run.exitCode, 125);
  t.is(String(run.stdout), '');
  t.regex(String(run.stderr), /result folder/);
});

test.serial('--keep keeps the sandbox of a failed step, with its files', async (t) => {
  const built = await workshop.build(
    {
      'it.yaml': `image: ${BUSYBOX}\nsandbox: {workdir: /tmp, env: {WHO: me}}\nsteps: [echo here > file; false]`,
    },
    ['--keep=5m', '--json'],
  );
  const id = /kept as (\w+)/.exec(built.stderr)?.[1] ?? '';
  t.is(JSON.parse(built.stderr.trim().split('\n').at(-1) ?? '').id, id);
  const shell = await workshop.state.kiln(['shell', id], {
    stdin: 'pipe',
    input: 'pwd; cat file; echo $WHO\n',
  });
  t.is(String(shell.stdout), '/tmp\nhere\nme', String(shell.stderr));
  // The beginning of an id is enough; what a new sandbox takes, a kept one has already.
  const begun = await workshop.state.kiln(['shell', id.slice(0, 6)], {
    stdin: 'pipe',
    input: 'pwd',
  });
  t.is(String(begun.stdout), '/tmp', String(begun.stderr));
  const other = ['-r', 'nope', '--env', 'A=B', '--memory', '1G', '--resultdir', '/x'];
  const refused = await workshop.state.kiln(['shell', ...other, id]);
  t.is(refused.exitCode, 125);
  t.regex(
    String(refused.stderr),
    /takes no --image, --env, --memory, --resultdir \[E_ARGUMENT\]$/m,
  );
  t.regex(String(refused.stderr), /^ {2}hint: .*made with/m);
  const none = await workshop.state.kiln(['shell', `${id}0`]);
  t.regex(String(none.stderr), /there is no sandbox \w+ \[E_NO_SANDBOX\]\n {2}hint: .*`kiln ps`/);
  await workshop.state.kiln(['kill', id]);
});

test.serial('a result folder takes one build at a time', async (t) => {
  const folder = await workshop.folder({
    'slow.yaml': `image: ${BUSYBOX}\nsteps: ["echo begun; sleep 3"]\n`,
  });
  const out = join(folder, 'out');
  const build = () =>
    workshop.state.kiln(['build', join(folder, 'slow.yaml'), '--resultdir', out, '--json']);
  const first = build();
  const log = () => readFile(join(out, 'build.log'), 'utf8').catch(() => '');
  t.true(await eventually(async () => (await log()).includes('begun')));
  const second = await build();
  t.is(second.exitCode, 125);
  t.regex(String(second.stderr), /another build writes to \S+out \[E_RESULTDIR_BUSY\]/);
  t.notRegex(String(second.stderr), /report\.html/);
  t.deepEqual((await readdir(out)).sort(), ['.kiln.lock', 'build.log']);
  t.is((await first).exitCode, 0);
  t.false((await readdir(out)).includes('.kiln.lock'));
  t.true((await readdir(out)).includes('result.json'));
});

test.serial('an artifact cannot replace the lock of a result folder', async (t) => {
  const { stderr, result, resultDirectory } = await workshop.build({
    'it.yaml': `image: ${BUSYBOX}
sandbox: { workdir: /tmp }
steps: ["touch .kiln.lock other"]
artifacts: [.kiln.lock, other]
`,
  });
  t.regex(stderr, /reserved-name/);
  t.deepEqual(
    result?.artifacts.map(({ path }) => path),
    ['other'],
  );
  t.true((await readdir(resultDirectory)).includes('other'));
});

test.serial('only steps that ask for the network have it', async (t) => {
  const server = createServer((_request, response) => response.end('from outside\n')).listen(
    0,
    '127.0.0.1',
  );
  await once(server, 'listening');
  const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}/`;
  const get = `busybox wget -q -O - ${url}`;
  try {
    const recipe = (profile: string) => ({
      'it.yaml': `
image: ${BUSYBOX}
sandbox: { network: host, profile: ${profile} }
steps:
  - '${get} || echo none'
  - { network: true, run: ${get} }
  - { run: '${get} || echo none', user: root }
`,
    });
    for (const profile of ['default', 'build', 'nested']) {
      const built = await workshop.build(recipe(profile), ['--allow-host']);
      t.is(built.stdout.replaceAll(/^wget.*\n/gm, ''), 'none\nfrom outside\nnone', built.stderr);
      t.regex(built.stdout, /wget: socket: /);
    }
    const script = await workshop.build(
      {
        'it.mjs': `import { $ } from 'zx';
const get = async () => console.log(String(await $\`${get} || echo none\`.quiet()).trim());
export default { image: '${BUSYBOX}', sandbox: { network: 'host' },
  steps: [{ run: get }, { run: get, network: true }] };`,
      },
      ['--allow-host'],
    );
    t.regex(script.stdout, /\nnone\n[\s\S]*\nfrom outside$/, script.stderr);
  } finally {
    server.close();
  }
  const without = await workshop.build({
    'it.yaml': `image: ${BUSYBOX}\nsteps:\n  - {network: true, run: 'true'}`,
  });
  t.regex(without.stderr, /it\.yaml:3:15: steps\[0\]\.network: the sandbox has no network/);
});

test.serial('with a list of hosts, only steps that ask for the proxy have it', async (t) => {
  const server = createServer((_request, response) => response.end('from outside\n')).listen(
    0,
    '127.0.0.1',
  );
  await once(server, 'listening');
  const { port } = server.address() as AddressInfo;
  const get = (host: string) => `busybox wget -q -O - http://${host}:${port}/ 2>&1`;
  const recipe = {
    'it.yaml': `
image: ${BUSYBOX}
sandbox: { egress: ['127.0.0.1:${port}'] }
steps:
  - 'echo "\${http_proxy:-no proxy}"; http_proxy=http://127.0.0.1:3128 ${get('127.0.0.1')} || echo none'
  - { network: true, run: '${get('127.0.0.1')}; ${get('127.0.0.2')} || echo refused' }
`,
  };
  try {
    const built = await workshop.build(recipe, ['--allow-host', '--json']);
    const lines = built.stdout.split('\n');
    t.is(lines[0], 'no proxy', built.stderr);
    t.regex(lines[1] ?? '', /wget: socket: /);
    t.is(lines[2], 'none');
    t.is(lines[3], 'from outside');
    t.regex(lines[4] ?? '', /403/);
    t.is(lines[5], 'refused');
    const { egress } = JSON.parse(built.stderr.trim().split('\n').at(-1) ?? '');
    t.deepEqual(
      egress.map((it: { host: string; refused?: string }) => [it.host, it.refused]),
      [
        ['127.0.0.1', undefined],
        ['127.0.0.2', 'not on the list'],
      ],
    );
    const refused = await workshop.build(recipe);
    t.is(refused.result?.failure?.code, 'E_HOST_NOT_ALLOWED');
    t.regex(refused.stderr, new RegExp(`127\\.0\\.0\\.1 port ${port}`));
  } finally {
    server.close();
  }
});

test.serial('a source must be a file, of bounded size', async (t) => {
  const files = { 'it.yaml': '', big: 'x'.repeat(2000) };
  const recipe = (source: string) => `image: ${BUSYBOX}\nsources: [${source}]\nsteps: ['true']`;
  const big = await workshop.build({ ...files, 'it.yaml': recipe('{file: big, max-size: 1000}') });
  t.is(big.result?.failure?.code, 'E_SOURCE');
  const path = await workshop.folder({ 'it.yaml': recipe('{file: pipe}') });
  await mkdir(join(path, 'directory'));
  await execa('mkfifo', [join(path, 'pipe')]);
  const fifo = await workshop.state.kiln(['build', join(path, 'it.yaml'), '--resultdir', path]);
  t.regex(String(fifo.stderr), /is not a file/);
  await writeFile(join(path, 'it.yaml'), recipe('{file: directory}'));
  const directory = await workshop.state.kiln([
    'build',
    join(path, 'it.yaml'),
    '--resultdir',
    path,
  ]);
  t.regex(String(directory.stderr), /is not a file/);
});
