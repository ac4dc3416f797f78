/** Which process works for an action, so that another one can tell that it is gone. */
import { readFileSync, statSync } from 'node:fs';
import { statOf } from '../host/process/process.ts';

/** starttime of proc_pid_stat(5), its 22nd field; these begin with the third. */
const STARTED = 19;

let own: string | undefined;

/** The boot, the pid namespace, the pid, and when it started: no other process has the same. */
export function ownProcess(): string {
  own ??= [boot(), namespace(), process.pid, statOf(process.pid)?.[STARTED]].join(' ');
  return own;
}

/** False only where that is known: of another pid namespace, nothing is. */
export function isGone(worker: string): boolean {
  const [bootThen, namespaceThen, pid, started] = worker.split(' ');
  if (bootThen !== boot()) return true;
  if (Number(namespaceThen) !== namespace()) return false;
  const fields = statOf(Number(pid));
  return fields?.[STARTED] !== started || fields?.[0] === 'Z';
}

function boot(): string {
  return readFileSync('/proc/sys/kernel/random/boot_id', 'utf8').slice(0, 8);
}

function namespace(): number {
  return statSync('/proc/self/ns/pid').ino;
}
