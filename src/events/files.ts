/** Where events lie in the state. */
import { readdirSync } from 'node:fs';
import { join } from 'node:path';
import { attempt } from '../host/calls/libc.ts';
import type { StateRoot } from '../host/state/paths.ts';

export function eventsFolder({ root }: StateRoot): string {
  return join(root, 'events');
}

export function currentFile(paths: StateRoot, uid: number): string {
  return join(eventsFolder(paths), `${uid}.jsonl`);
}

export function previousFile(paths: StateRoot, uid: number): string {
  return join(eventsFolder(paths), `${uid}.1.jsonl`);
}

export function logFile({ root }: StateRoot): string {
  return join(root, 'kilnd.log');
}

export function previousLog({ root }: StateRoot): string {
  return join(root, 'kilnd.1.log');
}

/** Those who have events. */
export function uidsWithEvents(paths: StateRoot): number[] {
  const names = attempt(() => readdirSync(eventsFolder(paths))) ?? [];
  const uids = names.flatMap((name) => /^(\d+)(?:\.1)?\.jsonl$/.exec(name)?.[1] ?? []);
  return [...new Set(uids)].map(Number).toSorted((a, b) => a - b);
}
