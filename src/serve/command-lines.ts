/** Runs clients' command lines: short ones in the daemon's own thread, all others in a worker. */

import { homedir } from 'node:os';
import { CommanderError } from 'commander';
import { type Caller, type Parking, RunElsewhere } from '../cli/caller/caller.ts';
import { ELSEWHERE } from '../cli/caller/elsewhere.ts';
import { deliver, prepare, runCommandLine } from '../cli/commands.ts';
import { fillDefaults } from '../cli/config.ts';
import { KilnCommand } from '../cli/options/command.ts';
import {
  describeError,
  describeWarning,
  exitStatus,
  KILN_FAILED,
  printError,
  tellingDamage,
} from '../cli/output/errors.ts';
import { commandIn, type RunContext } from '../cli/run.ts';
import { guard } from '../cli/users/user-guard.ts';
import type { CommandLine } from '../daemon/command-line.ts';
import type { TakeRoom } from '../daemon/worker-process.ts';
import type { Engine } from '../engine.ts';
import { withWaits } from '../host/process/wait-for.ts';
import type { StatePaths } from '../host/state/paths.ts';
import { openExistingImage } from '../image/open.ts';
import type { Results } from '../jobs/run/collect.ts';
import { callerIds } from '../jobs/run/request.ts';
import { isProfileFile } from '../options/places.ts';
import { allowedMissing } from '../sandbox/policy/layers.ts';
import { requireSameAccount } from '../users/account.ts';
import type { CallerPaths } from '../users/caller-paths.ts';
import type { CallerUser } from '../users/configuration.ts';
import { HeldPaths } from '../users/held-paths.ts';
import { JobFolder, jobsFolder } from '../users/job-folder.ts';
import type { UserJobs } from '../users/queue.ts';
import { ClientCaller, type ServingProcess } from './client-caller.ts';
import { beginJob, furtherRoom, ownerOf, SHORT_TEXT, userOf } from './users.ts';

export interface Shared {
  readonly engine: Engine;
  readonly parking: Parking;
  /** The inode of the daemon's mount namespace: in another one, a caller's paths mean other files. */
  readonly mountNamespace: number;
  readonly users: {
    readonly configuration: string;
    readonly jobs: UserJobs;
    readonly asides: UserJobs;
    readonly visits: UserJobs;
  };
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

/**
 * Variables that parts of kiln read from their process's environment: a caller with any of them gets a worker
 * with these values.
 */
const OF_PROCESS = [
  ...['KILN_URI', 'KILN_TRACE', 'KILN_PATIENCE', 'KILN_FIXTURES', 'TMPDIR', 'HOME'],
  ...['NODE_EXTRA_CA_CERTS', 'UV_THREADPOOL_SIZE'],
  ...['http_proxy', 'https_proxy', 'ftp_proxy', 'all_proxy', 'no_proxy'],
  ...['HTTP_PROXY', 'HTTPS_PROXY', 'FTP_PROXY', 'ALL_PROXY', 'NO_PROXY'],
];

/** The daemon's own home; the usual value needs no worker of its own. */
const USUAL_HOME = homedir();

const LONG = ['copyIn', 'egress', 'explain', 'detach'] as const;

/** Commands that the daemon's own thread runs, each with the variables that make it need a worker. */
const SHORT: Readonly<Record<string, readonly string[]>> = {
  run: ['KILN_URI', 'KILN_TRACE', 'KILN_FIXTURES'],
  ps: ['KILN_URI', 'KILN_TRACE'],
  kill: ['KILN_URI', 'KILN_TRACE'],
  wait: ['KILN_TRACE'],
  // Only the daemon has parked sandboxes.
  park: ['KILN_URI'],
};

export async function serveCommandLine(line: CommandLine, shared: Shared): Promise<void> {
  const { start } = line;
  if (line.identity.uid !== 0) {
    await serveUser(line, shared);
    return;
  }
  if (start.mountNamespace !== shared.mountNamespace) {
    line.sendElsewhere();
    return;
  }
  const env: Record<string, string> = {};
  for (const name of OF_PROCESS) {
    const value = start.env[name];
    if (value && !(name === 'HOME' && value === USUAL_HOME)) env[name] = value;
  }
  const [name = '', ...rest] = line.words;
  const unusual = Object.hasOwn(SHORT, name) ? SHORT[name] : undefined;
  const isShort =
    unusual?.every((variable) => env[variable] === undefined) === true && start.cwd !== '';
  if (!isShort || !(await serveHere(line, name, rest, shared, undefined)))
    await shared.work(line, env);
}

/** Serves a user's client: no process of kiln's gets the user's environment. */
async function serveUser(line: CommandLine, shared: Shared): Promise<void> {
  const [name = '', ...rest] = line.words;
  try {
    const before = userOf(line.identity, shared.users.configuration);
    await requireSameAccount(shared.engine.paths, before.uid);
    const short = isShort(line, name);
    const job = await beginLine(line, [name, ...rest], before, short, shared);
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
      if (short && (await serveHere(line, name, rest, { ...shared, removeLater }, user))) return;
      await shared.work(line, {}, () => furtherRoom(user, shared));
    } finally {
      leave();
    }
  } catch (error) {
    line.write(2, describeError(error));
    line.exit({ status: KILN_FAILED });
  }
}

