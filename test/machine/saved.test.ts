/** Machines that are restored of a saved one. Emulated ones take long: one is saved here, and all others are of that. */
import { readdirSync, statSync, truncateSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import anyTest from 'ava';
import { execa } from 'execa';
import { partOf } from '../../scripts/crash/machine.ts';
import { processes, signal } from '../../scripts/crash/processes.ts';
import { remains } from '../../scripts/crash/remains.ts';
import { embeddedFiles } from '../../src/host/libvirt/embedded/files.ts';
import { type BusyboxState, busyboxState, IMAGE, PATIENCE } from '../support/busybox-state.ts';
import { daemonPid } from '../support/daemon.ts';
import { eventually, until } from '../support/eventually.ts';
import { long } from '../support/long.ts';

const test = anyTest.serial;

let state: BusyboxState;

test.before(async () => {
  state = await busyboxState();
});

test.after.always(async () => {
  await state[Symbol.asyncDispose]();
});

const kiln = (...words: string[]) =>
  state.kiln(words, { timeout: 240_000 * PATIENCE, env: { ...state.env, KILN_PARKED: '0' } });

const park = (count: number) =>
  kiln('park', '--isolation', 'vm', '-n', String(count), '--memory', '256M');

const RUN = ['run', '--isolation', 'vm', '--allow-missing', 'kvm', '-r', IMAGE, '--memory', '256M'];

const run = (script: string) => kiln(...RUN, '--', 'sh', '-c', script);

const savedFiles = () =>
  readdirSync(state.paths.machines).filter((name) => name.startsWith('saved-'));

/** How the relays of this state's machines were started: `boots`, `saved` or `restored`. */
function relayModes(): string[] {
  const relays = processes().filter(({ command }) => command.includes(state.paths.sandboxes));
  return relays.flatMap(({ command }) => / (boots|saved|restored)( |$)/.exec(command)?.[1] ?? []);
}

const virsh = async (...words: string[]) => {
  const { machineUri } = embeddedFiles(state.paths);
  return (await execa('virsh', ['-q', '-c', machineUri, ...words])).stdout;
};

async function isNothingLeft(): Promise<string[]> {
  const daemon = daemonPid(state.paths.root);
  const runners = daemon === undefined ? [] : [daemon];
  return await remains(state.paths, { sandboxes: [], runners }, []);
}

test('a kilnd that is killed while it saves a machine leaves nothing', async (t) => {
  t.timeout(300_000 * PATIENCE);
  const parking = park(1);
  t.true(await until(() => relayModes().includes('saved')));
  t.true(await until(() => partOf('qemu', state.paths) !== undefined));
  await sleep(Math.random() * 4000);
  t.true(signal(daemonPid(state.paths.root) ?? 0, 'SIGKILL'));
  t.not((await parking).exitCode, 0);
  t.is((await kiln('park', '--none')).exitCode, 0);
  t.is((await kiln('gc')).exitCode, 0);
  t.deepEqual(await isNothingLeft(), []);
  // A saved machine that has its name is whole: the next test takes it.
  const whole = /^(saved-)?[0-9a-f]{16}$/;
  t.deepEqual(
    readdirSync(state.paths.machines).filter((name) => !whole.test(name)),
    [],
  );
});

/** More than clocks may differ here, ms. */
const OLD = 12_000;
const SKEW = 6;

test('machines restored of one file have nothing in common that another must not know', async (t) => {
  t.timeout(300_000 * PATIENCE);
  const parked = await park(1);
  t.regex(String(parked.stdout), /^1 of 1 parked/, String(parked.stderr));
  t.deepEqual(new Set(relayModes()), new Set(['restored']));
  t.is(savedFiles().length, 1);
  const [saved = ''] = savedFiles().map((name) => join(state.paths.machines, name));
  t.is(statSync(saved).mode & 0o777, 0o600);
  // A clock that went on from there would be behind by that.
  await sleep(OLD);
  t.is((await park(2)).exitCode, 0);
  t.deepEqual(new Set(relayModes()), new Set(['restored']));
  const names = (await virsh('list', '--name')).split('\n').filter(Boolean);
  t.is(names.length, 2);
  const domains = await Promise.all(names.map((name) => virsh('dumpxml', name)));
  for (const pattern of [
    /<uuid>(.+)<\/uuid>/,
    /<genid>(.+)<\/genid>/,
    /<label>(.+)<\/label>/,
    /path='(.+)\/port.sock'/,
  ]) {
    const found = domains.map((text) => pattern.exec(text)?.[1]);
    t.false(found.includes(undefined), pattern.source);
    t.is(new Set(found).size, 2, pattern.source);
  }
  for (const text of domains) t.notRegex(text, /<mac /);
  const script = `cat /proc/sys/kernel/random/boot_id; head -c 16 /dev/urandom | sha256sum
cat /proc/sys/kernel/random/uuid; touch /tmp/now; stat -c %Y /tmp/now; ls /sys/class/dmi 2>&1; grep -c hypervisor /proc/cpuinfo`;
  const before = Date.now() / 1000;
  const both = await Promise.all([run(script), run(script)]);
  const after = Date.now() / 1000;
  const said = both.map(({ stdout, stderr, exitCode }) => {
    t.is(exitCode, 0, String(stderr));
    return String(stdout).split('\n');
  });
  const [one = [], other = []] = said;
  for (const [nth, what] of ['boot_id', 'urandom', 'uuid'].entries()) {
    t.regex(one[nth] ?? '', /^[0-9a-f-]{32,}/);
    t.not(one[nth], other[nth], what);
  }
  for (const [, , , time, dmi] of said) {
    t.true(Number(time) > before - SKEW && Number(time) < after + SKEW, `${time} by ${before}`);
    // It would tell the saved machine's uuid.
    t.regex(dmi ?? '', /No such file/);
  }
});

test('a run with nothing parked is restored, and boots where the saved machine is damaged', async (t) => {
  t.timeout(300_000 * PATIENCE);
  t.is((await kiln('park', '--none')).exitCode, 0);
  const [name = ''] = savedFiles();
  const seen = new Set<string>();
  const watched = async (running: ReturnType<typeof run>) => {
    const looking = setInterval(() => {
      for (const mode of relayModes()) seen.add(mode);
    }, 20);
    const { exitCode, stdout, stderr } = await running;
    clearInterval(looking);
    t.is(exitCode, 0, String(stderr));
    return String(stdout);
  };
  t.is(await watched(run('echo restored')), 'restored');
  t.deepEqual([...seen], ['restored']);
  const started = performance.now();
  truncateSync(join(state.paths.machines, name), 8 << 20);
  t.is(await watched(run('echo booted')), 'booted');
  t.log(`restoring in vain and booting took ${performance.now() - started} ms`);
  t.deepEqual([...seen], ['restored', 'boots']);
  t.deepEqual(savedFiles(), []);
  await eventually(async () => (await virsh('list', '--name')).trim() === '');
  t.is((await kiln('gc')).exitCode, 0);
  t.deepEqual(await isNothingLeft(), []);
});

long('a saved machine with other memory than it was saved with keeps nobody waiting', async (t) => {
  t.timeout(400_000 * PATIENCE);
  t.is((await park(1)).exitCode, 0);
  t.is((await kiln('park', '--none')).exitCode, 0);
  const [name = ''] = savedFiles();
  const saved = join(state.paths.machines, name);
  const { size } = statSync(saved);
  const memory = 2 << 20;
  truncateSync(saved, memory);
  truncateSync(saved, size);
  const started = performance.now();
  const { exitCode, stdout, stderr } = await run('echo booted');
  t.is(exitCode, 0, String(stderr));
  t.is(String(stdout), 'booted');
  t.log(`it took ${performance.now() - started} ms`);
  t.deepEqual(savedFiles(), []);
  await eventually(async () => (await virsh('list', '--name')).trim() === '');
  t.is((await kiln('gc')).exitCode, 0);
  t.deepEqual(await isNothingLeft(), []);
});
