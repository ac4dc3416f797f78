import { chmodSync, statSync } from 'node:fs';
import { basename, join } from 'node:path';
import { type FoundRecord, findRecord, withFields, writeRecord } from '../state/checked-file.ts';
import { tellDamage } from '../state/damage.ts';
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
  /** Nobody has claimed it yet: it waits. */
  readonly parked?: true;
  /** The image in it, once it is claimed: nobody may delete that image. */
  readonly image?: string;
  readonly command?: readonly string[];
  /** The user whose it is; absent where it is root's. */
  readonly owner?: number;
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

const takeRecord = withFields<BoxRecord>({
  id: 'string',
  domain: 'string',
  range: 'object',
  created: 'number',
  skeleton: 'string',
});

/** Reads box.json, or says what is wrong with it. */
export function findBoxRecord(directory: string): FoundRecord<BoxRecord> {
  return findRecord(boxFiles.record(directory), takeRecord);
}

/**
 * Reads box.json; undefined when there is none (its maker died early, or it is gone already), or when it
 * is damaged, which is told: the sandbox is the sweep's as soon as nobody has it any more.
 */
export function readBoxRecord(directory: string): BoxRecord | undefined {
  const { value, damage } = findBoxRecord(directory);
  if (damage === undefined) {
    if (value !== undefined) closeToOthers(boxFiles.record(directory));
    return value;
  }
  tellDamage({
    path: damage.path,
    why: damage.why,
    done: `nobody can use the sandbox ${basename(directory)} any more, and it goes when its command ends`,
  });
  return undefined;
}

/** An older version let everybody read it. */
function closeToOthers(path: string): void {
  const mode = statSync(path, { throwIfNoEntry: false })?.mode;
  if (mode !== undefined && (mode & 0o077) !== 0) chmodSync(path, 0o600);
}

/** The domain of the box in `directory`, which is named by its id. */
export function domainOf(paths: StatePaths, directory: string): string {
  return `${domainPrefix(paths)}${basename(directory)}`;
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
  writeRecord(boxFiles.record(directory), record);
}
