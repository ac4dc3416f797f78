/** `kilnd --worker`: serves clients of the daemon, one after the other. */

import { writeSync } from 'node:fs';
import { join } from 'node:path';
import type { CommandLine } from '../../daemon/command-line.ts';
import { ResultsServer } from '../../daemon/results.ts';
import { type AdoptedCall, Daemon } from '../../daemon/worker.ts';
import { DetachedJob } from '../../detached/job.ts';
import { type EngineOptions, type OwnEngine, openEngine } from '../../engine.ts';
import { closeDescriptor } from '../../host/calls/descriptor.ts';
import { startQueueChildren } from '../../host/confine/queue-child.ts';
import { heldLock } from '../../host/files/flock.ts';
import { actingAs } from '../../host/process/acting-as.ts';
import { hasEndedWaits } from '../../host/process/wait-for.ts';
import { type StatePaths, statePaths } from '../../host/state/paths.ts';
import { syncStore } from '../../image/store/durability.ts';
import { awaitedLater } from '../../promise.ts';
import type { ParkedSandbox } from '../../sandbox/domain/parking.ts';
import { readSandboxRecord } from '../../sandbox/domain/sandbox-record.ts';
import { CallerFiles } from '../../users/caller-files.ts';
import { configurationFile } from '../../users/configuration.ts';
import type { CallerUser } from '../../users/user.ts';
import { answerAlone } from '../calls/answer.ts';
import { loadCommands } from '../commands.ts';
import { describeError } from '../output/errors.ts';
import { KILN_FAILED } from '../output/exit-status.ts';
import { plainText } from '../output/print.ts';
import { ownerOf, serveAlone, userOf, wordsOf } from '../serve.ts';
import type { Caller } from './caller.ts';
import { ClientCaller, type ServingProcess } from './client-caller.ts';

/** The most jobs of one worker. */
const JOBS_MAX = 50;

/** A larger worker serves nobody else, bytes: it gives its memory back by ending. */
const MEMORY_MAX = 256 << 20;

/** After this time without work, milliseconds, children are started ahead. */
const QUIET = 50;

/** How long a worker's job may take to end once its daemon is gone, milliseconds. */
const LAST_MOMENTS = 20_000;

