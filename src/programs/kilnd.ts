/**
 * kilnd, the daemon of one state directory. Started by root's client (src/client/daemon.c), which waits until
 * descriptor 3 is closed: a NUL there says that it listens, anything else why it does not. Or by systemd, when
 * somebody connects to kiln.socket: descriptor 3 and those that follow are the sockets then.
 */
import {
  closeSync,
  constants,
  existsSync,
  fstatSync,
  mkdirSync,
  openSync,
  readFileSync,
  realpathSync,
  statSync,
  watch,
  writeSync,
} from 'node:fs';
import { homedir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { outputOf } from '../cli/caller/caller.ts';
import { runWorker } from '../cli/caller/work.ts';
import { answerCall } from '../cli/calls/answer.ts';
import { OpenSandboxes } from '../cli/calls/open-sandboxes.ts';
import { describeError, printError } from '../cli/output/errors.ts';
import { KILN_FAILED } from '../cli/output/exit-status.ts';
import { type Shared, serveCommandLine } from '../cli/serve.ts';
import { passedSockets, startSuccessor } from '../daemon/activation.ts';
import type { Call } from '../daemon/call.ts';
import { isTaken } from '../daemon/listener.ts';
import { ParkedSandboxes } from '../daemon/parked.ts';
import { Quiet } from '../daemon/quiet.ts';
import { WorkerResults } from '../daemon/results.ts';
import { Server } from '../daemon/server.ts';
import { Workers } from '../daemon/workers.ts';
import { removeOldJobs } from '../detached/record.ts';
import { openEngine } from '../engine.ts';
import { checked, tryCall } from '../host/calls/system-call.ts';
import { acquireLock, tryLock } from '../host/files/flock.ts';
import { nodeCommand, ownArguments } from '../host/process/own-node.ts';
import { clearPlace } from '../host/state/damage.ts';
import { packageRoot, requireState, statePaths } from '../host/state/paths.ts';
import { awaitedLater } from '../promise.ts';
import { timeInMilliseconds } from '../recipe/limit-keys.ts';
import { sweepSandboxes } from '../sandbox/domain/sweep.ts';
import { sweepJobs } from '../users/caller-files.ts';
import { configurationFile, groupNumber, readUserPolicy } from '../users/configuration.ts';
import { UserJobs } from '../users/queue.ts';

const READY_FD = 3;
const DEFAULT_STATE = '/var/lib/kiln';
const SOCKET = 'io.kiln';

/** `KILN_IDLE`: how long nobody may want anything before the daemon ends. */
const IDLE = '10m';

/** `KILN_PARKED`: how many sandboxes wait when nobody says (`kiln park`). */
const PARKED = '2';

/** Commands of users that open no sandbox and have a worker, at a time: beside their jobs, root still finds one. */
const ASIDES = 16;

/** The word that makes a worker of a daemon's program. */
const WORKER = '--worker';

/** How long nothing may be started before sandboxes are, and a worker is, for those who come, milliseconds. */
const QUIET = 30;
const QUIETER = 200;

/** How long a sandbox's removal may take at the daemon's own end, milliseconds. */
const LAST_REMOVALS = 5000;

async function main(): Promise<void> {
  process.on('uncaughtException', fail).on('unhandledRejection', fail);
  process.umask(0o022);
  const paths = statePaths(process.env);
  requireState(paths.root);
  mkdirSync(paths.root, { recursive: true, mode: 0o755 });
  process.chdir('/');
  const log = join(paths.root, 'kilnd.log');
  const passed = passedSockets(process.env);
  // Whoever passes sockets on knows of no other daemon: one that is there lets go when it sees them.
  const lock = await (passed.length > 0 ? acquireLock : tryLock)(join(paths.root, 'kilnd.lock'));
  // Another one of this state has just been faster.
  if (lock === undefined) return sayReady(log);
  const state = realpathSync(paths.root);
  const names = [join(state, SOCKET)];
  const configuration = configurationFile(process.env);
  const isDefault = existsSync(DEFAULT_STATE) && realpathSync(DEFAULT_STATE) === state;
  // Users have one daemon, root's tests some more.
  const group = isDefault || process.env.KILN_CONFIG ? groupOf(configuration) : undefined;
  if (isDefault) {
    mkdirSync(paths.hostRun, { recursive: true, mode: 0o755 });
    names.push(join(paths.hostRun, SOCKET));
  }
  if (passed.length === 0 && names.some(isTaken)) {
    // kiln.socket has just been started: systemd's sockets are not replaced.
    await lock.release();
    return sayReady(log);
  }
  const build = readFileSync(join(packageRoot(), 'dist/build-id'), 'utf8').trim();
  let timer: NodeJS.Timeout | undefined;
  let outdated = false;
  let idle = false;
  const idleTime = timeInMilliseconds(process.env.KILN_IDLE || IDLE) ?? 0;
  const usual = Number(process.env.KILN_PARKED || PARKED);
  const engine = openEngine(
    { KILN_STATE: state },
    { takeParked: () => parked.take(), hurry: true },
  );
  const errors = outputOf(process.stderr, { isTTY: false, columns: 80 });
  const tell = (error: unknown) => printError(error, errors);
  const parked = new ParkedSandboxes(engine, usual, tell);
  const workers = new Workers({
    // Without the options that keep the daemon small: a worker's memory goes with it.
    command: nodeCommand({ program: join(packageRoot(), 'dist/kilnd.cjs'), words: [WORKER] }),
    env: {
      ...{ PATH: process.env.PATH ?? '', HOME: homedir(), KILN_STATE: state },
      ...(process.env.KILN_CONFIG ? { KILN_CONFIG: process.env.KILN_CONFIG } : {}),
    },
    takeParked: async () => {
      const given = await parked.take();
      return given && { id: given.record.id, lock: given.lock.descriptor };
    },
    crashed: (how) => {
      errors.say(`kilnd: a worker ended ${how}\n`);
      sweepSandboxes(paths, engine.connect).catch(tell);
      sweepJobs(paths).catch(tell);
    },
  });
  const removals = new Set<Promise<void>>();
  let ending = false;
  const quiet = new Quiet(QUIET, () => parked.refill());
  const quieter = new Quiet(QUIETER, () => workers.prepare());
  const end = async () => {
    if (ending) return;
    ending = true;
    quiet[Symbol.dispose]();
    quieter[Symbol.dispose]();
    server.stopListening();
    await Promise.all([parked.end(), workers.end(), sandboxes.closeAll()]);
    await Promise.race([Promise.allSettled(removals), sleep(LAST_REMOVALS)]);
    await engine[Symbol.asyncDispose]();
    process.exit(0);
  };
  const endNow = () => {
    end().catch(fail);
  };
  const shared: Omit<Shared, 'work' | 'started'> = {
    engine,
    parking: parked,
    mountNamespace: statSync('/proc/self/ns/mnt').ino,
    users: { configuration, jobs: new UserJobs(), asides: new UserJobs(ASIDES) },
    // A sandbox that is started meanwhile takes the processors from it.
    results: (umask) => new WorkerResults(workers, umask, () => quiet.begin()),
    removing: (removal) => {
      const over = awaitedLater(removal.catch(tell));
      removals.add(over);
      over.finally(() => removals.delete(over)).catch(fail);
    },
  };
  const server = new Server({
    sockets: passed.length > 0 ? passed : names,
    group,
    build,
    serve: async (line) => {
      using _workers = quieter.begin();
      using starting = quiet.begin();
      const work: Shared['work'] = (handed, env) => {
        // What a worker does may start any number of sandboxes, at any time.
        starting[Symbol.dispose]();
        return workers.serve(handed, env);
      };
      const started = () => starting[Symbol.dispose]();
      await serveCommandLine(line, { ...shared, work, started });
    },
    call: async (call) => {
      using _workers = quieter.begin();
      using starting = quiet.begin();
      await answerCall(call, {
        env: { KILN_STATE: state },
        openEngine: () => ({ ...engine, [Symbol.asyncDispose]: async () => undefined }),
        storeChanged: () => undefined,
        tell,
        state: { sandboxes, calls, removing: shared.removing },
        work: (long) => {
          starting[Symbol.dispose]();
          return workers.call(long);
        },
      });
    },
    failed: fail,
    outdated: () => letGo(),
    idle: (now) => {
      idle = now;
      clearTimeout(timer);
      if (idle) timer = setTimeout(endNow, outdated ? 0 : idleTime);
    },
  });
  const sandboxes = new OpenSandboxes(() => server.hold());
  const calls = new Map<string, Call>();
  /** Leaves sockets and lock to another daemon, and ends with the last job. */
  function letGo(): void {
    if (outdated) return;
    outdated = true;
    if (passed.length > 0) startSuccessor(passed).catch(tell);
    server.stopListening();
    sandboxes.closeUnbound().catch(tell);
    lock?.release().catch(fail);
    if (idle) endNow();
  }
  process.on('SIGTERM', endNow).on('SIGINT', endNow);
  // Where somebody removes the state, nothing is left to serve. Where kiln.socket is started, systemd's sockets
  // have the names from then on.
  watch(state, () => {
    if (outdated || server.isNamed) return;
    if (existsSync(state)) letGo();
    else endNow();
  }).unref();
  // What a daemon has left that was killed.
  sweepSandboxes(paths, engine.connect).catch(tell);
  sweepJobs(paths).catch(tell);
  removeOldJobs(paths, undefined).catch(tell);
  if (passed.length === 0) sayReady(log);
}

/** The group whose members are served. Where the configuration has mistakes, only root is, who can mend them. */
function groupOf(configuration: string): number | undefined {
  try {
    return groupNumber(readUserPolicy(configuration).group);
  } catch (error) {
    writeSync(2, describeError(error));
    return undefined;
  }
}

/** Tells the client that waits, if one does. What is said on stderr afterwards goes to the log. */
function sayReady(log: string): void {
  try {
    fstatSync(READY_FD);
  } catch {
    return;
  }
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

if (ownArguments()[0] === WORKER) runWorker();
else main().catch(fail);
