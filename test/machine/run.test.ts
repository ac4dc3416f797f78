/** Machines by the command line. One is started here: an emulated one takes long. */
import { once } from 'node:events';
import { readdir, readFile, readlink } from 'node:fs/promises';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { join } from 'node:path';
import anyTest from 'ava';
import { execa } from 'execa';
import { embeddedFiles } from '../../src/host/libvirt/embedded/files.ts';
import { type BusyboxState, busyboxState, IMAGE, PATIENCE } from '../support/busybox-state.ts';
import { makeDiskImage, makeTree } from '../support/disk-images.ts';
import { processesNaming } from '../support/processes.ts';

const test = anyTest.serial;

let state: BusyboxState;

test.before(async () => {
  state = await busyboxState();
});

test.after.always(async () => {
  await state[Symbol.asyncDispose]();
});

const VM = ['--isolation', 'vm', '-r', IMAGE] as const;

/** Files of all kinds, and patterns of which some leave some out. */
const TREE = `mkdir -p /tmp/t/d/e "/tmp/t/with blank" && cd /tmp/t && umask 022 &&
for name in a.rpm b.txt .hidden d/.wh.x d/e/deep.log d/e/no.txt "with blank/$(printf 'caf\\303\\251')" "$(printf '\\377')"
do echo "$name" > "$name"; done && ln a.rpm d/hard && ln -s a.rpm link && ln -s /etc/passwd bad && mkfifo fifo &&
chmod 4755 b.txt && chmod 711 d && yes | head -c 3000000 > big && find . -exec touch -h -d @1000000000 {} +`;

const PATTERNS = ['/tmp/t/.', 't/*.{rpm,txt}', '/tmp/t/**/*.log', 't/[a-c]?*'];

const collecting = (folder: string) => [
  ...['--workdir', '/tmp', '--resultdir', folder],
  ...PATTERNS.flatMap((pattern) => ['--artifact', pattern]),
];

/** What lies in a folder of results, but for kiln's own files, and the content's digests. */
async function treeOf(folder: string): Promise<string> {
  const script = `find . -mindepth 1 ! -name result.json ! -name report.html -printf "%P %y %m %s %n %l %TY-%Tm-%Td %TH\\\\n" | sort
find . -type f ! -name result.json ! -name report.html -exec sha256sum {} + | sort`;
  const env = { LC_ALL: 'C', TZ: 'UTC' };
  const { stdout } = await execa('sh', ['-c', script], { cwd: folder, env });
  return stdout;
}

/** A server of the host's that answers what it was asked. */
async function echoServer() {
  const server = createServer((request, response) => response.end(`${request.url}\n`));
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  const close = () => {
    server.close();
    server.closeAllConnections();
  };
  const { port } = server.address() as AddressInfo;
  return { host: `127.0.0.1:${port}`, [Symbol.dispose]: close };
}

