/**
 * What belongs to this process itself, never to a caller: a daemon has many callers, and one environment. Everything
 * of a caller's is handed down from the entry (test/architecture/own-process.test.ts).
 */

/** What this process was told when it was started, and hands on to programs that it starts. */
export const ownEnvironment: NodeJS.ProcessEnv = process.env;

/** Says something to whoever reads what this process says. */
export function tellOwner(text: string): void {
  process.stderr.write(text);
}

/** Writes a line to where this process's output goes, such as the journal of a service's unit. */
export function echoToOwner(line: string): void {
  process.stdout.write(line);
}
