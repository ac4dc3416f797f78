/**
 * KILN_TRACE=FILE: how long each phase of every process of kiln and of every sandbox took, in Chrome's trace
 * event format (the array form, whose closing bracket is optional); chrome://tracing and Perfetto show it.
 * Processes append to the file when they end; `ts` and `dur` are microseconds, `ts` since 1970.
 */

import { closeSync, constants, openSync, writeFileSync } from 'node:fs';
import { ownEnvironment, tellOwner } from '../process/own-process.ts';
import { callerMode } from '../process/own-umask.ts';

/** The trace file; undefined if there is none, and then tracing costs one comparison. */
const file = ownEnvironment.KILN_TRACE || undefined;

/** Events that are kept before they are written: a killed process loses no more than these. */
const BUFFERED = 1000;

const NOTHING: Disposable = { [Symbol.dispose]: () => undefined };

let events: string[] = [];
let begun = false;

/** A phase that lasts until it is disposed of: `using _ = span('name')`. */
export function span(name: string): Disposable {
  if (file === undefined) return NOTHING;
  const start = performance.now();
  return { [Symbol.dispose]: () => trace(name, start, performance.now()) };
}

/** Notes a phase of this process; times of performance.now(). */
export function trace(name: string, start: number, end: number): void {
  if (file === undefined) return;
  add(name, process.pid, performance.timeOrigin + start, end - start);
}

/**
 * Notes the phases of a sandbox from the lines `mark=NAME MICROSECONDS` of its init's facts. Each line is the
 * end of a phase; the first is the beginning of all. `pid` is the init's.
 */
export function traceSandbox(pid: number, facts: string): void {
  if (file === undefined) return;
  let before: number | undefined;
  for (const [, name = '', micro] of facts.matchAll(/^mark=(\S+) (\d+)$/gm)) {
    const at = Number(micro) / 1000;
    if (before !== undefined) add(`init: ${name}`, pid, before, at - before);
    before = at;
  }
}

/** Times in milliseconds, `start` since 1970. */
function add(name: string, pid: number, start: number, duration: number): void {
  if (!begun) begin();
  const ts = Math.round(start * 1000);
  const dur = Math.round(duration * 1000);
  events.push(`${JSON.stringify({ name, ph: 'X', pid, tid: pid, ts, dur })},\n`);
  if (events.length >= BUFFERED) flush();
}

function begin(): void {
  begun = true;
  process.on('exit', () => {
    if (events.length > 0) endTrace();
  });
  // From the start of the process, including Node's own work, to the first line of kiln.
  trace('start of node', 0, performance.nodeTiming.bootstrapComplete);
}

/** Writes the events: at the end of the process, or of a job in a process that goes on. */
export function endTrace(tell: (text: string) => void = tellOwner): void {
  if (!begun) return;
  trace('process', 0, performance.now());
  flush(tell);
}

/** The file may lie where others can put links and fifos. */
const APPEND =
  constants.O_WRONLY | constants.O_APPEND | constants.O_NOFOLLOW | constants.O_NONBLOCK;

function flush(tell: (text: string) => void = tellOwner): void {
  if (file === undefined || events.length === 0) return;
  const text = events.join('');
  events = [];
  try {
    writeFileSync(file, '[\n', { flag: 'wx', mode: callerMode(0o644) });
  } catch {
    // Another process began the file, or it cannot be written; the next write reports that.
  }
  try {
    const fd = openSync(file, APPEND);
    try {
      writeFileSync(fd, text);
    } finally {
      closeSync(fd);
    }
  } catch (error) {
    tell(`kiln: warning: cannot write the trace: ${(error as Error).message}\n`);
  }
}
