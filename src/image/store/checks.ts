/**
 * By which keys an entry of the store was checked. What was let in unchecked, or by other keys, is no
 * good to whoever checks: he checks it again.
 */
import { randomUUID } from 'node:crypto';
import { readFileSync, renameSync, writeFileSync } from 'node:fs';
import type { Trust } from '../../repository/trust.ts';
import type { RpmSignature } from '../../rpm/package.ts';
import { signatureVerdict } from '../../rpm/signatures.ts';

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
  const file = checksFile(directory);
  const temporary = `${file}.${randomUUID()}`;
  writeFileSync(temporary, JSON.stringify({ format: FORMAT, checks }), { mode: 0o600 });
  renameSync(temporary, file);
}

function readChecks(directory: string): readonly KeyCheck[] {
  try {
    const found: unknown = JSON.parse(readFileSync(checksFile(directory), 'utf8'));
    const { format, checks } = found as { format?: unknown; checks?: unknown };
    return format === FORMAT && Array.isArray(checks) ? checks.filter(isCheck) : [];
  } catch {
    return [];
  }
}

function isCheck(value: unknown): value is KeyCheck {
  if (typeof value !== 'object' || value === null) return false;
  const { keys, signer } = value as Partial<KeyCheck>;
  return typeof keys === 'string' && (signer === null || typeof signer === 'string');
}
