/** Runs clients' command lines: short ones in the daemon's own thread, all others in a worker. */
import { homedir } from 'node:os';
import { basename } from 'node:path';
import { Command, CommanderError } from 'commander';
import type { CommandLine } from '../daemon/command-line.ts';
import { takeCallersUmask } from '../host/process/own-umask.ts';
import { withWaits } from '../host/process/wait-for.ts';
import { endTrace } from '../host/trace/trace.ts';
import { openExistingImage } from '../image/open.ts';
import type { Results } from '../jobs/run/results.ts';
import { listSandboxes } from '../sandbox/domain/list.ts';
import type { Engine, SandboxOwner } from '../sandbox/open.ts';
import { allowedMissing } from '../sandbox/policy/layers.ts';
import { jobsFolder } from '../users/caller-files.ts';
import { currentUserPolicy, seesImage, shareOf } from '../users/configuration.ts';
import type { UserJobs } from '../users/queue.ts';
import { type CallerUser, forbidden } from '../users/user.ts';
import type { Caller, Parking } from './caller/caller.ts';
import { ClientCaller, type ServingProcess } from './caller/client-caller.ts';
import { prepare, runCommandLine } from './commands.ts';
import { isProfileFile } from './options/sandbox-options.ts';
import { tellingDamage } from './output/damage.ts';
import { describeError, printError } from './output/errors.ts';
import { exitStatus, KILN_FAILED } from './output/exit-status.ts';
import { plainText } from './output/print.ts';
import { nameUsageErrors } from './output/usage-errors.ts';
import { commandIn, type RunContext, RunElsewhere } from './run.ts';
import { guard } from './users/user-guard.ts';

/** What all command lines of a daemon share. */
export interface Shared {
  readonly engine: Engine;
  readonly parking: Parking;
  /** The inode of the daemon's mount namespace: in another one, a caller's paths mean other files. */
  readonly mountNamespace: number;
  /** What users may do, and how many jobs they have. */
  readonly users: {
    readonly configuration: string;
    readonly jobs: UserJobs;
    /** Jobs of commands that open no sandbox. */
    readonly asides: UserJobs;
  };
  /** Notes the removal of a sandbox, for which nobody waits. */
  removing(removal: Promise<void>): void;
  /** Writes results into the directory of a caller with this umask. */
  results(umask: number): Results & Disposable;
  /** Notes that the command has started. */
  started(): void;
  /** Has a worker with these variables of the caller in its environment serve the client. */
  work(line: CommandLine, env: Readonly<Record<string, string>>): Promise<void>;
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

/** Options of `run` that need a worker. */
const LONG = ['copyIn', 'egress', 'keep', 'explain', 'detach'] as const;

/** Commands that the daemon's own thread runs, each with the variables that make it need a worker. */
const SHORT: Readonly<Record<string, readonly string[]>> = {
  run: ['KILN_URI', 'KILN_TRACE', 'KILN_FIXTURES'],
  ps: ['KILN_URI', 'KILN_TRACE'],
  kill: ['KILN_URI', 'KILN_TRACE'],
  wait: ['KILN_TRACE'],
  // Only the daemon has parked sandboxes.
  park: ['KILN_URI'],
};

/** Serves one client to the end, here or in a worker. */
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
  const env = Object.fromEntries(
    OF_PROCESS.flatMap((name) => {
      const value = start.env[name];
      const isUsual =
        value === undefined || value === '' || (name === 'HOME' && value === USUAL_HOME);
      return isUsual ? [] : [[name, value] as const];
    }),
  );
  const [name = '', ...rest] = wordsOf(line);
  const unusual = Object.hasOwn(SHORT, name) ? SHORT[name] : undefined;
  const isShort =
    unusual?.every((variable) => env[variable] === undefined) === true && start.cwd !== '';
  if (!isShort || !(await serveHere(line, name, rest, shared, undefined)))
    await shared.work(line, env);
}

