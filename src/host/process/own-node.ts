/**
 * How kiln starts a Node, so that no caller's words reach the options that Node reads itself.
 *
 * Node looks for some options in all its arguments, even behind the program's name and `--` (`--env-file`,
 * `--experimental-default-config-file`), and takes others from the environment. Each of them can name a file to
 * run. So arguments are marked, and variables that Node, the loader or their libraries obey are removed from
 * the environment. bin/kiln-node does the same in sh.
 */
import { ownEnvironment } from './own-process.ts';

/** Put before every argument, so that none looks like an option. */
const MARK = ':';

/**
 * Variables that decide what a process loads, where it writes, or what it trusts: node(1), ld.so(8), OpenSSL's
 * openssl-env(7), glibc's list for set-user-ID programs.
 */
const ORDERS =
  /^(?:(?:NODE|UV|LD|OPENSSL|ICU|MALLOC)_\w*|GLIBC_TUNABLES|GCONV_PATH|LOCPATH|NLSPATH)$/;

/** These two load no code: certificates to trust, and a number of threads. */
const HARMLESS = ['NODE_EXTRA_CA_CERTS', 'UV_THREADPOOL_SIZE'];

/** The prefix under which bin/kiln-node keeps the caller's value of a variable that Node must not see. */
const ASIDE = 'KILN_CALLER_';

/** The path of the Node that runs this process. */
export function nodePath(): string {
  return process.execPath;
}

export interface NodeStart {
  /** The Node; this process's own by default. */
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
 * The command line of the program that takes kiln's command lines; it lies beside the daemon's. Undefined where
 * this process runs neither.
 */
export function kilnProgram(
  words: readonly string[],
  options: readonly string[] = [],
): [string, ...string[]] | undefined {
  const program = process.argv[1]?.replace(/\/kilnd\.cjs$/, '/kiln.cjs');
  if (program === undefined) return undefined;
  return nodeCommand({ options: [...options, ...process.execArgv], program, words });
}

/** The arguments of this process, unmarked. Arguments of a Node that a person started are not marked. */
export function ownArguments(): string[] {
  const words = process.argv.slice(2);
  if (words[0]?.startsWith(MARK) !== true) return words;
  return words.map((word) => (word.startsWith(MARK) ? word.slice(MARK.length) : word));
}

/** `env` without the variables that Node or the loader obey: for every process that inherits it. */
export function withoutOrders(env: Readonly<NodeJS.ProcessEnv>): Record<string, string> {
  const kept = Object.entries(env).filter(
    (entry): entry is [string, string] =>
      entry[1] !== undefined && (HARMLESS.includes(entry[0]) || !ORDERS.test(entry[0])),
  );
  return Object.fromEntries(kept);
}

/** A variable with the caller's value, even if bin/kiln-node set it aside. */
export function callerVariable(name: string): string | undefined {
  return ownEnvironment[name] ?? ownEnvironment[`${ASIDE}${name}`];
}

/** The caller's environment, with the variables that were set aside, for a command that runs as the caller. */
export function callerEnvironment(): Record<string, string> {
  const back = Object.entries(ownEnvironment).map(([name, value]) => [
    name.startsWith(ASIDE) ? name.slice(ASIDE.length) : name,
    value,
  ]);
  return Object.fromEntries(back);
}
