import { existsSync } from 'node:fs';
import { mkdir, rm } from 'node:fs/promises';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Engine } from '../../engine.ts';
import type { ErrorCode } from '../../error-codes.ts';
import { isKilnCode, KilnError, reasonOf } from '../../errors.ts';
import { lockUnlessHeld } from '../../host/files/flock.ts';
import { withWaits } from '../../host/process/wait-for.ts';
import type { FrameServer } from '../../host/sockets/frame-server.ts';
import { notifyManager } from '../../host/sockets/service-manager.ts';
import { makeRunFolder } from '../../host/state/paths.ts';
import { awaitedLater, deferred } from '../../promise.ts';
import {
  type InstanceFiles,
  instanceFiles,
  readService,
  type StoredService,
} from '../lifecycle/store.ts';
import { undoAbandonedUpgrade } from '../lifecycle/upgrade.ts';
import { LogFile } from '../log-file.ts';
import { writeOutcome } from '../status.ts';
import { Instance } from './instance.ts';
import { isSupervised } from './supervisor-client.ts';
import { serveSupervised } from './supervisor-server.ts';

/** Only `again` asks the guardian for a restart. */
const SUPERVISOR_EXIT = { done: 0, failed: 78, again: 1 } as const;

/** Errors that a person must fix first. */
const LASTING: readonly ErrorCode[] = [
  ...(['E_UNIT', 'E_RECIPE', 'E_ARGUMENT', 'E_IMAGE_MISSING', 'E_NO_SERVICE'] as const),
  ...(['E_SERVICE_NAME', 'E_SERVICE_RUNS', 'E_SERVICE_READ', 'E_SERVICE_IMAGE'] as const),
  ...(['E_PUBLISH', 'E_NO_CGROUP2', 'E_NETWORK', 'E_LIMIT'] as const),
  ...(['E_MACHINE_MISSING', 'E_MACHINE_KERNEL'] as const),
];

/** The pause between two looks whether a unit is left, ms. */
const LOOK_PAUSE = 500;

export interface SuperviseOptions {
  readonly onFailure: (error: KilnError) => void;
  readonly echo: boolean;
  /** A guardian started it: it runs only while the file `wanted` exists. */
  readonly whileWanted: boolean;
}

/** How long those who were answered last may take to hang up, ms. */
const LAST_ANSWERS = 1000;

/** How long a cancelled opening of a sandbox may take to be undone, ms. */
const UNDO_PATIENCE = 10_000;

/**
 * Runs a service until it is stopped (SIGTERM, SIGINT, `kiln service stop`), its units are done or cannot go
 * on, or its sandbox dies. Returns {@link SUPERVISOR_EXIT}. The sandbox ends with this process, however it
 * ends. Throws errors that a retry may fix.
 */
export async function supervise(
  engine: Engine,
  name: string,
  options: SuperviseOptions,
): Promise<number> {
  const files = instanceFiles(engine.paths, name);
  try {
    const service = await readService(engine.paths, name);
    makeRunFolder(engine.paths);
    await mkdir(files.run, { recursive: true, mode: 0o700 });
    let lock = await lockUnlessHeld(files.supervisorLock);
    // Somebody copies its files, and will be done.
    while (lock === undefined && !(await isSupervised(files))) {
      lock = await lockUnlessHeld(files.supervisorLock);
    }
    await using _lock = lock;
    if (lock === undefined) {
      throw new KilnError('E_SERVICE_RUNS', `${name} has a supervisor already`, {
        hint: `\`kiln service stop ${name}\` ends it`,
      });
    }
    using log = new LogFile(files.log, options);
    try {
      // `kiln service stop` removes the file first and looks for this process afterwards.
      if (options.whileWanted && !existsSync(files.wanted)) {
        log.write('kiln', 'stopped before it began');
        return SUPERVISOR_EXIT.done;
      }
      return await superviseLocked(engine, service, log);
    } catch (error) {
      const reason = reasonOf(error);
      log.write('kiln', `cannot start: ${reason}`);
      writeOutcome(files, 'failed', reason, error instanceof KilnError ? error.hint : undefined);
      throw error;
    }
  } catch (error) {
    if (!isKilnCode(error, ...LASTING)) throw error;
    options.onFailure(error);
    // The file is of the one that runs.
    if (!isKilnCode(error, 'E_SERVICE_RUNS')) await rm(files.wanted, { force: true });
    return SUPERVISOR_EXIT.failed;
  }
}

