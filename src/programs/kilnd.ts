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
import { dirname, join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { outputOf } from '../cli/caller/caller.ts';
import { describeError, KILN_FAILED, printError } from '../cli/output/errors.ts';
import type { Call } from '../daemon/call.ts';
import { AHEAD } from '../daemon/frames.ts';
import { isTaken, passedSockets, startSuccessor } from '../daemon/listener.ts';
import { ParkedSandboxes, Quiet } from '../daemon/parked.ts';
import { WorkerResults } from '../daemon/results.ts';
import { Server } from '../daemon/server.ts';
import { Turns } from '../daemon/turns.ts';
import { Workers } from '../daemon/workers.ts';
import { removeOldJobs } from '../detached/record.ts';
import { openEngine } from '../engine.ts';
import { attempt } from '../host/calls/libc.ts';
import { checked, tryCall } from '../host/calls/system-call.ts';
import { memoryKills, sweepWorkGroups, workGroup } from '../host/cgroup/work-group.ts';
import { acquireLock, lockUnlessHeld, tryLock } from '../host/files/flock.ts';
import { nodeCommand } from '../host/process/own-node.ts';
import { clearPlace } from '../host/state/damage.ts';
import {
  makeRunFolder,
  packageRoot,
  removeEmptyRunFolder,
  requireState,
  statePaths,
} from '../host/state/paths.ts';
import { timeInMilliseconds } from '../options/measures.ts';
import { awaitedLater } from '../promise.ts';
import { sweepSandboxes } from '../sandbox/domain/sweep.ts';
import { answerCall } from '../serve/calls/answer.ts';
import { OpenSandboxes } from '../serve/calls/open-sandboxes.ts';
import { type Shared, serveCommandLine } from '../serve/command-lines.ts';
import { engineFor } from '../serve/users.ts';
import { type Configuration, groupNumber, readConfiguration } from '../users/configuration.ts';
import { configurationFile } from '../users/configuration-file.ts';
import { usuallyParked } from '../users/defaults.ts';
import { sweepJobs } from '../users/job-folder.ts';
import { UserJobs } from '../users/queue.ts';

const READY_FD = 3;
const DEFAULT_STATE = '/var/lib/kiln';
const SOCKET = 'io.kiln';

/** `KILN_IDLE`: how long nobody may want anything before the daemon ends. */
const IDLE = '10m';

/** All users together may have so many workers at a time for commands that open no sandbox: some stay free for root. */
const ASIDES = 16;
/** And so many for further commands in sandboxes. */
const VISITS = 8;

/** When sandboxes are parked: a command's own has started a second after its begin. */
const QUIET = { after: 30, noise: 1000, most: 300 };
/** When a spare worker is started, and remains are looked for: both would take processors from an image's build. */
const QUIETER = { after: 200, noise: 5000 };

/** How long a sandbox's removal may take at the daemon's own end, milliseconds. */
const LAST_REMOVALS = 5000;
/** How long whoever lists sandboxes waits for it. */
const LISTED_REMOVALS = 1000;

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
  const locked = join(paths.root, 'kilnd.lock');
  const lock = await (passed.length > 0 ? acquireLock : tryLock)(locked);
  if (lock === undefined) return sayReady(log);
  const state = realpathSync(paths.root);
  const names = [join(state, SOCKET)];
  const configuration = configurationFile(process.env);
  const isDefault = existsSync(DEFAULT_STATE) && realpathSync(DEFAULT_STATE) === state;
  const configured = configuredBy(configuration);
  // Users have one daemon, root's tests some more.
  const group =
    configured !== undefined && (isDefault || process.env.KILN_CONFIG)
      ? groupNumber(configured.policy.group)
      : undefined;
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
  const usual = Number(process.env.KILN_PARKED || (configured?.defaults.parked ?? usuallyParked()));
  const engine = openEngine(
    { KILN_STATE: state, KILN_CONFIG: process.env.KILN_CONFIG },
    { takeTurn: (wanted) => turns.take(wanted) },
  );
  const errors = outputOf(process.stderr, { isTTY: false, columns: 80 });
  const tell = (error: unknown) => printError(error, errors);
  const parked = new ParkedSandboxes(engine, usual, tell);
  const turns = new Turns(parked);
  const workers = new Workers({
    command: nodeCommand({
      // MiB, half of what V8 takes by itself: a worker that stays is to stay small. Less makes reading packages slow.
      // Other processors are for its children.
      options: ['--max-semi-space-size=8', '--single-threaded-gc'],
      program: join(packageRoot(), 'dist/kilnd-worker.cjs'),
      // Whoever wants no parked sandboxes wants nothing else either that may not be needed.
      words: usual > 0 ? [AHEAD] : [],
    }),
    env: {
      ...{ PATH: process.env.PATH ?? '', HOME: homedir(), KILN_STATE: state },
      ...(process.env.KILN_CONFIG ? { KILN_CONFIG: process.env.KILN_CONFIG } : {}),
    },
    turns,
    ended: () => {
      sweepWorkGroups(paths, 'leave').catch(tell);
    },
    memoryKills: (uid) => memoryKills(workGroup(paths, uid)),
    crashed: (how) => {
      errors.say(`kilnd: a worker ended ${how}\n`);
      sweep();
    },
  });
  const removals = new Set<Promise<void>>();
  const removed = (most: number) =>
    Promise.race([Promise.allSettled(removals), sleep(most, undefined, { ref: false })]);
  const removedFor = (starting: Disposable) => async () => {
    // Removals wait for what starts: whoever lists sandboxes starts none.
    starting[Symbol.dispose]();
    await removed(LISTED_REMOVALS);
  };
  let ending = false;
  const quiet = new Quiet(QUIET, () => parked.refill());
  const sweep = () => {
    sweepSandboxes(paths, engine.connect).catch(tell);
    sweepJobs(paths).catch(tell);
  };
  const quieter = new Quiet(QUIETER, () => {
    try {
      if (usual > 0) workers.prepare();
    } catch (error) {
      // There may be no descriptor now: whoever needs a worker is told.
      tell(error);
    }
    sweep();
    sweepWorkGroups(paths, 'leave').catch(tell);
  });
  const end = async () => {
    if (ending) return;
    ending = true;
    quiet[Symbol.dispose]();
    quieter[Symbol.dispose]();
    server.stopListening();
    await Promise.all([parked.end(), workers.end(), sandboxes.closeAll(true)]);
    await sweepWorkGroups(paths);
    await removed(LAST_REMOVALS);
    await engine[Symbol.asyncDispose]();
    // It stays while a libvirtd or sandboxes are in it, and for a daemon that has taken over.
    const free = async () => await lockUnlessHeld(locked, { existing: true }).catch(() => 'gone');
    const mine = outdated ? await free() : lock;
    if (mine !== undefined) attempt(() => removeEmptyRunFolder(paths));
    process.exit(0);
  };
  const endNow = () => {
    end().catch(fail);
  };
  const shared: Omit<Shared, 'work' | 'started' | 'removed'> = {
    engine,
    parking: parked,
    mountNamespace: statSync('/proc/self/ns/mnt').ino,
    users: {
      configuration,
      jobs: new UserJobs(),
      asides: new UserJobs(ASIDES),
      visits: new UserJobs(VISITS),
    },
    results: (umask) => new WorkerResults(workers, umask),
    removeLater: (remove) => {
      const over = awaitedLater(quiet.pause().then(remove).catch(tell));
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
      const work: Shared['work'] = (handed, env, takeRoom) => {
        // What a worker does may start any number of sandboxes, at any time.
        starting[Symbol.dispose]();
        return workers.serve(handed, env, takeRoom);
      };
      const started = () => starting[Symbol.dispose]();
      await serveCommandLine(line, { ...shared, work, started, removed: removedFor(starting) });
    },
    call: async (call, isServed) => {
      using _workers = quieter.begin();
      using starting = quiet.begin();
      await answerCall(call, {
        env: { KILN_STATE: state },
        openEngine: (caller) => engineFor(engine, { env: {}, ...caller }),
        storeChanged: () => undefined,
        ...{ engine, isServed, users: shared.users },
        tell,
        state: {
          ...{ sandboxes, calls, removeLater: shared.removeLater },
          removed: removedFor(starting),
        },
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
  function letGo(): void {
    if (outdated) return;
    outdated = true;
    if (passed.length > 0) startSuccessor(passed).catch(tell);
    server.stopListening();
    // No new connection can come for those without one.
    sandboxes.closeAll(false).catch(tell);
    lock?.release().catch(fail);
    if (idle) endNow();
  }
  process.on('SIGTERM', endNow).on('SIGINT', endNow);
  // Without the state nothing is left to serve. Once kiln.socket is started, systemd's sockets have the names.
  watch(state, () => {
    if (outdated || server.isNamed) return;
    if (existsSync(state)) letGo();
    else endNow();
  }).unref();
  // Nothing starts without it: the next daemon makes it, and a libvirtd, anew. Its parent is told at once, itself only
  // when nothing has it open; the removal of a sandbox may make another one.
  makeRunFolder(paths);
  const made = statSync(paths.run).ino;
  watch(dirname(paths.run), () => {
    if (statSync(paths.run, { throwIfNoEntry: false })?.ino !== made) letGo();
  }).unref();
  sweep();
  sweepWorkGroups(paths).catch(tell);
  removeOldJobs(paths, undefined).catch(tell);
  if (passed.length === 0) sayReady(log);
}

/** Where it has mistakes, only root is served, who can mend them. */
function configuredBy(file: string): Configuration | undefined {
  try {
    return readConfiguration(file);
  } catch (error) {
    writeSync(2, describeError(error));
    return undefined;
  }
}

function sayReady(log: string): void {
  if (attempt(() => fstatSync(READY_FD)) === undefined) return;
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
