/**
 * How kiln starts a Node: nothing of a caller's may reach the options that Node reads for itself.
 *
 * Node looks for some of them in all of its arguments, even behind the program's name and a `--`
 * (`--env-file`, `--experimental-default-config-file`), and takes others from the environment; each of
 * those can name a file to run. So words are passed on marked, and the environment loses every variable that
 * Node, the loader or the libraries below them take orders from. bin/kiln-node does the same in sh.
 */
import { ownEnvironment } from './own-process.ts';

/** Stands before every word, so that none looks like an option. */
const MARK = ':';

/** Variables that decide what a process loads, where it writes, or what it believes: node(1), ld.so(8), OpenSSL's openssl-env(7), glibc's list for set-user-ID programs. */
const ORDERS =
  /^(?:(?:NODE|UV|LD|OPENSSL|ICU|MALLOC)_\w*|GLIBC_TUNABLES|GCONV_PATH|LOCPATH|NLSPATH)$/;

/** Of these, no code comes by: certificates to trust, and a number of threads. */
const HARMLESS = ['NODE_EXTRA_CA_CERTS', 'UV_THREADPOOL_SIZE'];

/** Under which name bin/kiln-node puts the caller's value of a variable that Node must not see. */
const ASIDE = 'KILN_CALLER_';

/** The Node that this process runs on, for what has to name it. */
export function nodePath(): string {
  return process.execPath;
}

export interface NodeStart {
  /** The Node, if not this process's own path of it. */
  readonly node?: string;
  /** Options for Node and V8: constants, never a caller's words. */
  readonly options?: readonly string[];
  readonly program: string;
  /** Arguments for the program, which reads them by {@link ownArguments}. */
  readonly words?: readonly string[];
}

/** The command line of a Node of kiln's. */
export function nodeCommand(start: NodeStart): [string, ...string[]] {
  const { node = nodePath(), options = [], program, words = [] } = start;
  return [node, ...options, program, ...words.map((word) => `${MARK}${word}`)];
}

/**
 * The command line of the program that takes kiln's command lines, which lies beside the daemon's.
 * Undefined where this process runs neither.
 */
export function kilnProgram(
  words: readonly string[],
  options: readonly string[] = [],
): [string, ...string[]] | undefined {
  const program = process.argv[1]?.replace(/\/kilnd\.cjs$/, '/kiln.cjs');
  if (program === undefined) return undefined;
  return nodeCommand({ options: [...options, ...process.execArgv], program, words });
}

/** The words this process was started with, unmarked. Somebody who starts Node by hand marks none. */
export function ownArguments(): string[] {
  const words = process.argv.slice(2);
  if (words[0]?.startsWith(MARK) !== true) return words;
  return words.map((word) => (word.startsWith(MARK) ? word.slice(MARK.length) : word));
}

/** `env` without what a Node, or the loader, takes orders from: for every process that inherits it. */
export function withoutOrders(env: Readonly<NodeJS.ProcessEnv>): Record<string, string> {
  const kept = Object.entries(env).filter(
    (entry): entry is [string, string] =>
      entry[1] !== undefined && (HARMLESS.includes(entry[0]) || !ORDERS.test(entry[0])),
  );
  return Object.fromEntries(kept);
}

/** A variable as the caller has it, also one that bin/kiln has set aside. */
export function callerVariable(name: string): string | undefined {
  return ownEnvironment[name] ?? ownEnvironment[`${ASIDE}${name}`];
}

/** The caller's environment, for a command that runs as the caller: what was set aside is back. */
export function callerEnvironment(): Record<string, string> {
  const back = Object.entries(ownEnvironment).map(([name, value]) => [
    name.startsWith(ASIDE) ? name.slice(ASIDE.length) : name,
    value,
  ]);
  return Object.fromEntries(back);
}