/** Serves until the daemon ends it. */
export function runWorker(): void {
  const { root } = statePaths(process.env);
  /** Ends the current work, because its caller is gone. */
  let abort: (() => void) | undefined;
  let current: CommandLine | undefined;
  const results = new ResultsServer();
  /** The last request. */
  let putting = Promise.resolve();
  let jobs = 0;
  let changed = false;
  let files: CallerFiles | undefined;
  /** Engines of ended commands with open connections. */
  const left: OwnEngine[] = [];
  const daemon = new Daemon({
    job: (line) => {
      current = line;
      abort = () => line.abort();
      serve(line).catch(fail);
    },
    call: (adopted) => {
      abort = () => adopted.call.gone();
      answer(adopted).catch(fail);
    },
    results: (payload, root) => {
      putting = awaitedLater(put(payload, root).catch(fail));
    },
    stop: () => results.stop(),
    over: () => {
      results.forget();
      daemon.done(isSmall());
    },
    gone: () => {
      results.stop();
      if (abort === undefined) putting.finally(() => process.exit()).catch(fail);
      // The caller's end also ends its request.
      else abort();
      setTimeout(() => process.exit(KILN_FAILED), LAST_MOMENTS).unref();
    },
  });

  async function put(payload: Buffer, root: number | undefined): Promise<void> {
    try {
      daemon.answer(await results.answer(payload, root));
    } finally {
      if (root !== undefined) closeDescriptor(root);
    }
  }

  async function serve(line: CommandLine): Promise<void> {
    const { cwd } = line.descriptors;
    const user = line.identity.uid === 0 ? undefined : await userOfJob(line);
    // By descriptor, so that a directory that was renamed, or that this process could not find, works.
    const place = cwd === undefined ? '/' : `/proc/self/fd/${cwd}`;
    process.chdir(user?.files?.folder ?? place);
    changed = false;
    const serving: ServingProcess = {
      state: root,
      isOnly: true,
      parking: undefined,
      openEngine: (caller, options) => openWithoutWait(caller.env, caller.user, options),
      storeChanged: () => {
        changed = true;
      },
      detach: (options, { windowSize }) =>
        DetachedJob.make(statePaths(process.env), {
          ...options,
          ...windowSize,
          owner: user?.uid,
          command: wordsOf(line),
        }),
      interrupted: () => {
        leave(line, 0);
      },
    };
    const caller = new ClientCaller(line, serving, user);
    abort = () => caller.abort();
    await serveAlone(line, caller);
    await line.sent();
    await done();
  }

  async function answer({ call, close }: AdoptedCall): Promise<void> {
    changed = false;
    const { env } = process;
    await answerAlone(call, {
      env,
      openEngine: () => openWithoutWait(env, undefined, { hurry: true }),
      storeChanged: () => {
        changed = true;
      },
      tell: (error) => writeSync(2, describeError(error)),
    });
    await close();
    await done();
  }

  /** Called when the caller has the outcome. */
  async function done(): Promise<void> {
    if (changed) await syncStore(statePaths(process.env));
    process.chdir('/');
    // A process that has worked for a user works for nobody else.
    const wasUsers = files !== undefined;
    await files?.[Symbol.asyncDispose]();
    files = undefined;
    current = undefined;
    abort = undefined;
    jobs++;
    const again = !wasUsers && !hasEndedWaits() && jobs < JOBS_MAX && isSmall() && !changed;
    daemon.done(again);
    closeLeft().catch((error) => writeSync(2, describeError(error)));
    // A caller that read packages is likely to read more.
    if (again) {
      setTimeout(() => {
        if (current === undefined) startQueueChildren();
      }, QUIET);
    }
  }

  /** Opens an engine whose connection is closed only after the client was told the outcome. */
  function openWithoutWait(
    env: Caller['env'],
    user: Caller['user'],
    options: EngineOptions = {},
  ): OwnEngine {
    const owner = user && ownerOf(user);
    const own = openEngine(env, { ...options, hurry: false, owner });
    // Parked sandboxes are domains of the daemon's own libvirt.
    const engine = env.KILN_URI ? own : { ...own, takeParked: () => takeParked(own.paths) };
    if (options.hurry !== true) return engine;
    return { ...engine, [Symbol.asyncDispose]: async () => void left.push(engine) };
  }

  /** A user with a folder for this job's files, which come only from the user's own client. */
  async function userOfJob(line: CommandLine): Promise<CallerUser> {
    const user = userOf(line, configurationFile(process.env), undefined);
    files = await CallerFiles.make(statePaths(process.env), {
      opener: line,
      cwd: line.start.cwd,
      withRights: (act) => actingAs(user, act),
      owner: user,
      bytes: user.policy.limits.disk,
      warn: ({ message }) => line.write(2, `kiln: warning: ${plainText(message)}\n`),
    });
    return { ...user, files };
  }

  async function closeLeft(): Promise<void> {
    for (const engine of left.splice(0)) await engine[Symbol.asyncDispose]();
  }

  async function takeParked(paths: StatePaths): Promise<ParkedSandbox | undefined> {
    const given = await daemon.takeParked();
    if (given === undefined) return undefined;
    const lock = heldLock(given.lock);
    const directory = join(paths.sandboxes, given.id);
    const record = readSandboxRecord(directory);
    if (record !== undefined) return { directory, record, lock };
    await lock.release();
    return undefined;
  }

  function isSmall(): boolean {
    return process.memoryUsage.rss() < MEMORY_MAX;
  }

  /** Tells the client only. */
  function fail(error: unknown): void {
    const text = describeError(error);
    writeSync(2, text);
    const line = current;
    if (line === undefined) process.exit(KILN_FAILED);
    line.write(2, text);
    line.exit({ status: KILN_FAILED });
    leave(line, KILN_FAILED);
  }

  /** Ends this process once the client has everything that was said. */
  function leave(line: CommandLine, status: number): void {
    const end = () => {
      daemon.done(false);
      process.exit(status);
    };
    const finish = () => (files?.[Symbol.asyncDispose]() ?? Promise.resolve()).then(end, end);
    line.sent().then(finish, finish);
  }

  process.on('uncaughtException', fail);
  // Before the first client comes.
  loadCommands().catch(fail);
}
