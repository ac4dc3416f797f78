/**
 * By which keys an entry of the store was checked. What was let in unchecked, or by other keys, is no
 * good to whoever checks: he checks it again.
 */
import type { Trust } from '../../repository/trust.ts';
import type { RpmSignature } from '../../rpm/package.ts';
import { signatureVerdict } from '../../rpm/signature-packet.ts';
import { dropCached, findRecord, withFields, writeRecord } from '../../state/checked-file.ts';

/** Keys that an entry was checked with, and what they said. */
interface KeyCheck {
  /** Names the keys, as Trust.digest. */
  readonly keys: string;
  /** Fingerprint of the key among them that signed the package; null: none did, and none need. */
  readonly signer: string | null;
}

/** Checks that are remembered, the newest: so many sets of keys may share a store. */
const KEPT = 32;

const FORMAT = 1;

interface Checks {
  readonly format: typeof FORMAT;
  readonly checks: readonly KeyCheck[];
}

const takeChecks = withFields<Checks>({ format: 'number', checks: 'array' });

function checksFile(directory: string): string {
  return `${directory}/checks.json`;
}

/** Whether an entry is known to be signed as is asked for. Nothing is known of one without a note, or a damaged one. */
export function meets(directory: string, { policy, keys, digest }: Trust): boolean {
  if (keys.length === 0) return policy === 'allow-unsigned';
  return readChecks(directory).some(
    (check) => check.keys === digest && (policy === 'allow-unsigned' || check.signer !== null),
  );
}

/** Notes what keys said of the package whose entry is in `directory`; nothing for signatures that are wrong. */
export function noteCheck(
  directory: string,
  { keys, digest }: Trust,
  signatures: readonly RpmSignature[],
): void {
  if (keys.length === 0 || signatureVerdict(signatures) === 'broken') return;
  const signer = signatures.find(({ status }) => status === 'ok')?.fingerprint ?? null;
  const others = readChecks(directory).filter((check) => check.keys !== digest);
  const checks: KeyCheck[] = [...others, { keys: digest, signer }].slice(-KEPT);
  writeRecord(checksFile(directory), { format: FORMAT, checks } satisfies Checks);
}

function readChecks(directory: string): readonly KeyCheck[] {
  const { value, damage } = findRecord(checksFile(directory), takeChecks);
  if (damage !== undefined) dropCached(damage);
  return value?.format === FORMAT ? value.checks.filter(isCheck) : [];
}

function isCheck(value: unknown): value is KeyCheck {
  if (typeof value !== 'object' || value === null) return false;
  const { keys, signer } = value as Partial<KeyCheck>;
  return typeof keys === 'string' && (signer === null || typeof signer === 'string');
}
