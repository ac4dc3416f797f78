/** Machines that were booted before there was a command. Two are booted here: emulated ones take long. */
import { existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { readdir } from 'node:fs/promises';
import { join } from 'node:path';
import anyTest from 'ava';
import { execa } from 'execa';
import { remains } from '../../scripts/crash/remains.ts';
import { embeddedFiles } from '../../src/host/libvirt/embedded/files.ts';
import { waitForDeath } from '../../src/host/process/process.ts';
import { readSandboxRecord } from '../../src/sandbox/domain/sandbox-record.ts';
import { sweepSandboxes } from '../../src/sandbox/domain/sweep.ts';
import { type BusyboxState, busyboxState, IMAGE, PATIENCE } from '../support/busybox-state.ts';
import { daemonPid } from '../support/daemon.ts';
import { eventually, until } from '../support/eventually.ts';
import { openKiln } from '../support/kiln.ts';
import { Parked, parkedIds } from '../support/parking.ts';

const test = anyTest.serial;

let state: BusyboxState;

test.before(async () => {
  state = await busyboxState();
});

test.after.always(async () => {
  await state[Symbol.asyncDispose]();
});

const MEBIBYTE = 2 ** 20;

/** As libvirt lists them. */
async function machineNames(): Promise<string[]> {
  const { machineUri } = embeddedFiles(state.paths);
  const { stdout } = await execa('virsh', ['-q', '-c', machineUri, 'list', '--name']);
  return stdout.split('\n').filter(Boolean);
}

/** Another one has the settings of whoever starts it. */
async function endDaemon(signal: NodeJS.Signals): Promise<void> {
  const daemon = daemonPid(state.paths.root) ?? 0;
  process.kill(daemon, signal);
  await waitForDeath(daemon, 60_000 * PATIENCE);
}

test('kilnd parks as many machines as its settings say', async (t) => {
  t.timeout(300_000 * PATIENCE);
  const env = { ...state.env, KILN_PARKED: '0', KILN_PARKED_VMS: '1' };
  const kiln = (...words: string[]) => state.kiln(words, { env });
  t.is((await kiln('run', '-r', IMAGE, '--', 'true')).exitCode, 0);
  const isOne = async () =>
    (await machineNames()).length === 1 && parkedIds(state.paths).length === 1;
  t.true(await eventually(isOne));
  t.is((await kiln('park', '--none')).exitCode, 0);
  t.deepEqual(await machineNames(), []);
  await endDaemon('SIGTERM');
});

test('kiln run claims a machine that kiln park has booted, and what a dead kilnd leaves is swept', async (t) => {
  t.timeout(300_000 * PATIENCE);
  const kiln = (...words: string[]) =>
    state.kiln(words, { timeout: 240_000 * PATIENCE, env: { ...state.env, KILN_PARKED: '0' } });
  const parked = await kiln('park', '--isolation', 'vm', '-n', '1', '--memory', '512M');
  t.is(
    String(parked.stdout),
    '1 of 1 parked, emulated: runs with --allow-missing kvm take them',
    String(parked.stderr),
  );
  const names = await machineNames();
  t.is(names.length, 1);
  const [listed] = JSON.parse(String((await kiln('ps', '-a', '--json')).stdout));
  t.like(listed, { state: 'parked', record: { domain: names[0], parked: true } });
  const [sandbox = ''] = await readdir(state.paths.sandboxes);
  // Its image, binds, limits and user are those of the run.
  const bound = join(state.beside, 'bound');
  mkdirSync(bound, { recursive: true, mode: 0o777 });
  writeFileSync(join(bound, 'word'), 'from the host\n');
  const script = `cat /b/word; echo back > /b/answer; hostname; id -u; cat /tmp/x 2>&1
grep -c . /proc/net/dev; sleep 1`;
  const running = kiln(
    ...['run', '--isolation', 'vm', '--allow-missing', 'kvm', '-r', IMAGE, '--memory', '256M'],
    ...['--bind', `${bound}:/b`, '--hostname', 'claimed', '--resultdir', join(bound, 'results')],
    ...['--', 'sh', '-c', script],
  );
  t.true(await until(() => existsSync(join(bound, 'answer'))));
  t.true((await machineNames()).includes(names[0] ?? ''), 'libvirt has the same domain');
  t.is(readSandboxRecord(join(state.paths.sandboxes, sandbox))?.parked, undefined);
  const { exitCode, stdout, stderr } = await running;
  t.is(exitCode, 0, String(stderr));
  t.regex(String(stdout), /^from the host\nclaimed\n1000\ncat: can't open '\/tmp\/x'.*\n3\n?$/);
  t.is(readFileSync(join(bound, 'answer'), 'utf8'), 'back\n');
  const result = JSON.parse(readFileSync(join(bound, 'results/result.json'), 'utf8'));
  t.is(result.policy.limits.memory, 256 * MEBIBYTE);
  t.like(result.policy.machine, { kvm: false });
  const metrics = String((await kiln('metrics')).stdout);
  t.regex(metrics, /^kiln_parked_machine_claims_total\{result="taken"\} 1$/m);
  t.regex(metrics, /^kiln_parked_machine_claims_total\{result="missed"\} 0$/m);
  // It is used once; another one boots in its place now, and nobody is left to claim it.
  const isReplaced = async () => (await machineNames()).some((name) => name !== names[0]);
  t.true(await eventually(isReplaced));
  await endDaemon('SIGKILL');
  t.is((await kiln('park', '--none')).exitCode, 0);
  t.is((await kiln('gc')).exitCode, 0);
  t.deepEqual(await machineNames(), []);
  const runners = [daemonPid(state.paths.root)].filter((pid) => pid !== undefined);
  t.deepEqual(await remains(state.paths, { sandboxes: [], runners }, []), []);
});

test('a parked machine is claimed by what it has enough memory for, and by none that wants KVM', async (t) => {
  t.timeout(300_000 * PATIENCE);
  await using kiln = openKiln({ env: state.env });
  const parked = new Parked(kiln, { limits: { memory: 256 * MEBIBYTE }, mayBeEmulated: true });
  const directory = await parked.one();
  const taken = (different: Partial<{ memory: number; most: number; mayBeEmulated: boolean }>) =>
    parked.lot.take({
      ...{ isolation: 'vm', memory: 128 * MEBIBYTE, mayBeEmulated: true },
      ...different,
    });
  t.is(taken({ memory: 257 * MEBIBYTE }), undefined);
  t.is(taken({ mayBeEmulated: false }), undefined);
  t.is(taken({ most: 255 * MEBIBYTE }), undefined, 'more than the share of its user');
  t.is(parked.lot.take({ isolation: 'container' }), undefined);
  t.is(parked.lot.count, 1);
  const found = taken({ most: 256 * MEBIBYTE });
  t.is(found?.directory, directory);
  // Its owner is dead: whoever sweeps ends it.
  await found?.lock.release();
  await sweepSandboxes(kiln.paths, kiln.engine.connect);
  await eventually(async () => (await machineNames()).length === 0);
});
