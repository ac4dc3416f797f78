import { chmodSync, mkdirSync, writeFileSync } from 'node:fs';
import { basename, join } from 'node:path';
import test from 'ava';
import { execa, type Options } from 'execa';
import { type BusyboxState, busyboxState, IMAGE, KILN } from '../support/busybox-state.ts';

let state: BusyboxState;
let data: string;
test.before(async () => {
  // Not /tmp, which is in memory on many hosts.
  state = await busyboxState(process.env.KILN_TEST_DISK ?? '/var/tmp');
  data = join(state.beside, 'data');
  mkdirSync(data);
  chmodSync(data, 0o777);
  writeFileSync(join(data, 'in'), Buffer.alloc(3 * 2 ** 20, 'x'), { flush: true });
});
test.after.always(async () => {
  await state[Symbol.asyncDispose]();
});

const run = (args: readonly string[], script: string, options?: Options) =>
  state.kiln(
    [
      ...['run', '-r', IMAGE, '--json', '--user', 'root', '--bind', `${data}:/data`],
      ...[...args, '--', 'sh', '-c', script],
    ],
    options,
  );
const resultOf = (stderr: unknown) => JSON.parse(String(stderr).split('\n').at(-1) ?? '');

const WRITE = 'dd if=/dev/zero of=/data/out bs=256k count=12 oflag=direct';
const READ = 'dd if=/data/in of=/dev/null bs=256k iflag=direct';

/** Runs a command in a sandbox; how long it took there, in seconds, and the limits in the result. */
async function timed(args: readonly string[], command: string) {
  const clock = (name: string) => `read ${name} rest < /proc/uptime`;
  const script = `${clock('from')}; ${command} 2>/dev/null || exit 9; ${clock('to')}; echo $from $to`;
  const { stdout, stderr, exitCode } = await run(args, script);
  if (exitCode !== 0) throw new Error(String(stderr));
  const [from = 0, to = 0] = String(stdout).split(' ').map(Number);
  return { seconds: to - from, io: resultOf(stderr).policy.limits.io };
}

/** Whether a command takes less at times: the disk is also others', and a limit holds each time. */
async function isQuicker(seconds: number, args: readonly string[], command: string) {
  for (let attempt = 0; attempt < 5; attempt++) {
    if ((await timed(args, command)).seconds < seconds) return true;
  }
  return false;
}

/** The number of the whole disk that the data is on, as the tools of the host know it. */
async function disk(): Promise<string> {
  const source = (await execa('findmnt', ['-nvo', 'SOURCE', '-T', data])).stdout;
  const lsblk = async (column: string, device: string) =>
    (await execa('lsblk', ['-ndo', column, device])).stdout.trim();
  const isPart = (await lsblk('TYPE', source)) === 'part';
  return await lsblk('MAJ:MIN', isPart ? `/dev/${await lsblk('PKNAME', source)}` : source);
}

/** Lines of the kernel's files of limits, of whatever group of this state's, that have one of these rates. */
async function inKernel(rates: string): Promise<string[]> {
  const names = ['io.max', 'blkio.throttle.read_bps_device', 'blkio.throttle.write_bps_device'];
  const files = names.map((name) => `--include=${name}`);
  const found = await execa('grep', ['-rsE', ...files, `[ =](${rates})`, '/sys/fs/cgroup'], {
    reject: false,
  });
  return found.stdout
    .split('\n')
    .filter((line) => line.includes(basename(state.paths.run)))
    .map((line) => line.slice(line.indexOf(':') + 1))
    .sort();
}

test.serial('--io-write slows down writes to a disk, and nothing else', async (t) => {
  t.is((await timed([], WRITE)).io, undefined);
  const limited = await timed(['--io-write', '1M'], WRITE);
  // 3 MB; a first moment's worth is let through at once.
  t.true(limited.seconds >= 2, `${limited.seconds} s`);
  t.deepEqual(limited.io, [{ device: await disk(), write: 2 ** 20 }]);
  t.true(await isQuicker(limited.seconds, [], WRITE));
  t.true(await isQuicker(limited.seconds, ['--io-write', '1M'], READ));
});

