/**
 * How kiln starts a Node, so that no caller's words reach the options that Node reads itself.
 *
 * Node looks for some options in all its arguments, even behind the program's name and `--` (`--env-file`,
 * `--experimental-default-config-file`), and takes others from the environment. Each of them can name a file to
 * run. So arguments are marked, and variables that Node, the loader or their libraries obey are removed from
 * the environment. bin/kiln-node does the same in sh.
 */
import { ownEnvironment } from './own-process.ts';

const MARK = ':';

/**
 * Variables that decide what a process loads, where it writes, or what it trusts: node(1), ld.so(8), OpenSSL's
 * openssl-env(7), glibc's list for set-user-ID programs.
 */
const ORDERS =
  /^(?:(?:NODE|UV|LD|OPENSSL|ICU|MALLOC)_\w*|GLIBC_TUNABLES|GCONV_PATH|LOCPATH|NLSPATH)$/;

/** These two load no code: certificates to trust, and a number of threads. */
const HARMLESS = ['NODE_EXTRA_CA_CERTS', 'UV_THREADPOOL_SIZE'];

const ASIDE = 'KILN_CALLER_';

export function nodePath(): string {
  return process.execPath;
}

export interface NodeStart {
  readonly node?: string;
  readonly options?: readonly string[];
  readonly program: string;
  readonly words?: readonly string[];
}

export function nodeCommand(start: NodeStart): [string, ...string[]] {
  const { node = nodePath(), options = [], program, words = [] } = start;
  return [node, ...options, program, ...words.map((word) => `${MARK}${word}`)];
}

/**
 * The program that takes kiln's command lines lies beside the daemon's. Undefined where this process runs
 * neither.
 */
export function kilnProgram(
  words: readonly string[],
  options: readonly string[] = [],
): [string, ...string[]] | undefined {
  const program = process.argv[1]?.replace(/\/kilnd(?:-worker)?\.cjs$/, '/kiln.cjs');
  if (program === undefined) return undefined;
  return nodeCommand({ options: [...options, ...process.execArgv], program, words });
}

export function ownArguments(): string[] {
  const words = process.argv.slice(2);
  if (words[0]?.startsWith(MARK) !== true) return words;
  return words.map((word) => (word.startsWith(MARK) ? word.slice(MARK.length) : word));
}

export function withoutOrders(env: Readonly<NodeJS.ProcessEnv>): Record<string, string> {
  const kept = Object.entries(env).filter(
    (entry): entry is [string, string] =>
      entry[1] !== undefined && (HARMLESS.includes(entry[0]) || !ORDERS.test(entry[0])),
  );
  return Object.fromEntries(kept);
}

/** The caller's value of a variable: one that was set aside counts, and kiln itself has not obeyed it. */
export function callersOwn(env: Readonly<NodeJS.ProcessEnv>, name: string): string | undefined {
  return env[asideName(name)] ?? env[name];
}

export function asideName(name: string): string {
  return `${ASIDE}${name}`;
}

export function callerEnvironment(): Record<string, string> {
  const back = Object.entries(ownEnvironment).map(([name, value]) => [
    name.startsWith(ASIDE) ? name.slice(ASIDE.length) : name,
    value,
  ]);
  return Object.fromEntries(back);
}