test('a command in a machine has a kernel of its own, and a kept machine takes more of them', async (t) => {
  t.timeout(300_000 * PATIENCE);
  const results = join(state.beside, 'results');
  using server = await echoServer();
  const fetching = (page: string) => `wget -q -O - http://${server.host}/${page}`;
  const script = 'cat /proc/version; echo ready >&2; read line; echo "got $line"; exit 7';
  const disk = await makeDiskImage(await makeTree(state.beside), 'xfs');
  const options = [
    ...['--allow-missing', 'kvm', '--keep=20m', '--egress', server.host, '--read-only'],
    ...['--mount', `type=image,source=${disk},target=/tmp/disk`],
    ...collecting(results),
  ];
  const running = state.kiln(
    [
      'run',
      ...VM,
      ...options,
      '--',
      'sh',
      '-c',
      `cat /tmp/disk/folder/file > /tmp/left; ${fetching('first')} >> /tmp/left; ${TREE}; ${script}`,
    ],
    {
      stdin: 'pipe',
      timeout: 240_000 * PATIENCE,
    },
  );
  await new Promise<void>((resolve, reject) => {
    running.stderr?.on('data', (text) => String(text).includes('ready') && resolve());
    running.then(({ stderr }) => reject(new Error(String(stderr))));
  });
  // While it runs: libvirt's and the kernel's own words for it.
  const { machineUri } = embeddedFiles(state.paths);
  const virsh = await execa('virsh', ['-q', '-c', machineUri, 'list', '--name']);
  const [domain = ''] = virsh.stdout.split('\n').filter(Boolean);
  t.regex(domain, /^kiln-/);
  const [qemu] = await Promise.all(
    processesNaming(`guest=${domain}`).map(async (pid) => ({
      program: await readlink(`/proc/${pid}/exe`),
      status: await readFile(`/proc/${pid}/status`, 'utf8'),
    })),
  );
  t.regex(qemu?.program ?? '', /qemu-system-x86_64$/);
  t.notRegex(qemu?.status ?? '', /^Uid:\s+0\s/m);
  t.regex(qemu?.status ?? '', /^CapPrm:\s+0+$/m);
  t.regex(qemu?.status ?? '', /^Seccomp:\s+2$/m);

  running.stdin?.end('word\n');
  const { stdout, exitCode, stderr } = await running;
  t.is(exitCode, 7, String(stderr));
  t.regex(String(stderr), /^kiln: waiting for a machine, which boots: up to half a minute/m);
  const [version = '', got] = String(stdout).split('\n');
  t.is(got, 'got word');
  t.not(version, (await readFile('/proc/version', 'utf8')).trim());

  const result = JSON.parse(await readFile(join(results, 'result.json'), 'utf8'));
  const { isolation, machine } = result.policy;
  t.is(isolation, 'vm');
  t.true(version.includes(` ${machine.kernel} `), `${version} is not ${machine.kernel}`);
  const domainType = (await execa('uname', ['-m'])).stdout === 'x86_64' && machine.kvm;
  t.is(domainType, machine.kvm);
  t.deepEqual(result.exit, { code: 7 });
  t.is(result.egress[0].host + result.egress[0].count, '127.0.0.11');

  // A container's artifacts of the same tree are the same.
  const others = join(state.beside, 'others');
  const other = await state.kiln([
    'run',
    '-r',
    IMAGE,
    ...collecting(others),
    '--',
    'sh',
    '-c',
    TREE,
  ]);
  t.is(other.exitCode, 0, String(other.stderr));
  const told = (text: unknown) =>
    String(text)
      .split('\n')
      .filter((line) => line.includes('"/tmp/t/'))
      .sort();
  t.deepEqual(told(stderr), told(other.stderr));
  t.is(await treeOf(results), await treeOf(others));
  t.regex(await treeOf(results), /^big f 644 3000000 1 {2}2001-09-09 /m);

  // It was kept: further commands find what is in it.
  const [, id = ''] = /kept as (\w+)/.exec(String(stderr)) ?? [];
  const exec = (...words: string[]) =>
    state.kiln(['exec', ...words], { timeout: 60_000 * PATIENCE });
  const second = await exec(
    id,
    '--',
    'sh',
    '-c',
    `cat /tmp/left; ${fetching('second')}; wget -q -O - 127.0.0.1:1; cat /proc/version; exit 4`,
  );
  t.is(second.exitCode, 4, String(second.stderr));
  t.is(second.stdout, `of the image\n/first\n/second\n${version}`);
  // Its clock goes as fast as the host's.
  const before = Date.now() / 1000;
  const clock = Number((await exec(id, '--', 'busybox', 'date', '+%s')).stdout);
  t.true(clock > before - 2 && clock < Date.now() / 1000 + 2, `${clock}, not ${before}`);
  t.regex(String((await exec('-t', id, '--', 'tty')).stdout), /^\/dev\/pts\/\d+$/);
  const closed = await exec('--user', 'root', id, '--', 'touch', '/made');
  t.regex(String(closed.stderr), /\/made: Read-only file system/);
  const copied = ['--copy-in', `${import.meta.filename}:/tmp/this`];
  const size = await exec(...copied, id, '--', 'wc', '-c', '/tmp/this');
  t.is(size.stdout, `${(await readFile(import.meta.filename)).length} /tmp/this`);
  // Files go in and out between its commands: the same ones as of a container.
  const cp = (...words: string[]) => state.kiln(['cp', ...words], { timeout: 60_000 * PATIENCE });
  const [taken, listed] = [join(state.beside, 'taken'), join(state.beside, 'listed')];
  for (const words of [
    [import.meta.filename, `${id}:/tmp/t/a [x]*`],
    [`${id}:/tmp/t`, taken],
    [`${id}:/tmp/t/a [x]*`, join(state.beside, 'back')],
    [`${id}:/tmp/t/d/.`, listed],
  ]) {
    const done = await cp(...words);
    t.is(done.exitCode, 0, String(done.stderr));
  }
  const file = await readFile(import.meta.filename, 'utf8');
  t.is(await readFile(join(state.beside, 'back'), 'utf8'), file);
  t.is(await readFile(join(taken, 'a [x]*'), 'utf8'), file);
  t.is(await readFile(join(taken, 'd/e/deep.log'), 'utf8'), 'd/e/deep.log\n');
  t.is(await readlink(join(taken, 'link')), 'a.rpm');
  t.deepEqual((await readdir(listed)).sort(), ['.wh.x', 'e', 'hard']);
  t.regex(String((await cp(`${id}:/tmp/none`, taken)).stderr), /\/tmp\/none/);

  t.regex(String((await state.kiln(['ps'])).stdout), new RegExp(`^${id} +kept .* ${domain} `, 'm'));
  const stopped = await state.kiln(['stop', id]);
  t.is(stopped.stdout, id);
  t.regex(String(stopped.stderr), /it is gone/);

  t.is((await execa('virsh', ['-q', '-c', machineUri, 'list', '--all', '--name'])).stdout, '');
  t.deepEqual(processesNaming(domain), []);
});

test('a libvirt for containers starts no machine', async (t) => {
  const env = { ...state.env, KILN_URI: 'lxc:///system' };
  const { exitCode, stderr } = await state.kiln(['run', ...VM, '--', 'true'], { env });
  t.is(exitCode, 125);
  t.regex(String(stderr), /KILN_URI names a libvirt for containers/);
});
