import {
  closeSync,
  fstatSync,
  ftruncateSync,
  lstatSync,
  openSync,
  readFileSync,
  rmSync,
  unlinkSync,
  writeSync,
} from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { closing } from '../../host/calls/descriptor.ts';
import { hasErrno, unlessErrno } from '../../host/calls/libc.ts';
import { startOf, waitForDeath } from '../../host/process/process.ts';

/** A failure after a run of so many seconds has another cause: the restart delay begins anew. */
const STEADY = 60;

/**
 * The guardian of a supervisor on a host without systemd: a shell (1 MB, as long as the service lives) that
 * restarts it after a delay, which grows by a second each time up to 30 s. It stops if the supervisor is done
 * (0), or if a restart would not help (78, EX_CONFIG of sysexits.h). Its clock is /proc/uptime, which nobody
 * can set.
 */
export function guardianScript(steady = STEADY): string {
  return `n=0
wanted=$1
shift
now() { read -r up rest </proc/uptime; echo "\${up%.*}"; }
while [ -e "$wanted" ]; do
  began=$(now)
  "$@" && exit 0
  status=$?
  [ "$status" = 78 ] && exit 78
  [ $(($(now) - began)) -lt ${steady} ] || n=0
  n=$((n < 30 ? n + 1 : n)); sleep "$n"
done`;
}

/**
 * On a host without systemd a file says that a service is to run: its guardian goes on only while it is there. It
 * names the guardian, a shell in a process group of its own (`PID START`, see startOf), so that a stop finds a start
 * that has no supervisor yet.
 */
export type Wanted = ReturnType<typeof want>;

export function want(path: string) {
  const fd = openSync(path, 'w', 0o600);
  const { ino } = fstatSync(fd);
  /** Whether nobody has stopped the service, or stopped and started it, since. */
  const isStill = () => lstatSync(path, { throwIfNoEntry: false })?.ino === ino;
  return {
    /** Writes the guardian's name, for a stop to read that has removed the file meanwhile, too. */
    name(guardian: number) {
      // By the descriptor: a file that a stop has removed stays removed.
      ftruncateSync(fd);
      writeSync(fd, `${guardian} ${startOf(guardian) ?? ''}`);
    },
    isStill,
    /** Removes the file if it is still this one. */
    drop: () => {
      if (isStill()) rmSync(path, { force: true });
    },
    [Symbol.dispose]: () => closeSync(fd),
  };
}

/** How long a start may take from the file to its guardian, ms. */
const NAMING = 1000;
const PAUSE = 10;

/** How long a guardian and what it starts may take to die of SIGTERM, ms. */
const ENDING = 2000;

/** Removes the file. @returns what ends the guardian that it names; undefined where there was no file */
export async function unwant(path: string): Promise<(() => Promise<void>) | undefined> {
  let guardian = '';
  try {
    using file = closing(openSync(path, 'r'));
    unlinkSync(path);
    for (let waited = 0; guardian === '' && waited < NAMING; waited += PAUSE) {
      if (waited > 0) await sleep(PAUSE);
      guardian = readFileSync(file.fd, 'utf8');
    }
  } catch (error) {
    if (hasErrno(error, 'ENOENT')) return undefined;
    throw error;
  }
  return () => endGroup(guardian);
}

async function endGroup(guardian: string): Promise<void> {
  const [name = '', start] = guardian.split(' ');
  const pid = Number(name);
  // The pid may be another's by now, and 0 would be this process's own group.
  if (!(pid > 1) || startOf(pid) !== start) return;
  unlessErrno(['ESRCH'], () => process.kill(-pid, 'SIGTERM'));
  await waitForDeath(pid, ENDING);
}