async function endStopped(files: InstanceFiles, log: LogFile): Promise<number> {
  await rm(files.wanted, { force: true });
  writeOutcome(files, 'stopped', '');
  log.write('kiln', 'stopped before it was up');
  return SUPERVISOR_EXIT.done;
}

async function superviseLocked(
  engine: Engine,
  service: StoredService,
  log: LogFile,
): Promise<number> {
  const { name, files } = service;
  if (await undoAbandonedUpgrade(files)) {
    log.write('kiln', 'an upgrade was interrupted: back to what was before');
    return await superviseLocked(engine, await readService(engine.paths, name), log);
  }
  log.write('kiln', `starting ${name}`);
  let instance: Instance | undefined;
  let server: FrameServer | undefined;
  const over = new AbortController();
  const stopped = deferred<'stopped'>();
  const stopping = new AbortController();
  const stop = () => {
    stopping.abort(new KilnError('E_SERVICE_STOPPED', 'it was stopped while it started'));
    stopped.resolve('stopped');
  };
  const firstStart = deferred<void>();
  const started = firstStart.promise;
  try {
    process.once('SIGTERM', stop);
    process.once('SIGINT', stop);
    // Listens before the sandbox opens, so that requests to stop are heard from the beginning.
    const isStopping = () => stopping.signal.aborted;
    server = serveSupervised(files.socket, {
      instance: () => instance,
      ...{ started, stop, isStopping },
    });
    const opening = awaitedLater(
      withWaits({ signal: stopping.signal }, () => Instance.open(engine, service, log)),
    );
    const opened = await Promise.race([opening, stopped.promise]);
    if (opened === 'stopped') {
      firstStart.reject(stopping.signal.reason);
      await undoOpening(opening);
      return await endStopped(files, log);
    }
    instance = opened;
    const running = opened;
    running.start().then(firstStart.resolve, firstStart.reject);
    started.catch((error: unknown) => log.write('kiln', String(error)));
    process.on('SIGHUP', () => {
      for (const unit of running.units) {
        unit.reload().catch((error: unknown) => log.write('kiln', String(error)));
      }
    });
    await Promise.race([started.catch(() => undefined), stopped.promise]);
    if (stopping.signal.aborted) firstStart.reject(stopping.signal.reason);
    await notifyManager('READY=1').catch(() => undefined);
    const idle = awaitedLater(
      started.catch(() => undefined).then(() => idleUnits(running, over.signal)),
    );
    const gone = awaitedLater(running.gone.then(() => 'gone' as const));
    const end = await Promise.race([stopped.promise, gone, idle]);
    if (end === 'gone') {
      log.write('kiln', 'the sandbox is gone');
      return SUPERVISOR_EXIT.again;
    }
    const { failures } = running;
    log.write('kiln', `stopping ${name}`);
    await running.close();
    const state = end === 'stopped' ? end : failures.length > 0 ? 'failed' : 'finished';
    await rm(files.wanted, { force: true });
    writeOutcome(files, state, failures.join('; '));
    log.write('kiln', `${name} has ${state}`);
    return state === 'failed' ? SUPERVISOR_EXIT.failed : SUPERVISOR_EXIT.done;
  } finally {
    over.abort();
    // Those who still wait get no answer: a guardian may restart the service, or the outcome says why it ended.
    const last = instance;
    instance = undefined;
    firstStart.resolve();
    server?.close();
    await server?.left(LAST_ANSWERS);
    await last?.close().catch(() => undefined);
  }
}

async function undoOpening(opening: Promise<Instance>): Promise<void> {
  const undone = awaitedLater(opening.then((instance) => instance.close()));
  const late = awaitedLater(sleep(UNDO_PATIENCE, undefined, { ref: false }));
  await Promise.race([undone.catch(() => undefined), late]);
}

async function idleUnits(instance: Instance, over: AbortSignal): Promise<'idle'> {
  // Units whose stop was cut short are never idle, and looking on would keep the process alive.
  while (!instance.idle && !over.aborted) {
    await sleep(LOOK_PAUSE, undefined, { signal: over }).catch(() => undefined);
  }
  return 'idle';
}
