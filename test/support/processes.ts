/** The processes that a kiln has started: the daemon's workers' as well as those of a kiln without one. */
import { readdirSync, readFileSync } from 'node:fs';
import { daemonPid } from './daemon.ts';

/**
 * The processes with such a `word` in their command line that the client or the daemon of a state directory
 * started, or what they started; those that started others of these come first.
 */
export function startedByKiln(state: string, client: number | undefined, word: RegExp): number[] {
  const roots = [client, daemonPid(state)];
  const all = new Map(readdirSync('/proc').flatMap(describe));
  const depth = (pid: number | undefined): number => {
    if (roots.includes(pid)) return 0;
    const parent = pid === undefined ? undefined : all.get(pid)?.parent;
    return parent === undefined ? Number.NaN : 1 + depth(parent);
  };
  return [...all]
    .filter(([pid, { words }]) => words.some((it) => word.test(it)) && depth(pid) > 0)
    .map(([pid]) => pid)
    .sort((one, other) => depth(one) - depth(other));
}

function describe(name: string): [number, { parent: number; words: readonly string[] }][] {
  try {
    const [, parent] = /^PPid:\t(\d+)$/m.exec(readFileSync(`/proc/${name}/status`, 'latin1')) ?? [];
    const words = readFileSync(`/proc/${name}/cmdline`, 'utf8').split('\0');
    return parent === undefined ? [] : [[Number(name), { parent: Number(parent), words }]];
  } catch {
    // No process, or one that has ended.
    return [];
  }
}

/** Processes of this machine's with exactly these arguments. */
export function processesCalled(...words: readonly string[]): number[] {
  return readdirSync('/proc')
    .filter((name) => /^\d+$/.test(name))
    .filter((name) => {
      try {
        return readFileSync(`/proc/${name}/cmdline`, 'utf8') === `${words.join('\0')}\0`;
      } catch {
        return false;
      }
    })
    .map(Number);
}
