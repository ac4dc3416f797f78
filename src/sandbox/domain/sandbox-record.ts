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
  /** The skeleton that it started in. A sandbox with another version of kiln-init is not claimed. */
  readonly skeleton: string;
  readonly network: DomainOptions['network'];
  /** Its SELinux or AppArmor labels; absent on a host without either. */
  readonly labels?: SandboxLabels;
  /** Set while the sandbox waits for a claim. */
  readonly parked?: true;
  /** The image, once the sandbox is claimed: the image cannot be deleted then. */
  readonly image?: string;
  readonly command?: readonly string[];
  /** The user id of its owner; absent if it is root's. */
  readonly owner?: number;
  /** How long a kept sandbox lives without an owner. */
  readonly keepUntil?: number;
  /** How commands run in a kept sandbox: those who return get the same policy. */
  readonly session?: SandboxSession;
}

/** What another command in a kept sandbox needs to run as the first one did. */
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
  /** Locked while the sandbox's owner lives. */
  lock: (directory: string) => join(directory, 'owner.lock'),
  /**
   * Belongs to the sandbox's root. Before the claim it is the only folder of the host that the sandbox sees.
   */
  socketDirectory: (directory: string) => join(directory, 'init'),
  socket: (directory: string) => join(directory, 'init', 'init.sock'),
};

/** The prefix of domain names of this state directory. */
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
 * Reads sandbox.json. Undefined if it is missing (its maker died early, or the sandbox is gone), or damaged.
 * Damage is reported, and the sweep removes the sandbox once nobody owns it.
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

/** The domain of the sandbox in `directory`, whose name is the sandbox's id. */
export function domainOf(paths: StatePaths, directory: string): string {
  return `${domainPrefix(paths)}${basename(directory)}`;
}

/** How long a parked sandbox waits for a claim, milliseconds. */
export const PARKED_LIFETIME = 30 * 60_000;

/** If the clock was set back by more, milliseconds, times say nothing about a sandbox's age. */
const SET_BACK = 60_000;

/** Whether a parked sandbox has expired: its init has ended by itself, or is about to. */
export function isExpired(record: SandboxRecord, now: number): boolean {
  const age = now - record.created;
  return age >= PARKED_LIFETIME || age < -SET_BACK;
}

/** Replaces sandbox.json as a whole. Only root can read it: it contains arguments and variables of commands. */
export function writeSandboxRecord(directory: string, record: SandboxRecord): void {
  writeRecord(sandboxFiles.record(directory), record);
}

/** The owner of a sandbox's claims. */
export function sandboxOwner(paths: StatePaths, id: string): Owner {
  return join(paths.sandboxes, id);
}
