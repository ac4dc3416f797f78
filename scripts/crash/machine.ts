/** Machines, and something of one killed at a random moment. */
import { rm } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { execa } from 'execa';
import { embeddedFiles, daemonPid as libvirtdPid } from '../../src/host/libvirt/embedded/files.ts';
import type { StatePaths } from '../../src/host/state/paths.ts';
import { domainPrefix } from '../../src/sandbox/domain/sandbox-record.ts';
import { daemonPid, plainEnvironment } from '../../test/support/daemon.ts';
import { checkReported, type Ground, type Job } from './jobs.ts';
import { processes, type SeenProcess, signal } from './processes.ts';
import { END, type Kill, type Target, type VictimOptions } from './victim.ts';

const KILN = join(import.meta.dirname, '../../bin/kiln');

/** What a machine consists of on the host. */
export const MACHINE_PARTS = ['qemu', 'outer relay', 'inner relay', 'virtiofsd'] as const;

/** The worker is the one that has started the machine's relay. */
export const MACHINE_TARGETS = [
  ...MACHINE_PARTS,
  ...(['libvirtd', 'daemon', 'worker', 'runner'] as const),
];

export type MachineTarget = (typeof MACHINE_TARGETS)[number];

/** A process of the one machine that a state has, or of what serves it; nothing of a runner. */
export function partOf(target: Target, paths: StatePaths): SeenProcess | undefined {
  const all = processes();
  const named = (pid: number | undefined) =>
    pid === undefined || pid <= 1 ? undefined : all.find((it) => it.pid === pid);
  if (target === 'libvirtd') return named(libvirtdPid(embeddedFiles(paths)));
  if (target === 'daemon') return named(daemonPid(paths.root));
  if (target === 'qemu')
    return all.find(({ command }) => command.includes(`guest=${domainPrefix(paths)}`));
  const relays = all.filter(
    ({ command }) => /kiln-relay /.test(command) && command.includes(paths.sandboxes),
  );
  const outer = relays.find(({ parent }) => relays.every(({ pid }) => pid !== parent));
  if (target === 'outer relay') return outer;
  if (target === 'worker') return named(outer?.parent);
  const inner = relays.find(({ parent }) => parent === outer?.pid);
  if (target === 'inner relay') return inner;
  return target === 'virtiofsd'
    ? all.find((it) => it.command.startsWith('virtiofsd') && it.parent === inner?.pid)
    : undefined;
}

/** What is seen of a run in a machine from outside; the last one is of a kept machine. */
const PHASES = { 'no machine': 600, boot: 20_000, command: 3000, results: 2500, kept: 3000 };

/** The last byte that a command writes says that its artifacts follow. */
const SCRIPT = 'echo ready; sleep 3; yes | head -c 30000000 > /tmp/big; echo done';

/** `kiln run --isolation vm` with an artifact, and of the phase `kept` another command in a kept machine. */
export function machineJob(ground: Ground): Job {
  const resultDirectory = join(ground.directory, 'machine');
  return {
    ...{ name: 'machine', targets: MACHINE_TARGETS, phases: PHASES, resultDirectory },
    kill: killMachine,
    args: [
      ...['run', '--isolation', 'vm', '--allow-missing', 'kvm', '-r', ground.image],
      ...['--resultdir', resultDirectory, '--artifact', '/tmp/big', '--', 'sh', '-c', SCRIPT],
    ],
    next: ['run', '-r', ground.image, '--', 'true'],
    prepare: () => rm(resultDirectory, { recursive: true, force: true }),
    async check(whole) {
      const wrong = await checkReported(resultDirectory);
      const { stdout } = await execa('stat', ['-c', '%s', join(resultDirectory, 'big')], {
        reject: false,
      });
      // What is not there has no size.
      if (stdout !== '30000000' && (whole || stdout !== '')) wrong.push(`an artifact of ${stdout}`);
      return wrong;
    },
  };
}

/** Starts a machine and kills something of it. */
async function killMachine(options: VictimOptions): Promise<Kill> {
  const { paths, args, target, within } = options;
  if (options.phase === 'kept') return await killKept(options);
  const began = performance.now();
  const took = new Map<string, number>();
  const run = start(options, args);
  const phase = () => {
    if (run.said().includes('done')) return 'results';
    if (run.said().includes('ready')) return 'command';
    return partOf('qemu', paths) === undefined ? 'no machine' : 'boot';
  };
  let since = began;
  for (const name of Object.keys(PHASES)) {
    if (name === options.phase) break;
    while (!run.ended() && phase() === name) await sleep(20);
    took.set(name, performance.now() - since);
    since = performance.now();
  }
  await sleep(Math.random() * within);
  return await killOf(options, run, phase(), took, target);
}

/** Kills something of a kept machine in which a command runs. Its end says nothing of artifacts: it has none. */
async function killKept(options: VictimOptions): Promise<Kill> {
  const took = new Map<string, number>();
  const [, ...words] = options.args.slice(0, options.args.indexOf('--resultdir'));
  const made = start(options, ['run', '--keep=20m', ...words, '--', 'true']);
  const { stderr } = await made.end;
  const [, id] = /kept as (\w+)/.exec(stderr) ?? [];
  if (id === undefined) throw new Error(`no machine was kept: ${stderr}`);
  const run = start(options, ['exec', id, '--', 'sh', '-c', 'sleep 3; echo done']);
  await sleep(Math.random() * options.within);
  const { end: _, ...kill } = await killOf(options, run, 'kept', took, options.target);
  await start(options, ['kill', id]).end;
  return kill;
}

type Started = ReturnType<typeof start>;

function start({ env }: VictimOptions, args: readonly string[]) {
  const running = execa(KILN, args, {
    ...{ env: plainEnvironment(env), extendEnv: false },
    ...{ reject: false, stdin: 'ignore' },
  });
  let ended = false;
  let said = '';
  running.stdout.on('data', (text) => {
    said += String(text);
  });
  const end = running.finally(() => {
    ended = true;
  });
  return { pid: running.pid, end, ended: () => ended, said: () => said };
}

async function killOf(
  { paths }: VictimOptions,
  run: Started,
  phase: string,
  took: ReadonlyMap<string, number>,
  target: Target,
): Promise<Kill> {
  const { pid, end } = run;
  if (run.ended() || pid === undefined) {
    await end;
    return { phase: undefined, target, took };
  }
  const victim = target === 'runner' ? undefined : partOf(target, paths)?.pid;
  if (victim === undefined || !signal(victim, 'SIGKILL')) {
    signal(pid, 'SIGKILL');
    await end;
    return { phase, target: 'runner', took };
  }
  const late = setTimeout(() => signal(pid, 'SIGKILL'), END);
  const { exitCode, stderr, signal: by } = await end;
  clearTimeout(late);
  return {
    ...{ phase, target, took },
    end: { exitCode, stderr },
    ...(by === 'SIGKILL' ? { hung: phase } : {}),
  };
}
