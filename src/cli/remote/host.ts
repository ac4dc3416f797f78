/** Whether a command line is for another machine. */

export interface RemoteCommandLine {
  readonly host: string;
  readonly argv: readonly string[];
}

/** Commands that tell about this machine or read its files: KILN_HOST does not send them away. */
const LOCAL: ReadonlySet<string> = new Set([
  ...['doctor', 'help', '--help', '-h', '--version', '-V', 'rpm', 'report', 'mock'],
  ...['complete', 'completion'],
]);

/** The machine that a command line names, and the rest of it; undefined: this one. */
export function remoteHost(
  argv: readonly string[],
  usual: string | undefined,
): RemoteCommandLine | undefined {
  const [first = '', second = '', ...rest] = argv;
  if (first === '--host') return { host: second, argv: rest };
  if (first.startsWith('--host=')) {
    return { host: first.slice('--host='.length), argv: argv.slice(1) };
  }
  return usual && first !== '' && !LOCAL.has(first) ? { host: usual, argv } : undefined;
}