async function beginLine(
  line: CommandLine,
  words: readonly string[],
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
    return await beginJob(words, user, { isShort, say, signal: given.signal }, shared);
  } finally {
    line.off('signal', end).off('gone', gone);
  }
}

/** A user's longer command line goes to a worker, as {@link SHORT_TEXT} says. */
const SHORT_WORDS = 1000;

const PLAIN_TEXT = 1024;
const PLAIN_LINES = 32;
/** Keys, at most one word behind each, and comments: what most files have. */
const PLAIN_LINE = /^ *(?:[\w-]+:(?: +[\w./+-]+)?)? *(?:#.*)?$/;

/** YAML of a stranger's may take seconds, so a worker parses it, unless a look tells that it is harmless. */
export function isPlain(text: string): boolean {
  if (text.length > PLAIN_TEXT) return false;
  const lines = text.split('\n');
  return lines.length <= PLAIN_LINES && lines.every((line) => PLAIN_LINE.test(line));
}

function isShort({ start }: CommandLine, name: string): boolean {
  const { argv, cwd, configuration } = start;
  if (!Object.hasOwn(SHORT, name) || cwd === '' || argv.length > SHORT_WORDS) return false;
  if (name === 'run' && configuration !== undefined && !isPlain(configuration.text)) return false;
  return argv.reduce((sum, word) => sum + word.length, 0) <= SHORT_TEXT;
}

async function serveHere(
  line: CommandLine,
  name: string,
  words: readonly string[],
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
      ...engine,
      renamed: (value) => own.paths.renamed(value),
      // A user's paths are never resolved here.
      cwd: () => (user === undefined ? own.cwd() : jobsFolder(engine.paths)),
      owner: user && ownerOf(user),
      allowMissing: () => allowedMissing(own.env),
      allowHost: () => options?.allowHost === true,
      signingPassphrase: () => own.env.KILN_SIGN_PASSPHRASE,
      [Symbol.asyncDispose]: async () => undefined,
    }),
    storeChanged: () => undefined,
    interrupted: () => undefined,
  };
  const say = (text: string) => caller.stderr.say(text);
  await using paths = pathsHere(line, user, engine.paths, say);
  const caller: ClientCaller = new ClientCaller(line, serving, { user, paths });
  const isDone = await withWaits({ say, patience: caller.env.KILN_PATIENCE }, async () => {
    if (name === 'run') return await runHere(words, caller, line, shared);
    line.keep();
    // Its caller knows that they have ended.
    if (name === 'ps') await shared.removed();
    await runCommandLine([name, ...words], caller);
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
  if (user !== undefined) return ELSEWHERE;
  const { env, cwd } = line.start;
  return new HeldPaths({
    ...{ opener: line, cwd: () => cwd, owner: callerIds(env, line.identity) },
    makeFolder: () => JobFolder.make(state),
    warn: (warning) => say(describeWarning(warning)),
  });
}

async function runHere(
  words: readonly string[],
  caller: ClientCaller,
  line: CommandLine,
  shared: Shared,
): Promise<boolean> {
  using _damage = tellingDamage(words, (text) => caller.stderr.say(text));
  using results = shared.results(line.start.umask);
  try {
    const command = commandIn(contextOf(caller, line, shared, results));
    command.hook('preAction', (_, action) => {
      const options = action.opts();
      const isLong = LONG.some((option) => {
        const value: unknown = options[option];
        return Array.isArray(value) ? value.length > 0 : value !== undefined;
      });
      // A profile of the caller's must be read, maybe from a pipe, and compiled.
      if (isLong || isProfileFile(options.seccomp)) throw new RunElsewhere();
      // The list of artifacts may be long, so it stays in the worker that collects them.
      if (options.json === true && options.artifacts.length > 0) throw new RunElsewhere();
    });
    prepare(command, caller);
    fillDefaults(command, caller);
    guard(command, caller);
    new KilnCommand('kiln').enablePositionalOptions().addCommand(command);
    await command.parseAsync(words, { from: 'user' });
  } catch (error) {
    if (error instanceof RunElsewhere) return false;
    if (!(error instanceof CommanderError)) printError(error, caller.stderr);
    caller.exitStatus = exitStatus(error);
  }
  caller.exitStatus ??= KILN_FAILED;
  await deliver(caller);
  return true;
}

function contextOf(
  caller: Caller,
  line: CommandLine,
  { removeLater, started }: Shared,
  results: Results,
): RunContext {
  return {
    caller,
    results,
    pickImage: async ({ paths, owner, cwd }, wanted) => {
      if (wanted === undefined) throw new RunElsewhere();
      const image = await openExistingImage({ paths, owner }, wanted, cwd());
      if (image === undefined) throw new RunElsewhere();
      line.keep();
      return image;
    },
    started,
    // Removing the sandbox would delay what the caller waits for, so it comes after.
    end: async (remove, tell) => {
      try {
        await tell();
      } finally {
        removeLater(remove);
      }
    },
  };
}
