import { chmodSync, readFileSync, renameSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { basename, join } from 'node:path';
import type { StatePaths } from '../state/paths.ts';
import type { Capability } from './capabilities.ts';
import type { DomainOptions } from './domain-xml.ts';
import type { BoxFacts } from './facts.ts';
import type { IdRange } from './id-range.ts';
import type { BoxLabels } from './labels/labels.ts';
import type { Surroundings } from './surroundings.ts';

/** box.json: what is known of a box without asking libvirt. Times are milliseconds since the epoch. */
export interface BoxRecord {
  readonly id: string;
  /** The domain's name, as `virsh list` shows it. */
  readonly domain: string;
  readonly range: IdRange;
  readonly created: number;
  /** The skeleton it started in: a box of another version of kiln-init is not claimed. */
  readonly skeleton: string;
  readonly network: DomainOptions['network'];
  /** What SELinux or AppArmor hold it by; absent where neither does. */
  readonly labels?: BoxLabels;
  /** The image in it, once it is claimed: nobody may delete that image. */
  readonly image?: string;
  readonly command?: readonly string[];
  /** Until when a kept box lives although its owner is gone. */
  readonly keepUntil?: number;
  /** How commands run in a kept box: whoever comes back has the same policy. */
  readonly session?: BoxSession;
}

/** What it takes to start another command in a kept box, as the first one was started. */
export interface BoxSession {
  readonly user: string;
  readonly capabilities: readonly Capability[];
  readonly seccomp: string;
  readonly surroundings: Surroundings;
  readonly env: Readonly<Record<string, string>>;
  readonly workdir: string;
  readonly facts: BoxFacts;
}

/** Files of a box's folder. */
export const boxFiles = {
  record: (directory: string) => join(directory, 'box.json'),
  /** Locked for as long as the box's owner lives. */
  lock: (directory: string) => join(directory, 'owner.lock'),
  /** Belongs to the box's root, the only folder it sees of the host before it is claimed. */
  socketDirectory: (directory: string) => join(directory, 'init'),
  socket: (directory: string) => join(directory, 'init', 'init.sock'),
};

/** The prefix of the names of this state directory's domains. */
export function domainPrefix(paths: StatePaths): string {
  return `kiln-${basename(paths.run)}-`;
}

/** Reads box.json; undefined when there is none (its maker died early, or it is gone already). */
export function readBoxRecord(directory: string): BoxRecord | undefined {
  const path = boxFiles.record(directory);
  let text: string;
  try {
    text = readFileSync(path, 'utf8');
    // An older version let everybody read it.
    if ((statSync(path).mode & 0o077) !== 0) chmodSync(path, 0o600);
  } catch {
    return undefined;
  }
  return JSON.parse(text) as BoxRecord;
}

/** So long a parked box waits for a claim, milliseconds: whoever parked it is not in a hurry any more then. */
export const PARKED_LIFETIME = 30 * 60_000;

/** A clock that was set back by so much, milliseconds, says nothing of a box's age. */
const SET_BACK = 60_000;

/** Whether a parked box has waited for too long: its init has ended by itself, or is about to. */
export function isExpired(record: BoxRecord, now: number): boolean {
  const age = now - record.created;
  return age >= PARKED_LIFETIME || age < -SET_BACK;
}

/** Replaces box.json as a whole. It has arguments and variables of commands: nobody else reads it. */
export function writeBoxRecord(directory: string, record: BoxRecord): void {
  const temporary = `${boxFiles.record(directory)}.new`;
  rmSync(temporary, { force: true });
  writeFileSync(temporary, JSON.stringify(record), { flag: 'wx', mode: 0o600 });
  renameSync(temporary, boxFiles.record(directory));
}
