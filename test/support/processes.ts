/** The processes that a kiln has started: the daemon's workers' as well as those of a kiln without one. */
import { readdirSync, readFileSync } from 'node:fs';
import { daemonPid } from './daemon.ts';

/**
 * The processes with such a `word` in their command line that the client or the daemon of a state directory
 * started, or what they started; those that started others of these come first.
 */
export function startedByKiln(state: string, client: number | undefined, word: RegExp): number[] {
  const found: number[] = [];
  let level = [client, daemonPid(state)].filter((pid) => pid !== undefined);
  while (level.length > 0) {
    level = level.flatMap(childrenOf);
    found.push(...level.filter((pid) => wordsOf(pid).some((it) => word.test(it))));
  }
  return found;
}

/** From parent to child, since a look at all processes takes longer than some of these live. */
function childrenOf(pid: number): number[] {
  const threads = orNone(() => readdirSync(`/proc/${pid}/task`));
  return threads.flatMap((thread) =>
    orNone(
      () => readFileSync(`/proc/${pid}/task/${thread}/children`, 'utf8').match(/\d+/g) ?? [],
    ).map(Number),
  );
}

function wordsOf(pid: number): string[] {
  return orNone(() => readFileSync(`/proc/${pid}/cmdline`, 'utf8').split('\0'));
}

/** Nothing of a process that has ended. */
function orNone(read: () => string[]): string[] {
  try {
    return read();
  } catch {
    return [];
  }
}

let asked = 0;

/**
 * How long a command sleeps that is looked for on the whole machine: long, and as no other process does, since other
 * kilns run the same tests.
 */
export function ownSeconds(): string {
  asked++;
  return `${process.pid}${String(asked).padStart(3, '0')}`;
}

/** All processes of this machine. */
function everyProcess(): number[] {
  return readdirSync('/proc')
    .filter((name) => /^\d+$/.test(name))
    .map(Number);
}

/** Processes of this machine's with exactly these arguments. */
export function processesCalled(...words: readonly string[]): number[] {
  const wanted = `${words.join('\0')}\0`;
  return everyProcess().filter((pid) => wordsOf(pid).join('\0') === wanted);
}

/** Those with such a text in one of their arguments. */
export function processesNaming(text: string): number[] {
  return everyProcess().filter((pid) => wordsOf(pid).some((word) => word.includes(text)));
}
