/**
 * What all commands did together, as counters that never fall: of the events that are there, and of those that were
 * dropped when their file was rotated.
 */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { attempt } from '../host/calls/libc.ts';
import { writeWholeSync } from '../host/state/checked-file.ts';
import type { StateRoot } from '../host/state/paths.ts';
import type { KilnEvent } from './event.ts';
import { currentFile, eventsFolder, previousFile, uidsWithEvents } from './files.ts';

/** Upper ends of the histogram's buckets, seconds; beyond is the last one, +Inf. */
export const BUCKETS = [0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800, 7200];

export interface Totals {
  /** By `COMMAND OUTCOME`. */
  readonly commands: Record<string, number>;
  /** By code. */
  readonly failures: Record<string, number>;
  /** By the limit's name. */
  readonly limits: Record<string, number>;
  readonly refusals: Record<string, number>;
  /** By decision. */
  readonly egress: Record<string, number>;
  /** Of each command: how many took so long, one for each bucket and +Inf. */
  readonly durations: Record<string, number[]>;
  /** Of each command, milliseconds. */
  readonly times: Record<string, number>;
}

/** A caller decides neither how many names there are nor what is in them. */
const NAME = /^[A-Za-z][\w .-]{0,63}$/;

function noTotals(): Totals {
  return {
    ...{ commands: {}, failures: {}, limits: {}, refusals: {}, egress: {} },
    ...{ durations: {}, times: {} },
  };
}

function add(counts: Record<string, number>, name: string | undefined, more = 1): void {
  if (name === undefined || !NAME.test(name) || !Number.isFinite(more)) return;
  counts[name] = (Object.hasOwn(counts, name) ? (counts[name] ?? 0) : 0) + more;
}

function addEvent(totals: Totals, event: Partial<KilnEvent>): void {
  const { command = '', outcome, code, limit, duration, decision, count = 1 } = event;
  if (event.event === 'egress') add(totals.egress, decision, count);
  if (event.event === 'refused') add(totals.refusals, code);
  if (event.event !== 'end' || !NAME.test(command)) return;
  add(totals.commands, `${command} ${outcome ?? 'ended'}`);
  add(totals.failures, code);
  add(totals.limits, limit);
  if (duration === undefined || !Number.isFinite(duration)) return;
  totals.durations[command] ??= Array.from({ length: BUCKETS.length + 1 }, () => 0);
  const found = BUCKETS.findIndex((end) => duration <= end * 1000);
  totals.durations[command][found === -1 ? BUCKETS.length : found]! += 1;
  add(totals.times, command, duration);
}

function addTotals(totals: Totals, more: Partial<Totals>): void {
  for (const kind of ['commands', 'failures', 'limits', 'refusals', 'egress', 'times'] as const) {
    for (const [name, count] of Object.entries(more[kind] ?? {})) add(totals[kind], name, count);
  }
  for (const [name, counts] of Object.entries(more.durations ?? {})) {
    if (!NAME.test(name) || counts.length !== BUCKETS.length + 1) continue;
    const before = totals.durations[name] ?? counts.map(() => 0);
    totals.durations[name] = before.map((count, at) => count + Number(counts[at]));
  }
}

function addFile(totals: Totals, path: string): void {
  for (const line of (attempt(() => readFileSync(path, 'utf8')) ?? '').split('\n')) {
    const event = line === '' ? undefined : attempt((): Partial<KilnEvent> => JSON.parse(line));
    if (event !== undefined) addEvent(totals, event);
  }
}

function totalsFile(paths: StateRoot, uid: number): string {
  return join(eventsFolder(paths), `${uid}.totals.json`);
}

function readTotals(paths: StateRoot, uid: number): Partial<Totals> {
  const read: unknown = attempt(() => JSON.parse(readFileSync(totalsFile(paths, uid), 'utf8')));
  return typeof read === 'object' && read !== null ? read : {};
}

/** Before the file before is replaced: whoever rotates holds the lock of the uid's file. */
export function keepTotals(paths: StateRoot, uid: number): void {
  const totals = noTotals();
  addTotals(totals, readTotals(paths, uid));
  addFile(totals, previousFile(paths, uid));
  writeWholeSync(totalsFile(paths, uid), JSON.stringify(totals));
}

/** Of everybody. */
export function eventTotals(paths: StateRoot): Totals {
  const totals = noTotals();
  for (const uid of uidsWithEvents(paths)) {
    addTotals(totals, readTotals(paths, uid));
    for (const file of [previousFile, currentFile]) addFile(totals, file(paths, uid));
  }
  return totals;
}
