/** Ends of commands whose process was killed: whoever sweeps writes them, and no second one does. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { attempt } from '../host/calls/libc.ts';
import { tryLock } from '../host/files/flock.ts';
import type { StateRoot } from '../host/state/paths.ts';
import type { KilnEvent } from './event.ts';
import { type EventLogOptions, writeEvent } from './event-log.ts';
import { currentFile, eventsFolder, previousFile, uidsWithEvents } from './files.ts';
import { isGone } from './process.ts';

/** Returns how many were lost. Nothing is done while somebody else sweeps. */
export async function sweepEvents(paths: StateRoot, options?: EventLogOptions): Promise<number> {
  const uids = uidsWithEvents(paths);
  if (uids.length === 0) return 0;
  await using lock = await tryLock(join(eventsFolder(paths), 'lock'));
  if (lock === undefined) return 0;
  const lost = uids.flatMap((uid) => lostStarts(paths, uid));
  for (const { process: _, ...start } of lost) {
    const end = { event: 'end', id: start.id, time: new Date().toISOString() } as const;
    writeEvent(paths, { ...start, ...end, outcome: 'lost' }, options);
  }
  return lost.length;
}

interface StartEvent extends KilnEvent {
  readonly process: string;
}

/** How every line of these begins: the id is found without reading the rest. */
const START = '{"event":"start","id":"';
const END = '{"event":"end","id":"';
const ID = 10;

function lostStarts(paths: StateRoot, uid: number): StartEvent[] {
  const starts = new Map<string, string>();
  for (const file of [previousFile(paths, uid), currentFile(paths, uid)]) {
    const text = attempt(() => readFileSync(file, 'utf8')) ?? '';
    for (const line of text.split('\n')) {
      if (line.startsWith(START)) starts.set(line.slice(START.length, START.length + ID), line);
      else if (line.startsWith(END)) starts.delete(line.slice(END.length, END.length + ID));
    }
  }
  return [...starts.values()].flatMap((line) => {
    const start = attempt((): StartEvent => JSON.parse(line));
    return start !== undefined && isGone(start.process) ? [start] : [];
  });
}
