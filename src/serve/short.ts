/**
 * Which process does a job: what is short the daemon's own thread, which has many callers, and a worker all else. It is
 * decided by this module, before a command is begun: by the command or method, for a run by its options, and for a
 * further command by its sandbox, too. A run whose image is not there is given back by `runIfImageIsThere()`.
 */
import { homedir } from 'node:os';
import { namesFiles } from '../cli/users/user-guard.ts';
import type { Call } from '../daemon/call.ts';
import type { CommandLine } from '../daemon/command-line.ts';
import { isProfileFile } from '../options/places.ts';
import type { ExecOptions } from '../options/sandbox.ts';
import { RUN, type RunOptions } from '../options/sandbox.ts';
import type { ListedSandbox } from '../sandbox/domain/sandbox-record.ts';
import type { CallerUser } from '../users/configuration.ts';
import type { Name } from './calls/context.ts';

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

/** Short commands, each with the variables that make it need a worker. */
const COMMANDS: Readonly<Record<string, readonly string[]>> = {
  run: ['KILN_URI', 'KILN_TRACE', 'KILN_FIXTURES'],
  exec: ['KILN_URI', 'KILN_TRACE'],
  ps: ['KILN_URI', 'KILN_TRACE'],
  kill: ['KILN_URI', 'KILN_TRACE'],
  wait: ['KILN_TRACE'],
  // Only the daemon has parked sandboxes.
  park: ['KILN_URI'],
};

const METHODS: readonly Name[] = [
  ...(['GetVersion', 'Run', 'OpenSandbox', 'Execute', 'SendInput', 'SendSignal'] as const),
  ...(['ResizeTerminal', 'WriteFile', 'ReadFile', 'CloseSandbox'] as const),
  ...(['ListSandboxes', 'KillSandbox'] as const),
  // Of open sandboxes; others are a worker's.
  ...(['Snapshot', 'Rollback', 'Fork', 'CommitImage'] as const),
];

/** What a user's command line, or call, may have at most: reading more may take long. */
const USERS_WORDS = 1000;
const USERS_TEXT = 128 * 1024;

/** Of a user's kiln.yaml. */
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

/** No process of kiln's gets a user's environment. */
export function environmentOfWorker({ start, identity }: CommandLine): Record<string, string> {
  const env: Record<string, string> = {};
  for (const name of identity.uid === 0 ? OF_PROCESS : []) {
    const value = start.env[name];
    if (value && !(name === 'HOME' && value === USUAL_HOME)) env[name] = value;
  }
  return env;
}

export function isShortLine(line: CommandLine): boolean {
  const { argv, cwd, configuration } = line.start;
  const [name = ''] = line.words;
  const variables = Object.hasOwn(COMMANDS, name) ? COMMANDS[name] : undefined;
  if (variables === undefined || cwd === '') return false;
  if (line.identity.uid === 0) {
    const env = environmentOfWorker(line);
    return variables.every((variable) => env[variable] === undefined);
  }
  if (name === 'run' && configuration !== undefined && !isPlain(configuration.text)) return false;
  if (argv.length > USERS_WORDS) return false;
  return argv.reduce((sum, word) => sum + word.length, 0) <= USERS_TEXT;
}

export function isShortCall(name: Name, { head }: Call): boolean {
  if (!METHODS.includes(name)) return false;
  // What an open sandbox gets is bytes, which nobody reads here.
  if (head.identity.uid === 0 || (name !== 'Run' && name !== 'OpenSandbox')) return true;
  return JSON.stringify(head.parameters).length <= USERS_TEXT;
}

/** Of a short line or call, whose image must be there as well. */
export function isShortRun(options: Partial<RunOptions>, user: CallerUser | undefined): boolean {
  const { copyIn = [], egress = [], publish = [], artifacts = [], seccomp = '' } = options;
  // A machine takes long to start, and what it boots may have to be made.
  if (options.isolation === 'vm') return false;
  // Whatever passes a port of the host would take the daemon's own time.
  if (publish.length > 0) return false;
  if (options.explain === true || options.detach === true || options.ci !== undefined) return false;
  // A worker's alone can be left.
  if (options.tty === true && (options.keep ?? options.detachKeys) !== undefined) return false;
  // It is read, or written, before anything is run.
  if (options.file !== undefined || options.save !== undefined) return false;
  // The list of artifacts may be long, so it stays in the worker that collects them.
  if (options.json === true && artifacts.length > 0) return false;
  // A profile of the caller's must be read, maybe from a pipe, and compiled.
  if (copyIn.length > 0 || egress.length > 0 || isProfileFile(seccomp)) return false;
  // The daemon's own process takes no descriptor of a user's.
  return user === undefined || !namesFiles(RUN, options);
}

/** Of a further command: what passes through the process that enters the sandbox would take the daemon's own time. */
export function isShortExec(
  { tty = false, copyIn, publish = [] }: ExecOptions,
  { state, record }: ListedSandbox,
): boolean {
  const { machine, session } = record;
  if (state !== 'kept' || machine !== undefined) return false;
  // A worker's terminal alone can be left.
  if (tty || copyIn.length > 0 || publish.length > 0) return false;
  return session?.egress === undefined && session?.publish === undefined;
}
