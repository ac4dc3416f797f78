/**
 * kilnd, the daemon of one state directory. Started by root's client (src/client/daemon.c), which waits until
 * descriptor 3 is closed: a NUL there says that it listens, anything else why it does not. Or by systemd, when
 * somebody connects to kiln.socket: descriptor 3 and those that follow are the sockets then.
 */
import { closeSync, constants, fstatSync, mkdirSync, openSync, writeSync } from 'node:fs';
import { homedir } from 'node:os';
import { join } from 'node:path';
import { outputOf } from '../cli/caller/caller.ts';
import { describeError, KILN_FAILED, printError } from '../cli/output/errors.ts';
import { Life } from '../daemon/life.ts';
import { isTaken, passedSockets } from '../daemon/listener.ts';
import { Lull, Removals } from '../daemon/lull.ts';
import { ParkedSandboxes, type Parking, Turns } from '../daemon/parked.ts';
import { Activity, Server } from '../daemon/server.ts';
import { type DaemonSettings, readSettings } from '../daemon/settings.ts';
import type { WorkersOptions } from '../daemon/worker-process.ts';
import { Workers } from '../daemon/workers.ts';
import { removeOldJobs } from '../detached/record.ts';
import { type OwnEngine, openEngine } from '../engine.ts';
import { sweepEvents } from '../events/sweep.ts';
import { attempt } from '../host/calls/libc.ts';
import { checked, tryCall } from '../host/calls/system-call.ts';
import { memoryKills, sweepWorkGroups, workGroup } from '../host/cgroup/work-group.ts';
import { acquireLock, tryLock } from '../host/files/flock.ts';
import { nodeCommand } from '../host/process/own-node.ts';
import { nameProcess } from '../host/process/process.ts';
import { clearPlace } from '../host/state/damage.ts';
import { packageRoot } from '../host/state/package-root.ts';
import { requireState, type StatePaths, statePaths } from '../host/state/paths.ts';
import { sweepSandboxes } from '../sandbox/domain/sweep.ts';
import { OpenSandboxes } from '../serve/calls/open-sandboxes.ts';
import { Serving } from '../serve/serving.ts';
import { sharesBy } from '../serve/users.ts';
import { sweepJobs } from '../users/job-folder.ts';

const READY_FD = 3;

async function main(): Promise<void> {
  nameProcess('kilnd');
  process.on('uncaughtException', fail).on('unhandledRejection', fail);
  process.umask(0o022);
  const { env } = process;
  const paths = statePaths(env);
  requireState(paths.root);
  mkdirSync(paths.root, { recursive: true, mode: 0o755 });
  process.chdir('/');
  const passed = passedSockets(env);
  // Whoever passes sockets on knows of no other daemon: one that is there lets go when it sees them.
  const locked = join(paths.root, 'kilnd.lock');
  const lock = await (passed.length > 0 ? acquireLock : tryLock)(locked);
  if (lock === undefined) return sayReady(paths);
  const errors = outputOf(process.stderr, { isTTY: false, columns: 80 });
  const tell = (error: unknown) => printError(error, errors);
  const settings = readSettings(env, paths, tell);
  if (passed.length === 0 && settings.names.some(isTaken)) {
    // kiln.socket has just been started: systemd's sockets are not replaced.
    await lock.release();
    return sayReady(paths);
  }
  const own = openEngine({ KILN_STATE: settings.state, KILN_CONFIG: env.KILN_CONFIG });
  const parked: Parking = {
    container: new ParkedSandboxes(own, 'container', settings.parked, tell),
    vm: new ParkedSandboxes(own, 'vm', settings.parkedMachines, tell),
  };
  const turns = new Turns(parked);
  const engine: OwnEngine = { ...own, takeTurn: (wanted) => turns.take(wanted) };
  const sweep = () => {
    sweepSandboxes(paths, engine.connect).catch(tell);
    sweepJobs(paths).catch(tell);
    sweepEvents(paths).catch(tell);
  };
  const workers = new Workers({
    ...{ ...workerProgram(settings, env), turns },
    ended: () => {
      sweepWorkGroups(paths, 'leave').catch(tell);
    },
    memoryKills: (uid) => memoryKills(workGroup(paths, uid)),
    crashed: (how) => {
      errors.say(`kilnd: a worker ended ${how}\n`);
      sweep();
    },
  });
  const lull = new Lull((isLull) => {
    for (const each of Object.values(parked)) each.refill();
    if (!isLull || workers.hasBegun) return;
    try {
      if (settings.parked > 0) workers.prepare();
    } catch (error) {
      // There may be no descriptor now: whoever needs a worker is told.
      tell(error);
    }
    sweep();
    sweepWorkGroups(paths, 'leave').catch(tell);
  });
  const removals = new Removals(lull, tell);
  const activity = new Activity();
  const sandboxes = new OpenSandboxes(() => activity.hold());
  const users = sharesBy(settings.configuration);
  const parts = { engine, parked, workers, lull, removals, activity, sandboxes, settings, tell };
  const serving = new Serving({ ...parts, users });
  const server = new Server({
    ...{ activity, group: settings.group, build: settings.build, failed: fail },
    sockets: passed.length > 0 ? passed : settings.names,
    serve: (line) => serving.line(line),
    call: (call, isServed) => serving.call(call, isServed),
  });
  const life = new Life({ ...parts, server, locked, lock, passed, fail });
  process.on('SIGTERM', () => life.end()).on('SIGINT', () => life.end());
  sweep();
  sweepWorkGroups(paths).catch(tell);
  removeOldJobs(paths, undefined).catch(tell);
  if (passed.length === 0) sayReady(paths);
}

function workerProgram(
  { state }: DaemonSettings,
  { PATH = '', KILN_CONFIG, KILN_LOG }: NodeJS.ProcessEnv,
): Pick<WorkersOptions, 'command' | 'env'> {
  return {
    command: nodeCommand({
      // MiB, half of what V8 takes by itself: a worker that stays is to stay small. Less makes reading packages slow.
      // Other processors are for its children.
      options: ['--max-semi-space-size=8', '--single-threaded-gc'],
      program: join(packageRoot(), 'dist/kilnd-worker.cjs'),
    }),
    env: {
      ...{ PATH, HOME: homedir(), KILN_STATE: state },
      ...(KILN_CONFIG ? { KILN_CONFIG } : {}),
      ...(KILN_LOG ? { KILN_LOG } : {}),
    },
  };
}

function sayReady(paths: StatePaths): void {
  if (attempt(() => fstatSync(READY_FD)) === undefined) return;
  const log = join(paths.root, 'kilnd.log');
  clearPlace(log);
  const file = openSync(log, constants.O_WRONLY | constants.O_CREAT | constants.O_APPEND, 0o600);
  checked('dup3', tryCall('dup3', file, 2, 0));
  closeSync(file);
  writeSync(READY_FD, '\0');
  closeSync(READY_FD);
}

/** What nobody expected ends the daemon: its sandboxes end with it, and the next one cleans up. */
function fail(error: unknown): never {
  writeSync(2, describeError(error));
  process.exit(KILN_FAILED);
}

main().catch(fail);