/** Serves a user's client: no process of kiln's gets the user's environment. */
async function serveUser(line: CommandLine, shared: Shared): Promise<void> {
  const { users } = shared;
  const say = (text: string) => line.write(2, plainText(text));
  const [name = '', ...rest] = wordsOf(line);
  try {
    const user = userOf(line, users.configuration, undefined);
    using job = await beginJob(line, [name, ...rest], user, shared);
    if (job === undefined || line.gone) return;
    if (!isShort(line, name) || !(await serveHere(line, name, rest, shared, user)))
      await shared.work(line, {});
  } catch (error) {
    say(describeError(error));
    line.exit({ status: KILN_FAILED });
  }
}

/** A user's longer command line goes to a worker, because reading it may take long. */
const SHORT_WORDS = 1000;
const SHORT_TEXT = 128 * 1024;

/** Whether a user's command can run in this thread, by its name and length. */
function isShort({ start: { argv, cwd } }: CommandLine, name: string): boolean {
  if (!Object.hasOwn(SHORT, name) || cwd === '' || argv.length > SHORT_WORDS) return false;
  return argv.reduce((sum, word) => sum + word.length, 0) <= SHORT_TEXT;
}

/** The caller as the kernel reports it. @throws RecipeError where root's configuration cannot be used */
export function userOf(
  { identity: { pid, uid, gid, groups } }: CommandLine,
  configuration: string,
  files: CallerUser['files'],
): CallerUser {
  return { pid, uid, gid, groups, policy: currentUserPolicy(configuration), files };
}

/** A user as the owner of sandboxes. */
export function ownerOf({ uid, gid, groups, policy, files }: CallerUser): SandboxOwner {
  const renamed: SandboxOwner['renamed'] = (value) => files?.renamed(value) ?? value;
  const seesOfRoot: SandboxOwner['seesOfRoot'] = (image) => seesImage(policy, image);
  return { uid, gid, groups, files, renamed, seesOfRoot, share: shareOf(policy) };
}

/** Commands that open no sandbox. */
const WITHOUT_SANDBOX = [
  ...['ps', 'kill', 'gc', 'config'],
  ...['attach', 'wait', 'logs', 'results'],
];

/** How many of those may have a worker at a time, for each user. */
const ASIDES = 2;

/** Waits until the user may have another job; undefined if the client was told why not, or is gone. */
async function beginJob(
  line: CommandLine,
  [name = '', id, ...more]: readonly string[],
  user: CallerUser,
  { engine, users }: Shared,
): Promise<Disposable | undefined> {
  const given = new AbortController();
  const end = (signal: NodeJS.Signals) => {
    if (!['SIGINT', 'SIGTERM', 'SIGHUP', 'SIGQUIT'].includes(signal)) return;
    line.exit({ signal });
    given.abort();
  };
  const gone = () => given.abort();
  line.on('signal', end).on('gone', gone);
  let hasWaited = false;
  const waits = (whom: string) => () => {
    if (!hasWaited) line.write(2, `kiln: waiting until one of ${whom}\n`);
    hasWaited = true;
  };
  const { uid, policy } = user;
  const { sandboxes } = policy.limits;
  try {
    if (WITHOUT_SANDBOX.includes(name) || (name === 'farm' && id === 'advertise')) {
      if (isShort(line, name)) return { [Symbol.dispose]: () => undefined };
      const others = waits('your other commands ends');
      return await users.asides.begin({ uid, most: ASIDES }, others, given.signal);
    }
    const entered = name === 'shell' && more.length === 0 ? id : undefined;
    for (;;) {
      const room = await roomFor(user, engine, entered);
      const one = waits(`your ${sandboxes} sandboxes ends (users.limits.sandboxes)`);
      const job = await users.jobs.begin({ uid, most: room }, one, given.signal);
      if (job === undefined) return undefined;
      // While it waited, other sandboxes may have been kept.
      const still = await roomFor(user, engine, entered).catch((error) => {
        job[Symbol.dispose]();
        throw error;
      });
      const isOver = given.signal.aborted;
      if (!isOver && users.jobs.running(uid) <= still) return job;
      job[Symbol.dispose]();
      if (isOver) return undefined;
    }
  } finally {
    line.off('signal', end).off('gone', gone);
  }
}

/**
 * How many sandboxes a user may have beside kept ones; `id` may name a kept one that is entered.
 * @throws KilnError E_FORBIDDEN where there is no room
 */
