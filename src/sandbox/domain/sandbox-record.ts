import { basename, join } from 'node:path';
import {
  type FoundRecord,
  findRecord,
  withFields,
  writeRecord,
} from '../../host/state/checked-file.ts';
import { tellDamage } from '../../host/state/damage.ts';
import type { StatePaths } from '../../host/state/paths.ts';
import type { SandboxFacts } from '../command/facts.ts';
import type { SandboxLabels } from '../labels/labels.ts';
import type { Capability } from '../policy/capabilities.ts';
import type { Surroundings } from '../policy/surroundings.ts';
import type { Owner } from './claim.ts';
import type { DomainOptions } from './domain-xml.ts';
import type { IdRange } from './id-range.ts';

/** sandbox.json: what is known of a sandbox without asking libvirt. Times are milliseconds since the epoch. */
export interface SandboxRecord {
  readonly id: string;
  /** The domain's name, as `virsh list` shows it. */
  readonly domain: string;
  readonly range: IdRange;
  readonly created: number;
  /** The skeleton it started in: a sandbox of another version of kiln-init is not claimed. */
  readonly skeleton: string;
  readonly network: DomainOptions['network'];
  /** What SELinux or AppArmor hold it by; absent where neither does. */
  readonly labels?: SandboxLabels;
  /** Nobody has claimed it yet: it waits. */
  readonly parked?: true;
  /** The image in it, once it is claimed: nobody may delete that image. */
  readonly image?: string;
  readonly command?: readonly string[];
  /** The user whose it is; absent where it is root's. */
  readonly owner?: number;
  /** Until when a kept sandbox lives although its owner is gone. */
  readonly keepUntil?: number;
  /** How commands run in a kept sandbox: whoever comes back has the same policy. */
  readonly session?: SandboxSession;
}

/** What it takes to start another command in a kept sandbox, as the first one was started. */
export interface SandboxSession {
  readonly user: string;
  readonly capabilities: readonly Capability[];
  readonly seccomp: string;
  readonly surroundings: Surroundings;
  readonly env: Readonly<Record<string, string>>;
  readonly workdir: string;
  readonly facts: SandboxFacts;
}

/** Files of a sandbox's folder. */
export const sandboxFiles = {
  record: (directory: string) => join(directory, 'sandbox.json'),
  /** Locked for as long as the sandbox's owner lives. */
  lock: (directory: string) => join(directory, 'owner.lock'),
  /** Belongs to the sandbox's root, the only folder it sees of the host before it is claimed. */
  socketDirectory: (directory: string) => join(directory, 'init'),
  socket: (directory: string) => join(directory, 'init', 'init.sock'),
};

/** The prefix of the names of this state directory's domains. */
export function domainPrefix(paths: StatePaths): string {
  return `kiln-${basename(paths.run)}-`;
}

const takeRecord = withFields<SandboxRecord>({
  id: 'string',
  domain: 'string',
  range: 'object',
  created: 'number',
  skeleton: 'string',
});

/** Reads sandbox.json, or says what is wrong with it. */
export function findSandboxRecord(directory: string): FoundRecord<SandboxRecord> {
  return findRecord(sandboxFiles.record(directory), takeRecord);
}

/**
 * Reads sandbox.json; undefined when there is none (its maker died early, or it is gone already), or when it
 * is damaged, which is told: the sandbox is the sweep's as soon as nobody has it any more.
 */
export function readSandboxRecord(directory: string): SandboxRecord | undefined {
  const { value, damage } = findSandboxRecord(directory);
  if (damage === undefined) return value;
  tellDamage({
    path: damage.path,
    why: damage.why,
    done: `nobody can use the sandbox ${basename(directory)} any more, and it goes when its command ends`,
  });
  return undefined;
}

/** The domain of the sandbox in `directory`, which is named by its id. */
export function domainOf(paths: StatePaths, directory: string): string {
  return `${domainPrefix(paths)}${basename(directory)}`;
}

/** So long a parked sandbox waits for a claim, milliseconds: whoever parked it is not in a hurry any more then. */
export const PARKED_LIFETIME = 30 * 60_000;

/** A clock that was set back by so much, milliseconds, says nothing of a sandbox's age. */
const SET_BACK = 60_000;

/** Whether a parked sandbox has waited for too long: its init has ended by itself, or is about to. */
export function isExpired(record: SandboxRecord, now: number): boolean {
  const age = now - record.created;
  return age >= PARKED_LIFETIME || age < -SET_BACK;
}

/** Replaces sandbox.json as a whole. It has arguments and variables of commands: nobody else reads it. */
export function writeSandboxRecord(directory: string, record: SandboxRecord): void {
  writeRecord(sandboxFiles.record(directory), record);
}

/** Where a sandbox lives, for what it has claimed. */
export function sandboxOwner(paths: StatePaths, id: string): Owner {
  return join(paths.sandboxes, id);
}
