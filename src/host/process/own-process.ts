/**
 * What belongs to this process and never to a caller: a daemon has many callers and one environment. Values of
 * a caller are passed down from the entry (test/architecture/own-process.test.ts).
 */

/** The environment that this process was started with and passes on to programs it starts. */
export const ownEnvironment: NodeJS.ProcessEnv = process.env;

/** Writes text to this process's stderr. */
export function tellOwner(text: string): void {
  process.stderr.write(text);
}

/** Writes a line to this process's output, such as the journal of a service's unit. */
export function echoToOwner(line: string): void {
  process.stdout.write(line);
}
