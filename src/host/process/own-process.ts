/**
 * What belongs to this process and never to a caller: a daemon has many callers and one environment. Values of
 * a caller are passed down from the entry (test/architecture/own-process.test.ts).
 */

export const ownEnvironment: NodeJS.ProcessEnv = process.env;

export function tellOwner(text: string): void {
  process.stderr.write(text);
}

export function echoToOwner(line: string): void {
  process.stdout.write(line);
}
