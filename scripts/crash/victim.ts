/** One kiln that is started, and something of it killed at a random moment. */
import { readFileSync } from 'node:fs';
import { rm } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { execa } from 'execa';
import { embeddedFiles } from '../../src/host/libvirt/embedded/files.ts';
import type { StatePaths } from '../../src/host/state/paths.ts';
import { domainPrefix } from '../../src/sandbox/domain/sandbox-record.ts';
import { controllers, initOf, signal } from './processes.ts';

export const TARGETS = [
  ...(['runner', 'libvirtd', 'libvirt_lxc', 'init', 'daemon', 'worker'] as const),
  ...(['qemu', 'outer relay', 'inner relay', 'virtiofsd'] as const),
];

/** What is killed. */
export type Target = (typeof TARGETS)[number];

/** What can be killed of a command line that runs in a process of its own. */
export const OWN_TARGETS: readonly Target[] = ['runner', 'libvirtd', 'libvirt_lxc', 'init'];

/** What came of a kill. */
export interface Kill {
  /** The phase that the runner was in; undefined: it had ended before. */
  readonly phase: string | undefined;
  /** What was killed: the runner where the wanted one was not there yet, or any more. */
  readonly target: Target;
  /** The runner's end, where it was not the one to be killed. */
  readonly end?: { readonly exitCode: number | undefined; readonly stderr: string };
  /** The phase in which the runner hung, until it was killed after all. */
  readonly hung?: string;
  /** How long the phases took that were over before the kill, ms. */
  readonly took: ReadonlyMap<string, number>;
}

/** A command line of kiln's to be killed in a phase. */
export interface VictimOptions {
  readonly paths: StatePaths;
  readonly env: NodeJS.ProcessEnv;
  readonly args: readonly string[];
  /** The phase to wait for. */
  readonly phase: string;
  /** The kill comes up to so many milliseconds after that phase began. */
  readonly within: number;
  readonly target: Target;
}

const MAIN = join(import.meta.dirname, '../../src/programs/command-line.ts');
const PROBE = join(import.meta.dirname, 'probe.ts');

/** How long a runner may take to end after something else of its was killed, ms. */
export const END = 180_000;

/** What the probe calls the end of the process. */
const OVER = 'end';

/** Starts a kiln and kills. The runner is stopped for the moment of the kill: so its phase is known. */
export async function killOne(options: VictimOptions): Promise<Kill> {
  const { paths, env, args, target } = options;
  const phases = join(paths.root, `phases-${process.pid}`);
  await rm(phases, { force: true });
  const before = controllers(domainPrefix(paths));
  const running = execa(process.execPath, ['--import', PROBE, MAIN, ...args], {
    env: { ...env, CRASH_PHASES: phases },
    reject: false,
    stdin: 'ignore',
  });
  let ended = false;
  const end = running.finally(() => {
    ended = true;
  });
  // The last: a phase may be entered beside another (image and input of a build), and again later.
  while (!ended && phasesIn(phases).at(-1)?.name !== options.phase) await sleep(2);
  await sleep(Math.random() * options.within);
  const { pid } = running;
  const stopped = !ended && pid !== undefined && signal(pid, 'SIGSTOP');
  const seen = phasesIn(phases);
  const took = durations(seen);
  const current = seen.at(-1)?.name ?? 'start of kiln';
  if (!stopped || current === OVER) {
    if (stopped) signal(pid, 'SIGCONT');
    await end;
    return { phase: undefined, target, took };
  }
  const sandbox = [...controllers(domainPrefix(paths))].find(([id]) => !before.has(id))?.[1];
  // Scriptlets run in a sandbox, and nothing else in an image's making does.
  const phase = current === 'compose' && sandbox !== undefined ? 'scriptlets' : current;
  const victim = pidOf(target, paths, sandbox);
  if (victim === undefined || !signal(victim, 'SIGKILL')) {
    signal(pid, 'SIGKILL');
    await end;
    return { phase, target: 'runner', took };
  }
  signal(pid, 'SIGCONT');
  const late = setTimeout(() => signal(pid, 'SIGKILL'), END);
  const { exitCode, stderr, signal: by } = await end;
  clearTimeout(late);
  return {
    ...{ phase, target, took },
    end: { exitCode, stderr: String(stderr) },
    ...(by === 'SIGKILL' ? { hung: phasesIn(phases).at(-1)?.name ?? 'start of kiln' } : {}),
  };
}

/** A phase and when it began, by the clock of the process. */
interface SeenPhase {
  readonly name: string;
  readonly began: number;
}

/** How long each lasted but the last, which goes on. */
function durations(seen: readonly SeenPhase[]): ReadonlyMap<string, number> {
  return new Map(
    seen.slice(0, -1).map(({ name, began }, i) => [name, (seen[i + 1]?.began ?? began) - began]),
  );
}

function phasesIn(file: string): SeenPhase[] {
  let text: string;
  try {
    text = readFileSync(file, 'utf8');
  } catch {
    return [];
  }
  // What follows the last line's end is a line being written.
  return text
    .split('\n')
    .slice(0, -1)
    .map((line) => {
      const [began, ...name] = line.split(' ');
      return { name: name.join(' '), began: Number(began) };
    });
}

function pidOf(
  target: Target,
  paths: StatePaths,
  controller: number | undefined,
): number | undefined {
  if (target === 'libvirt_lxc') return controller;
  if (target === 'init') return controller === undefined ? undefined : initOf(controller);
  if (target !== 'libvirtd') return undefined;
  try {
    const pid = Number(readFileSync(embeddedFiles(paths).pid, 'utf8'));
    return pid > 1 ? pid : undefined;
  } catch {
    return undefined;
  }
}
