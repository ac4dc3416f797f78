/** Parts of a machine, and what serves it, are killed: nothing of it is left. */
import { setTimeout as sleep } from 'node:timers/promises';
import anyTest, { type ExecutionContext } from 'ava';
import { processes, type SeenProcess, signal } from '../../scripts/crash/processes.ts';
import { remains } from '../../scripts/crash/remains.ts';
import { embeddedFiles, daemonPid as libvirtdPid } from '../../src/host/libvirt/embedded/files.ts';
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

const isRelay = ({ command }: SeenProcess) => /kiln-relay /.test(command);

/** Processes of the one machine of the state. */
const VICTIMS = {
  qemu: () => ofMachine(({ command }) => command.includes(`guest=${domainPrefix(state.paths)}`)),
  'the outer relay': () => outerRelay(),
  'the inner relay': () => ofMachine((it) => isRelay(it) && it.parent === outerRelay()?.pid),
  virtiofsd: () => {
    const inner = VICTIMS['the inner relay']();
    return ofMachine((it) => it.command.startsWith('virtiofsd') && it.parent === inner?.pid);
  },
  libvirtd: () => named(libvirtdPid(embeddedFiles(state.paths))),
  kilnd: () => named(daemonPid(state.paths.root)),
  /** Whoever has started the relay holds the sandbox. */
  'the holder': () => named(outerRelay()?.parent),
} as const;

type Victim = keyof typeof VICTIMS;

function ofMachine(isIt: (process: SeenProcess) => boolean): SeenProcess | undefined {
  return processes().find(isIt);
}

function outerRelay(): SeenProcess | undefined {
  const all = processes().filter((it) => isRelay(it) && it.command.includes(state.paths.sandboxes));
  return all.find(({ parent }) => all.every(({ pid }) => pid !== parent));
}

function named(pid: number | undefined): SeenProcess | undefined {
  return pid === undefined || pid === 1 ? undefined : ofMachine((it) => it.pid === pid);
}

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

async function kill(t: ExecutionContext, victim: Victim): Promise<void> {
  const found = VICTIMS[victim]();
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
function endedBadly(t: ExecutionContext, victim: Victim, status: unknown, stderr: unknown): void {
  // Without kilnd or its worker the client has nobody to tell it a status of kiln's own.
  t.not(status, 0, victim);
  t.regex(String(stderr), /kiln: /, victim);
}

const AT_START = ['qemu', 'the outer relay', 'the inner relay', 'virtiofsd', 'the holder'] as const;

test('a machine of which a part is killed while it starts ends, and nothing is left', async (t) => {
  t.timeout(300_000 * PATIENCE);
  for (const victim of AT_START) {
    const { running, told } = start();
    // It is to be killed before that.
    told(/never/).catch(() => undefined);
    t.true(await until(() => VICTIMS.qemu() !== undefined && VICTIMS[victim]() !== undefined));
    await kill(t, victim);
    const { exitCode, stderr } = await running;
    t.log(victim, exitCode, String(stderr));
    endedBadly(t, victim, exitCode, stderr);
    await lookOver(t, victim);
  }
});

/** Of a boot, and of what follows a command's end. Milliseconds. */
const BOOT = 10_000;
const END = 2000;

for (const victim of Object.keys(VICTIMS) as Victim[]) {
  long(`${victim} is killed in a phase of a machine, and nothing is left`, async (t) => {
    t.timeout(1_800_000 * PATIENCE);
    const script = 'head -c 30000000 /dev/zero > /tmp/big; echo ready; read line';
    const results = ['--resultdir', `${state.beside}/results`, '--artifact', '/tmp/big'];
    const phases = {
      start: async () => {
        const { running, told } = start();
        told(/never/).catch(() => undefined);
        await until(() => VICTIMS.qemu() !== undefined && VICTIMS[victim]() !== undefined);
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
      const found = VICTIMS[victim]();
      const hit = found !== undefined && signal(found.pid, 'SIGKILL');
      // libvirt, and a kilnd whose worker goes on, may be missed by nobody until the end.
      const isNeeded = victim !== 'libvirtd' && victim !== 'kilnd' && phase === 'command';
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
  for (const victim of ['qemu', 'the outer relay', 'the inner relay', 'virtiofsd'] as const) {
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
