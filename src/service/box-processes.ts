import { readdirSync, readFileSync } from 'node:fs';

/** A process of a box, by its own /proc. */
export interface BoxProcess {
  readonly pid: number;
  readonly parent: number;
  readonly session: number;
  readonly zombie: boolean;
}

/**
 * The processes that the box of this init has, its pids. The box cannot mount, so its /proc is the
 * one that its init mounted.
 */
export function boxProcesses(initPid: number): BoxProcess[] {
  const proc = `/proc/${initPid}/root/proc`;
  return readdirSync(proc)
    .filter((name) => /^\d+$/.test(name))
    .flatMap((name): BoxProcess[] => {
      let stat: string;
      try {
        stat = readFileSync(`${proc}/${name}/stat`, 'latin1');
      } catch {
        return [];
      }
      // pid (comm) state ppid pgrp session …; comm may hold anything.
      const [state, parent, , session] = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
      return [
        {
          pid: Number(name),
          parent: Number(parent),
          session: Number(session),
          zombie: state === 'Z',
        },
      ];
    });
}
