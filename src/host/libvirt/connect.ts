import { existsSync, readFileSync } from 'node:fs';
import { isDead } from '../process/process.ts';
import type { Awaited } from '../process/wait-for.ts';
import type { StatePaths } from '../state/paths.ts';
import { type Connection, openConnection } from './connection.ts';
import { endDaemonOfDeletedState, ensureEmbeddedDaemon } from './embedded/daemon.ts';
import { daemonPid, embeddedFiles } from './embedded/files.ts';
import { type Engine, pickEngine } from './pick-engine.ts';

export interface ConnectOptions {
  readonly paths: StatePaths;
  readonly env: NodeJS.ProcessEnv;
  /** How long libvirtd may be silent, ms; {@link patience} by default. */
  readonly endAfter?: number;
}

const SYSTEM_PID_FILES = [
  '/run/virtlxcd.pid',
  '/run/libvirt/virtlxcd.pid',
  '/run/libvirtd.pid',
  '/run/libvirt/libvirtd.pid',
];

function daemonOf(engine: Engine, paths: StatePaths): Awaited {
  const embedded = engine.kind === 'embedded';
  const pid = embedded ? daemonPid(embeddedFiles(paths)) : systemPid();
  const facts = [...(pid === undefined ? [] : [`pid ${pid}`]), embedded ? 'embedded' : engine.uri];
  return { name: `libvirtd (${facts.join(', ')})`, pid };
}

function systemPid(): number | undefined {
  for (const path of SYSTEM_PID_FILES) {
    const pid = existsSync(path) ? Number(readFileSync(path, 'latin1')) : 0;
    if (pid > 0 && !isDead(pid)) return pid;
  }
  return undefined;
}

/**
 * The embedded daemon is started where it does not run, also at a later call after it died or ended idle.
 * @throws LibvirtError E_LIBVIRT_MISSING, E_LIBVIRT_CONNECT, E_LIBVIRT_START, and those of {@link pickEngine};
 * KilnError E_LIBVIRT_SILENT
 */
export async function connect({ paths, env, endAfter }: ConnectOptions): Promise<Connection> {
  const engine = pickEngine(paths, env);
  if (engine.kind === 'embedded') await endDaemonOfDeletedState(paths);
  const revive = async () => void (await ensureEmbeddedDaemon(paths));
  return openConnection(engine.uri, {
    whom: () => daemonOf(engine, paths),
    endAfter,
    ...(engine.kind === 'system' ? {} : { revive }),
  });
}
