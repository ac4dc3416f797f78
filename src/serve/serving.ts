/** What kilnd's own thread does for its callers: what is short itself, and all else by a worker. */
import { statSync } from 'node:fs';
import { CommanderError } from 'commander';
import { actorOf } from '../cli/caller/action.ts';
import { NO_PATHS } from '../cli/caller/no-paths.ts';
import { deliver, prepare, runCommandLine } from '../cli/commands.ts';
import { fillDefaults } from '../cli/config.ts';
import { KilnCommand } from '../cli/options/command.ts';
import {
  describeError,
  describeWarning,
  exitStatus,
  KILN_FAILED,
  noteFailure,
  printError,
  tellingDamage,
} from '../cli/output/errors.ts';
import { commandFor, runGiven } from '../cli/run.ts';
import { enter, execCommandFor, sandboxOf } from '../cli/shell.ts';
import { admit } from '../cli/users/user-guard.ts';
import type { Call } from '../daemon/call.ts';
import type { CommandLine } from '../daemon/command-line.ts';
import type { Lull, Removals } from '../daemon/lull.ts';
import type { Parking } from '../daemon/parked.ts';
import { WorkerResults } from '../daemon/results.ts';
import type { TakeRoom } from '../daemon/worker-process.ts';
import type { Workers } from '../daemon/workers.ts';
import type { Engine } from '../engine.ts';
import { acting, currentAction } from '../events/action.ts';
import { withWaits } from '../host/process/wait-for.ts';
import type { StatePaths } from '../host/state/paths.ts';
import { openExistingImage } from '../image/open.ts';
import type { LeasedImage } from '../image/store/images.ts';
import type { Results } from '../jobs/run/collect.ts';
import { callerIds } from '../jobs/run/request.ts';
import type { ExecOptions, RunOptions } from '../options/sandbox.ts';
import { awaitedLater } from '../promise.ts';
import { requireSameAccount } from '../users/account.ts';
import type { CallerPaths } from '../users/caller-paths.ts';
import type { CallerUser } from '../users/configuration.ts';
import { HeldPaths } from '../users/held-paths.ts';
import { JobFolder, jobsFolder } from '../users/job-folder.ts';
import { answerCall } from './calls/answer.ts';
import type { OpenSandboxes } from './calls/open-sandboxes.ts';
import { ClientCaller, type ServingProcess } from './client-caller.ts';
import { environmentOfWorker, isShortExec, isShortLine, isShortRun } from './short.ts';
import { beginJob, engineFor, furtherRoom, type Shares, userOf } from './users.ts';

/** How long whoever lists sandboxes waits for removals, milliseconds. */
const LISTED_REMOVALS = 5000;

export interface ServingParts {
  readonly engine: Engine;
  readonly parked: Parking;
  readonly workers: Workers;
  readonly lull: Lull;
  readonly removals: Removals;
  readonly sandboxes: OpenSandboxes;
  readonly users: Shares;
  readonly tell: (error: unknown) => void;
}

export class Serving {
  readonly #parts: ServingParts;
  readonly #calls = new Map<string, Call>();
  readonly #mountNamespace = statSync('/proc/self/ns/mnt').ino;

  constructor(parts: ServingParts) {
    this.#parts = parts;
  }

