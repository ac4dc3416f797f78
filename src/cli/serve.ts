/** Command lines of clients: in the daemon's own thread those that are short, all others in a worker. */
import { homedir } from 'node:os';
import { basename } from 'node:path';
import { Command, CommanderError } from 'commander';
import type { CommandLine } from '../daemon/command-line.ts';
import { openExistingImage } from '../image/open.ts';
import { takeCallersUmask } from '../kernel/own-umask.ts';
import { withWaits } from '../kernel/wait-for.ts';
import type { Results } from '../run/results.ts';
import { allowedMissing } from '../sandbox/layers.ts';
import type { Engine } from '../sandbox/open.ts';
import { endTrace } from '../trace/trace.ts';
import type { Caller, Parking } from './caller.ts';
import { ClientCaller, type ServingProcess } from './client-caller.ts';
import { prepare, runCommandLine } from './commands.ts';
import { tellingDamage } from './damage.ts';
import { printError } from './errors.ts';
import { exitStatus, KILN_FAILED } from './exit-status.ts';
import { commandIn, type RunContext, RunElsewhere } from './run.ts';
import { isProfileFile } from './sandbox-options.ts';
import { nameUsageErrors } from './usage-errors.ts';

/** What all command lines of a daemon share. */
export interface Shared {
  readonly engine: Engine;
  readonly parking: Parking;
  /** Inode of the daemon's mount namespace: paths of callers in another one mean other files. */
  readonly mountNamespace: number;
  /** A sandbox is being removed, which nobody waits for. */
  removing(removal: Promise<void>): void;
  /** Who puts results into the directory of a caller that has this umask. */
  results(umask: number): Results & Disposable;
  /** The command has started: whatever comes now, nothing is being started for it. */
  started(): void;
  /** Has a worker process serve the client, with these variables of the caller's in its own environment. */
  work(line: CommandLine, env: Readonly<Record<string, string>>): Promise<void>;
}

/**
 * Variables of a caller's that parts of kiln take from the environment of their process: a worker is started
 * for such a caller, with them.
 */
const OF_PROCESS = [
  ...['KILN_URI', 'KILN_TRACE', 'KILN_PATIENCE', 'KILN_FIXTURES', 'TMPDIR', 'HOME'],
  ...['NODE_EXTRA_CA_CERTS', 'UV_THREADPOOL_SIZE'],
  ...['http_proxy', 'https_proxy', 'ftp_proxy', 'all_proxy', 'no_proxy'],
  ...['HTTP_PROXY', 'HTTPS_PROXY', 'FTP_PROXY', 'ALL_PROXY', 'NO_PROXY'],
];

/** As a daemon has it; a caller's own one is no reason for a worker of its own. */
const USUAL_HOME = homedir();

/** Options of `run` that are work for a worker. */
const LONG = ['copyIn', 'egress', 'keep', 'explain'] as const;

/** Commands that the daemon's own thread runs, each with the variables that make it work for a worker. */
const SHORT: Readonly<Record<string, readonly string[]>> = {
  run: ['KILN_URI', 'KILN_TRACE', 'KILN_FIXTURES'],
  ps: ['KILN_URI', 'KILN_TRACE'],
  kill: ['KILN_URI', 'KILN_TRACE'],
  // The daemon alone has sandboxes that wait.
  park: ['KILN_URI'],
};

/** Serves one client to the end, here or in a worker. */
export async function serveCommandLine(line: CommandLine, shared: Shared): Promise<void> {
  const { start } = line;
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
  if (!isShort || !(await serveHere(line, name, rest, shared))) await shared.work(line, env);
}

/** The words behind the program's name, which may say what is meant. */
function wordsOf({ start: { argv } }: CommandLine): readonly string[] {
  const [program = '', ...words] = argv;
  return basename(program) === 'kiln-mock' ? ['mock', ...words] : words;
}

/** Runs a command line in this thread. False: nothing has happened yet, it is work for a worker. */
async function serveHere(
  line: CommandLine,
  name: string,
  words: readonly string[],
  shared: Shared,
): Promise<boolean> {
  const { engine, parking } = shared;
  const caller = new ClientCaller(line, {
    state: engine.paths.root,
    isOnly: false,
    parking,
    openEngine: (own) => ({
      ...engine,
      cwd: () => own.cwd(),
      allowMissing: () => allowedMissing(own.env),
      signingPassphrase: () => own.env.KILN_SIGN_PASSPHRASE,
      [Symbol.asyncDispose]: async () => undefined,
    }),
    storeChanged: () => undefined,
    interrupted: () => undefined,
  });
  const say = (text: string) => caller.stderr.say(text);
  const { env } = line.start;
  if (name !== 'run') {
    line.keep();
    const waits = { say, patience: env.KILN_PATIENCE };
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
      // A profile of the caller's own has to be read, maybe from a pipe, and compiled.
      if (isLong || isProfileFile(options.seccomp)) throw new RunElsewhere();
      // The list of artifacts, which may be long, stays with the worker that collects them.
      if (options.json === true && options.artifact.length > 0) throw new RunElsewhere();
    });
    prepare(command, caller);
    new Command('kiln').enablePositionalOptions().addCommand(command);
    nameUsageErrors(command);
    const waits = { say, patience: line.start.env.KILN_PATIENCE };
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
    pickImage: async ({ paths }, wanted) => {
      // Making an image is work for a worker.
      if (wanted === undefined) throw new RunElsewhere();
      const image = await openExistingImage(paths, wanted, caller.cwd());
      if (image === undefined) throw new RunElsewhere();
      line.keep();
      return image;
    },
    started,
    removed: async (removal) => removing(removal),
  };
}

/** Runs a client's command line in a process that has nothing else to do. */
export async function serveAlone(line: CommandLine, process: ServingProcess): Promise<void> {
  const caller = new ClientCaller(line, process);
  const say = (text: string) => caller.stderr.say(text);
  takeCallersUmask(line.start.umask);
  await withWaits({ say }, () => runCommandLine(wordsOf(line), caller));
  endTrace(say);
  await caller.finish();
}
