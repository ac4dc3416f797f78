/** One kiln that its daemon serves, and client, daemon or worker killed at a random moment. */
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { execa } from 'execa';
import type { StatePaths } from '../../src/host/state/paths.ts';
import { domainPrefix } from '../../src/sandbox/domain/sandbox-record.ts';
import { daemonPid, plainEnvironment } from '../../test/support/daemon.ts';
import { controllers, processes, signal } from './processes.ts';
import { END, type Kill, type Target, type VictimOptions } from './victim.ts';

const KILN = join(import.meta.dirname, '../../bin/kiln');

/** What can be killed of a command line that goes through the daemon. */
export const SERVED_TARGETS: readonly Target[] = ['daemon', 'worker', 'runner'];

/** All that is seen of a phase from outside. The first one is there from the beginning. */
export const NO_SANDBOX = 'no sandbox';
export const SANDBOX = 'sandbox';

/** Starts a client and kills. The runner is the client. */
export async function killServed(options: VictimOptions): Promise<Kill> {
  const { paths, env, args, target } = options;
  const before = controllers(domainPrefix(paths));
  const hasSandbox = () =>
    [...controllers(domainPrefix(paths)).keys()].some((id) => !before.has(id));
  const began = performance.now();
  const running = execa(KILN, args, {
    ...{ env: plainEnvironment(env), extendEnv: false },
    ...{ reject: false, stdin: 'ignore' },
  });
  let ended = false;
  const end = running.finally(() => {
    ended = true;
  });
  const took = new Map<string, number>();
  if (options.phase === SANDBOX) {
    while (!ended && !hasSandbox()) await sleep(20);
    if (!ended) took.set(NO_SANDBOX, performance.now() - began);
  }
  await sleep(Math.random() * options.within);
  const phase = hasSandbox() ? SANDBOX : NO_SANDBOX;
  const { pid } = running;
  if (ended || pid === undefined) {
    await end;
    return { phase: undefined, target, took };
  }
  const victim = pidOf(target, paths);
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
    end: { exitCode, stderr: String(stderr) },
    ...(by === 'SIGKILL' ? { hung: phase } : {}),
  };
}

/** The daemon, or a worker of its: where nothing but the victim is served, there is hardly another one. */
function pidOf(target: Target, paths: StatePaths): number | undefined {
  const daemon = target === 'runner' ? undefined : daemonPid(paths.root);
  if (target === 'daemon' || daemon === undefined) return daemon;
  return processes().find(
    ({ parent, command }) => parent === daemon && /kilnd-worker\.cjs/.test(command),
  )?.pid;
}
