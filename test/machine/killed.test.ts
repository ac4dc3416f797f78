/** Parts of a machine, and what serves it, are killed: nothing of it is left. */
import { existsSync, globSync, mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import anyTest, { type ExecutionContext } from 'ava';
import {
  MACHINE_PARTS,
  MACHINE_TARGETS,
  type MachineTarget,
  partOf,
} from '../../scripts/crash/machine.ts';
import { signal } from '../../scripts/crash/processes.ts';
import { remains } from '../../scripts/crash/remains.ts';
import { embeddedFiles } from '../../src/host/libvirt/embedded/files.ts';
import { domainPrefix } from '../../src/sandbox/domain/sandbox-record.ts';
import { type BusyboxState, busyboxState, IMAGE, PATIENCE } from '../support/busybox-state.ts';
import { daemonPid } from '../support/daemon.ts';
import { until } from '../support/eventually.ts';
import { long } from '../support/long.ts';

const test = anyTest.serial;

let state: BusyboxState;

test.before(async () => {
  state = await busyboxState();
});

test.after.always(async () => {
  await state[Symbol.asyncDispose]();
});

const has = (part: MachineTarget) => partOf(part, state.paths) !== undefined;

const RUN = ['run', '--isolation', 'vm', '--allow-missing', 'kvm', '-r', IMAGE] as const;

/** A run of which somebody kills a part. */
function start(words: readonly string[] = ['--', 'true']) {
  const running = state.kiln([...RUN, ...words], {
    env: { ...state.env, KILN_PARKED: '0' },
    stdin: 'pipe',
    timeout: 240_000 * PATIENCE,
  });
  const told = (what: RegExp) =>
    new Promise<void>((resolve, reject) => {
      running.stdout?.on('data', (text) => what.test(String(text)) && resolve());
      running.then(({ stderr }) => reject(new Error(String(stderr))));
    });
  return { running, told };
}

async function kill(t: ExecutionContext, victim: MachineTarget): Promise<void> {
  const found = partOf(victim, state.paths);
  t.true(found !== undefined && signal(found.pid, 'SIGKILL'), victim);
}

/** What the next command does, and what there is then. */
async function lookOver(t: ExecutionContext, victim: string): Promise<void> {
  const next = await state.kiln(['run', '-r', IMAGE, '--', 'true']);
  t.is(next.exitCode, 0, `after ${victim}: ${String(next.stderr)}`);
  const gc = await state.kiln(['gc']);
  t.is(gc.exitCode, 0, `after ${victim}: ${String(gc.stderr)}`);
  const daemon = daemonPid(state.paths.root);
  const living = { sandboxes: [], runners: daemon === undefined ? [] : [daemon] };
  t.deepEqual(await remains(state.paths, living, []), [], victim);
}

/** A run that loses a part ends, and says that it did not do what it was asked. */
function endedBadly(
  t: ExecutionContext,
  victim: MachineTarget,
  status: unknown,
  stderr: unknown,
): void {
  // Without kilnd or its worker the client has nobody to tell it a status of kiln's own.
  t.not(status, 0, victim);
  t.regex(String(stderr), /kiln: /, victim);
}

const AT_START = [...MACHINE_PARTS, 'worker'] as const;

test('a machine of which a part is killed while it starts ends, and nothing is left', async (t) => {
  t.timeout(300_000 * PATIENCE);
  for (const victim of AT_START) {
    const { running, told } = start();
    // It is to be killed before that.
    told(/never/).catch(() => undefined);
    t.true(await until(() => has('qemu') && has(victim)));
    await kill(t, victim);
    const { exitCode, stderr } = await running;
    t.log(victim, exitCode, String(stderr));
    endedBadly(t, victim, exitCode, stderr);
    await lookOver(t, victim);
  }
});

test('kiln gc removes what libvirt has left of a machine', async (t) => {
  // It starts libvirtd, which makes the groups above.
  t.is((await state.kiln(['gc'])).exitCode, 0);
  const name = `${domainPrefix(state.paths)}0123456789`;
  const { machineLogs, machineFolders } = embeddedFiles(state.paths);
  const short = name.slice(0, 20);
  const homes = globSync(`/sys/fs/cgroup/**/${embeddedFiles(state.paths).name}/machine`);
  t.true(homes.length > 0);
  const left = [
    ...homes.map((home) => join(home, `qemu-7-${name}.libvirt-qemu`)),
    ...machineFolders.flatMap((folder) => [join(folder, `domain-7-${short}`)]),
  ];
  for (const folder of [machineLogs, ...left]) mkdirSync(folder, { recursive: true });
  left.push(join(machineLogs, `${name}.log`));
  writeFileSync(left.at(-1)!, 'shutting down');
  const seen = await remains(
    state.paths,
    { sandboxes: [], runners: [daemonPid(state.paths.root) ?? 0] },
    [],
  );
  // The daemon may sweep meanwhile.
  const unseen = left.filter((path) => !seen.some((line) => line.includes(path)));
  t.deepEqual(unseen.filter(existsSync), [], seen.join('\n'));
  t.is((await state.kiln(['gc'])).exitCode, 0);
  for (const path of left) t.false(existsSync(path), path);
});

/** Of a boot, and of what follows a command's end. Milliseconds. */
const BOOT = 10_000;
const END = 2000;

for (const victim of MACHINE_TARGETS.filter((it) => it !== 'runner')) {
  long(`${victim} is killed in a phase of a machine, and nothing is left`, async (t) => {
    t.timeout(1_800_000 * PATIENCE);
    const script = 'head -c 30000000 /dev/zero > /tmp/big; echo ready; read line';
    const results = ['--resultdir', `${state.beside}/results`, '--artifact', '/tmp/big'];
    const phases = {
      start: async () => {
        const { running, told } = start();
        told(/never/).catch(() => undefined);
        await until(() => has('qemu') && has(victim));
        await sleep(Math.random() * BOOT * PATIENCE);
        return { running };
      },
      command: async () => {
        const { running, told } = start(['--', 'sh', '-c', script]);
        await told(/ready/);
        return { running };
      },
      results: async () => {
        const { running, told } = start([...results, '--', 'sh', '-c', script]);
        await told(/ready/);
        running.stdin?.end('\n');
        await sleep(Math.random() * END);
        return { running };
      },
    };
    for (const [phase, begin] of Object.entries(phases)) {
      // In an object: a promise that is returned would be waited for.
      const { running } = await begin();
      const found = partOf(victim, state.paths);
      const hit = found !== undefined && signal(found.pid, 'SIGKILL');
      // libvirt, and a kilnd whose worker goes on, may be missed by nobody until the end.
      const isNeeded = victim !== 'libvirtd' && victim !== 'daemon' && phase === 'command';
      if (isNeeded) t.true(hit, phase);
      // Nobody sends the command its line any more: it waits for it.
      if (!isNeeded) running.stdin?.end('\n');
      const { exitCode, stderr } = await running;
      t.log(phase, hit, exitCode, String(stderr).slice(-300));
      if (isNeeded) endedBadly(t, victim, exitCode, stderr);
      await lookOver(t, `${victim} in ${phase}`);
    }
  });
}

long('a kept machine of which a part was killed is no sandbox any more', async (t) => {
  t.timeout(1_800_000 * PATIENCE);
  for (const victim of MACHINE_PARTS) {
    const { stderr } = await start(['--keep=20m', '--', 'true']).running;
    const [, id = ''] = /kept as (\w+)/.exec(String(stderr)) ?? [];
    // What looks for remains sees what there is.
    const seen = (await remains(state.paths, { sandboxes: [], runners: [] }, [])).join('\n');
    for (const part of [/: \S*qemu/, /: \S*kiln-relay/, /: virtiofsd/, /^domain /m, /^cgroup /m])
      t.regex(seen, part);
    await kill(t, victim);
    const exec = await state.kiln(['exec', id, '--', 'true']);
    t.is(exec.exitCode, 125, `${victim}: ${String(exec.stderr)}`);
    await state.kiln(['kill', id]);
    await lookOver(t, `${victim} of a kept machine`);
  }
});