async function roomFor(
  user: CallerUser,
  { paths }: Pick<Engine, 'paths'>,
  id: string | undefined,
): Promise<number> {
  const sandboxes = await listSandboxes(paths, { owner: user });
  const kept = sandboxes.filter(({ state }) => state === 'kept');
  // Entering a kept sandbox needs no other.
  const enters = id !== undefined && id !== '' && kept.some((sandbox) => sandbox.id.startsWith(id));
  const room = user.policy.limits.sandboxes - kept.length + (enters ? 1 : 0);
  if (room > 0) return room;
  throw forbidden(`a further sandbox beside ${kept.length} that you keep`, 'they count as well', {
    hint: '`kiln ps` lists them, `kiln kill ID` ends one; root sets users.limits.sandboxes',
  });
}

/** The words after the program's name. */
export function wordsOf({ start: { argv } }: CommandLine): readonly string[] {
  const [program = '', ...words] = argv;
  return basename(program) === 'kiln-mock' ? ['mock', ...words] : words;
}

/** Runs a command line in this thread. False if a worker must run it; nothing has happened then. */
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
    isOnly: false,
    parking,
    openEngine: (own) => ({
      ...engine,
      // A user's paths are never resolved here.
      cwd: () => (user === undefined ? own.cwd() : jobsFolder(engine.paths)),
      owner: user && ownerOf(user),
      allowMissing: () => allowedMissing(own.env),
      signingPassphrase: () => own.env.KILN_SIGN_PASSPHRASE,
      [Symbol.asyncDispose]: async () => undefined,
    }),
    storeChanged: () => undefined,
    interrupted: () => undefined,
  };
  const caller = new ClientCaller(line, serving, user);
  const say = (text: string) => caller.stderr.say(text);
  if (name !== 'run') {
    line.keep();
    const waits = { say, patience: caller.env.KILN_PATIENCE };
    await withWaits(waits, () => runCommandLine([name, ...words], caller));
  } else if (!(await runHere(words, caller, line, shared))) return false;
  await caller.finish();
  return true;
}

async function runHere(
  words: readonly string[],
  caller: ClientCaller,
  line: CommandLine,
  shared: Shared,
): Promise<boolean> {
  const say = (text: string) => caller.stderr.say(text);
  using _damage = tellingDamage(words, say);
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
      if (options.json === true && options.artifact.length > 0) throw new RunElsewhere();
    });
    prepare(command, caller);
    if (caller.user !== undefined) guard(command, caller.user);
    new Command('kiln').enablePositionalOptions().addCommand(command);
    nameUsageErrors(command);
    const waits = { say, patience: caller.env.KILN_PATIENCE };
    await withWaits(waits, () => command.parseAsync(words, { from: 'user' }));
  } catch (error) {
    if (error instanceof RunElsewhere) return false;
    if (!(error instanceof CommanderError)) printError(error, caller.stderr);
    caller.exitStatus = exitStatus(error);
  }
  caller.exitStatus ??= KILN_FAILED;
  return true;
}

function contextOf(
  caller: Caller,
  line: CommandLine,
  { removing, started }: Shared,
  results: Results,
): RunContext {
  return {
    caller,
    results,
    pickImage: async ({ paths, owner, cwd }, wanted) => {
      // Making an image needs a worker.
      if (wanted === undefined) throw new RunElsewhere();
      const image = await openExistingImage({ paths, owner }, wanted, cwd());
      if (image === undefined) throw new RunElsewhere();
      line.keep();
      return image;
    },
    started,
    removed: async (removal) => removing(removal),
  };
}

/** Runs a client's command line in a process that does nothing else. */
export async function serveAlone(line: CommandLine, caller: ClientCaller): Promise<void> {
  const { user } = caller;
  const say = (text: string) => caller.stderr.say(text);
  takeCallersUmask(line.start.umask);
  await withWaits({ say }, () => runCommandLine(wordsOf(line), caller));
  try {
    await user?.files?.deliver();
  } catch (error) {
    printError(error, caller.stderr);
    caller.exitStatus ||= KILN_FAILED;
  }
  endTrace(say);
  await caller.finish();
}