  async line(line: CommandLine): Promise<void> {
    const { engine, parked, workers, lull, removals, users } = this.#parts;
    using starting = lull.begin();
    const started = () => starting[Symbol.dispose]();
    const shared: Shared = {
      ...{ engine, users, started, parking: parked, mountNamespace: this.#mountNamespace },
      results: (umask) => new WorkerResults(workers, umask),
      removeLater: (remove) => removals.later(remove),
      removed: () => this.#removed(starting),
      work: (handed, env, takeRoom) => {
        // The worker tells of it, and may start any number of sandboxes, at any time.
        currentAction()?.handOver();
        started();
        return workers.giveLine(handed, env, takeRoom);
      },
    };
    const { paths } = engine;
    const { uid } = line.identity;
    const actor = () => actorOf(paths, uid, callerIds(line.start.env, line.identity));
    await acting({ paths, actor, by: 'command' }, () => serveLine(line, shared));
  }

  async call(call: Call, isServed: boolean): Promise<void> {
    const { engine, workers, lull, removals, sandboxes, users, tell } = this.#parts;
    using starting = lull.begin();
    const env = { KILN_STATE: engine.paths.root };
    await answerCall(call, {
      ...{ env, engine, isServed, users, tell },
      openEngine: (caller, options) => engineFor(engine, env, caller, options),
      storeChanged: () => undefined,
      state: {
        ...{ sandboxes, calls: this.#calls },
        removeLater: (remove) => removals.later(remove),
        removed: () => this.#removed(starting),
      },
      work: (long) => {
        starting[Symbol.dispose]();
        return workers.giveCall(long);
      },
    });
  }

  /** Removals wait for what starts: whoever lists sandboxes starts none. */
  async #removed(starting: Disposable): Promise<void> {
    starting[Symbol.dispose]();
    await this.#parts.removals.done(LISTED_REMOVALS);
  }
}

interface Shared {
  readonly engine: Engine;
  readonly parking: Parking;
  /** The inode of the daemon's mount namespace: in another one, a caller's paths mean other files. */
  readonly mountNamespace: number;
  readonly users: Shares;
  /** When nothing else starts. */
  removeLater(remove: () => Promise<void>): void;
  /** Resolves when that is done, or takes long. */
  removed(): Promise<void>;
  results(umask: number): Results & Disposable;
  started(): void;
  work(
    line: CommandLine,
    env: Readonly<Record<string, string>>,
    takeRoom?: TakeRoom,
  ): Promise<void>;
}

async function serveLine(line: CommandLine, shared: Shared): Promise<void> {
  const { start } = line;
  if (line.identity.uid !== 0) {
    await serveUser(line, shared);
    return;
  }
  if (start.mountNamespace !== shared.mountNamespace) {
    currentAction()?.handOver();
    line.sendElsewhere();
    return;
  }
  if (isShortLine(line) && (await serveHere(line, shared, undefined))) return;
  await shared.work(line, environmentOfWorker(line));
}

/** Serves a user's client: no process of kiln's gets the user's environment. */
async function serveUser(line: CommandLine, shared: Shared): Promise<void> {
  try {
    const before = userOf(line.identity, shared.users.configuration);
    await requireSameAccount(shared.engine.paths, before.uid);
    const short = isShortLine(line);
    const job = await beginLine(line, before, short, shared);
    if (job === undefined) return;
    // A sandbox counts until it is gone.
    let users = 1;
    const leave = () => {
      users--;
      if (users === 0) job[Symbol.dispose]();
    };
    const removeLater: Shared['removeLater'] = (remove) => {
      users++;
      shared.removeLater(() => remove().finally(leave));
    };
    try {
      if (line.gone) return;
      // Root may have changed it while this line waited.
      const user = userOf(line.identity, shared.users.configuration);
      if (short && (await serveHere(line, { ...shared, removeLater }, user))) return;
      const env = environmentOfWorker(line);
      await shared.work(line, env, () => furtherRoom(user, shared));
    } finally {
      leave();
    }
  } catch (error) {
    currentAction()?.isFor(line.words[0] ?? '');
    noteFailure(error);
    line.write(2, describeError(error));
    line.exit({ status: KILN_FAILED });
  }
}

async function beginLine(
  line: CommandLine,
  user: CallerUser,
  isShort: boolean,
  shared: Shared,
): Promise<Disposable | undefined> {
  const given = new AbortController();
  const end = (signal: NodeJS.Signals) => {
    if (!['SIGINT', 'SIGTERM', 'SIGHUP', 'SIGQUIT'].includes(signal)) return;
    line.exit({ signal });
    given.abort();
  };
  const gone = () => given.abort();
  line.on('signal', end).on('gone', gone);
  const say = (text: string) => line.write(2, `kiln: ${text}\n`);
  try {
    return await beginJob(line.words, user, { isShort, say, signal: given.signal }, shared);
  } finally {
    line.off('signal', end).off('gone', gone);
  }
}

/** False if a worker must do it; no command is begun then, and no file of the caller's opened. */
async function serveHere(
  line: CommandLine,
  shared: Shared,
  user: CallerUser | undefined,
): Promise<boolean> {
  const { engine, parking } = shared;
  const serving: ServingProcess = {
    state: engine.paths.root,
    configuration: shared.users.configuration,
    isOnly: false,
    parking,
    openEngine: (own, options) => ({
      ...engineFor(engine, own.env, own, options),
      // A user's paths are never resolved here.
      cwd: () => (user === undefined ? own.cwd() : jobsFolder(engine.paths)),
    }),
    storeChanged: () => undefined,
    interrupted: () => undefined,
  };
  const say = (text: string) => caller.stderr.say(text);
  await using paths = pathsHere(line, user, engine.paths, say);
  currentAction()?.renamesBy((text) => paths.renamed(text));
  const caller: ClientCaller = new ClientCaller(line, serving, { user, paths });
  const isDone = await withWaits({ say, patience: caller.env.KILN_PATIENCE }, async () => {
    if (['run', 'exec'].includes(line.words[0] ?? ''))
      return await serveIfShort(caller, line, shared);
    line.keep();
    // Its caller knows that they have ended.
    if (line.words[0] === 'ps') await shared.removed();
    await runCommandLine(line.words, caller);
    return true;
  });
  if (isDone) await caller.finish();
  return isDone;
}

/** kilnd's own process takes no descriptor of a user's. */
function pathsHere(
  line: CommandLine,
  user: CallerUser | undefined,
  state: StatePaths,
  say: (text: string) => void,
): CallerPaths {
  if (user !== undefined) return NO_PATHS;
  const { env, cwd } = line.start;
  return new HeldPaths({
    ...{ opener: line, cwd: () => cwd, owner: callerIds(env, line.identity) },
    makeFolder: () => JobFolder.make(state),
    warn: (warning) => say(describeWarning(warning)),
  });
}

/** Of commands whose options tell whether they are short: false if a worker must do it. */
async function serveIfShort(
  caller: ClientCaller,
  line: CommandLine,
  shared: Shared,
): Promise<boolean> {
  const [name, ...words] = line.words;
  const isRun = name === 'run';
  using _damage = tellingDamage(isRun ? words : [], (text) => caller.stderr.say(text));
  let isShort = true;
  try {
    const command = isRun
      ? commandFor(caller, async (given, options, it) => {
          isShort =
            isShortRun(options, caller.user) &&
            (await runIfImageIsThere(given, it, caller, line, shared));
        })
      : execCommandFor(caller, async (id, argv, options, it) => {
          isShort = await enterIfKept({ id, argv, options }, it, caller, line, shared);
        });
    prepare(command, caller);
    if (isRun) fillDefaults(command, caller);
    new KilnCommand('kiln').enablePositionalOptions().addCommand(command);
    await command.parseAsync(words, { from: 'user' });
  } catch (error) {
    if (!(error instanceof CommanderError)) printError(error, caller.stderr);
    caller.exitStatus = exitStatus(error);
  }
  if (!isShort) return false;
  caller.exitStatus ??= KILN_FAILED;
  await deliver(caller);
  currentAction()?.exit(caller.exitStatus);
  return true;
}

/** A further command. False where it is no kept sandbox, or one that a worker must enter. */
async function enterIfKept(
  { id, argv, options }: { id: string; argv: readonly string[]; options: ExecOptions },
  it: KilnCommand,
  caller: ClientCaller,
  line: CommandLine,
  { started }: Shared,
): Promise<boolean> {
  const found = await sandboxOf(caller.openEngine(), id).catch(() => undefined);
  if (found === undefined || !isShortExec(options, found)) return false;
  line.keep();
  // No sandbox is started for it.
  started();
  currentAction()?.named('exec', it.args);
  await admit(it, caller, { words: 'exec', args: it.args }, argv);
  await enter(id, argv, options, it, caller);
  return true;
}

/** False where the image must be made first: what options name is opened by the worker then. A snapshot’s is there. */
async function runIfImageIsThere(
  given: readonly string[],
  it: KilnCommand,
  caller: ClientCaller,
  line: CommandLine,
  { results: resultsFor, removeLater, started }: Shared,
): Promise<boolean> {
  const { image, fromSnapshot } = it.opts<RunOptions>();
  const engine = caller.openEngine();
  const looking =
    fromSnapshot === undefined
      ? awaitedLater(openExistingImage(engine, image, engine.cwd()))
      : undefined;
  // An error is told where the image is needed.
  const isThere = await looking?.then(
    (found) => found !== undefined,
    () => true,
  );
  if (isThere === false) return false;
  line.keep();
  currentAction()?.named('run', []);
  using results = resultsFor(line.start.umask);
  try {
    const argv = await admit(it, caller, { words: 'run', args: given }, given);
    await runGiven(argv, it.opts<RunOptions>(), it, {
      ...{ caller, results, started },
      pickImage: () => looking as Promise<LeasedImage>,
      // Removing the sandbox would delay what the caller waits for, so it comes after.
      end: async (remove, tell) => {
        try {
          await tell();
        } finally {
          removeLater(remove);
        }
      },
    });
  } finally {
    // The run may have failed before it took the image.
    await (await looking?.catch(() => undefined))?.[Symbol.asyncDispose]();
  }
  return true;
}