test.serial('--io-read slows down reads, and the result says what the kernel has', async (t) => {
  const rates = ['--io-read', '1048577', '--io-write', '9999999'];
  const sandbox = run(rates, `${READ} 2>/dev/null; echo read; head -n 1`, { stdin: 'pipe' });
  const started = performance.now();
  const [line] = await new Promise<[string]>((resolve) => {
    sandbox.stdout?.once('data', (chunk) => resolve([String(chunk)]));
  });
  t.is(line, 'read\n');
  const device = await disk();
  const shown = await inKernel('1048577|9999999');
  sandbox.stdin?.end('\n');
  const { stderr, exitCode } = await sandbox;
  t.is(exitCode, 0, String(stderr));
  const v1 = [`${device} 1048577`, `${device} 9999999`];
  const v2 = [`${device} rbps=1048577 wbps=9999999 riops=max wiops=max`];
  t.deepEqual(shown, shown.length === 1 ? v2 : v1);
  const result = resultOf(stderr);
  t.deepEqual(result.policy.limits.io, [{ device, read: 1048577, write: 9999999 }]);
  const phase = result.phases.find(({ name }: { name: string }) => name === 'command');
  t.true(phase.durationMs >= 2000, `${phase.durationMs} of ${performance.now() - started} ms`);
  t.true(await isQuicker(phase.durationMs / 1000, [], READ));
});

test.serial('a limit is refused if it is no rate, or if the disk is hidden', async (t) => {
  const script = `set -e; cd "$1"; mkdir all over; mount -t tmpfs tmpfs all; mkdir all/l all/u all/w
    mount -t overlay -o lowerdir=all/l,upperdir=all/u,workdir=all/w o over; shift; exec "$@"`;
  const hidden = await execa(
    'unshare',
    [
      ...['--mount', 'sh', '-c', script, 'sh', data, KILN, 'run', '-r', IMAGE],
      ...['--bind', `${data}/over:/over`, '--io-write', '1M', '--', 'true'],
    ],
    { env: state.env, reject: false, stdin: 'ignore' },
  );
  t.is(hidden.exitCode, 125, hidden.stderr);
  t.regex(
    hidden.stderr,
    /layer io-limit is not in force: .*data\/over is on overlay.*KILN_ALLOW_MISSING=io-limit .*--allow-missing io-limit/s,
  );
  const zero = await run(['--io-write', '0'], 'true');
  t.is(zero.exitCode, 125);
  t.regex(String(zero.stderr), /not a rate/);
});

test.serial('--explain shows the io limits', async (t) => {
  const { stdout } = await run(['--io-read', '10M', '--io-write', '1M', '--explain'], 'true');
  const { planned } = JSON.parse(String(stdout));
  const layer = planned.find((it: { layer: string }) => it.layer === 'io-limit');
  t.is(layer.state, 'on');
  t.is(
    layer.detail,
    'read 10 MiB/s from each disk it reaches, written 1 MiB/s to each disk it reaches',
  );
});

test.serial('a build recipe can set io limits, and the command line overrides them', async (t) => {
  const recipe = join(state.paths.root, 'it.yaml');
  writeFileSync(
    recipe,
    `image: ${IMAGE}\nsandbox: { io-read: 2M, io-write: 3M }\nsteps: ["true"]\n`,
  );
  const out = join(state.paths.root, 'out');
  const args = ['build', recipe, '--resultdir', out, '--io-write', '1M', '--json'];
  const { stderr, exitCode } = await state.kiln(args);
  t.is(exitCode, 0, String(stderr));
  const { policy } = resultOf(stderr);
  t.deepEqual(policy.limits.io, [{ device: await disk(), read: 2 ** 21, write: 2 ** 20 }]);
});

test.serial('a service has its io limits from its start', async (t) => {
  const service = async (...args: readonly string[]) => {
    const { exitCode, stderr } = await state.kiln(['service', ...args]);
    t.is(exitCode, 0, String(stderr));
  };
  await service('create', 'slow', '-r', IMAGE, '--io-read', '1048579', '--', 'sleep', '99');
  await service('start', 'slow');
  const shown = await inKernel('1048579');
  await service('stop', 'slow');
  t.is(shown.length, 1);
  t.regex(shown[0] ?? '', new RegExp(`^${await disk()} (rbps=)?1048579( |$)`));
});
