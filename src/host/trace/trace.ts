/**
 * KILN_TRACE=FILE: how long each phase of every process and sandbox took, in Chrome's trace event format (the
 * array form, whose closing bracket is optional). Processes append when they end; microseconds, `ts` since
 * 1970.
 */

import { closeSync, constants, openSync, writeFileSync } from 'node:fs';
import { attempt } from '../calls/libc.ts';
import { ownEnvironment, tellOwner } from '../process/own-process.ts';
import { callerMode } from '../process/own-umask.ts';

const file = ownEnvironment.KILN_TRACE || undefined;

const BUFFERED = 1000;

const NOTHING: Disposable = { [Symbol.dispose]: () => undefined };

let events: string[] = [];
let begun = false;
/** A command may put a link in the place of the file, or of a folder above it: it is opened before. */
let opened: number | Error | undefined;

export function span(name: string): Disposable {
  if (file === undefined) return NOTHING;
  opened ??= openTrace(file);
  const start = performance.now();
  return { [Symbol.dispose]: () => trace(name, start, performance.now()) };
}

export function trace(name: string, start: number, end: number): void {
  if (file === undefined) return;
  add(name, process.pid, performance.timeOrigin + start, end - start);
}

/** In its init's facts `mark=NAME MICROSECONDS` is the end of a phase; the first begins all. */
export function traceSandbox(pid: number, facts: string): void {
  if (file === undefined) return;
  let before: number | undefined;
  for (const [, name = '', micro] of facts.matchAll(/^mark=(\S+) (\d+)$/gm)) {
    const at = Number(micro) / 1000;
    if (before !== undefined) add(`init: ${name}`, pid, before, at - before);
    before = at;
  }
}

/** Milliseconds, `start` since 1970. */
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
  trace('start of node', 0, performance.nodeTiming.bootstrapComplete);
}

export function endTrace(tell: (text: string) => void = tellOwner): void {
  if (!begun) return;
  trace('process', 0, performance.now());
  flush(tell);
  if (typeof opened === 'number') closeSync(opened);
  opened = undefined;
}

/** The file may lie where others can put links and fifos. */
const APPEND =
  constants.O_WRONLY | constants.O_APPEND | constants.O_NOFOLLOW | constants.O_NONBLOCK;

function openTrace(path: string): number | Error {
  // If another process began the file, or it cannot be written, the next line reports that.
  attempt(() => writeFileSync(path, '[\n', { flag: 'wx', mode: callerMode(0o644) }));
  try {
    return openSync(path, APPEND);
  } catch (error) {
    return error as Error;
  }
}

function flush(tell: (text: string) => void = tellOwner): void {
  if (file === undefined || events.length === 0) return;
  const text = events.join('');
  events = [];
  try {
    opened ??= openTrace(file);
    if (opened instanceof Error) throw opened;
    writeFileSync(opened, text);
  } catch (error) {
    tell(`kiln: warning: cannot write the trace: ${(error as Error).message} [no-trace]\n`);
  }
}
