/** Checks signatures of packages that are not unpacked now: those in the store, and those that rpm installs. */
import { KilnError } from '../../errors.ts';
import { dropCached, findRecord, withFields, writeRecord } from '../../host/state/checked-file.ts';
import type { StatePaths } from '../../host/state/paths.ts';
import { span } from '../../host/trace/trace.ts';
import type { Lock, LockedPackage } from '../../packages/repository/lock/lock.ts';
import { readTrust, type Trust } from '../../packages/repository/trust/trust.ts';
import { assertSigned, assertTrusted } from '../../packages/rpm/inspect.ts';
import type { RpmIdentity, RpmSignature } from '../../packages/rpm/package.ts';
import { readIdentities } from '../../packages/rpm/read.ts';
import { signatureVerdict } from '../../packages/rpm/signature/signature-packet.ts';
import { aboutPackages, nameOf, naming, namingPackages } from './about-package.ts';
import { packageDirectory } from './entry.ts';

/*
 * Notes which keys an entry of the store was checked with. An entry that came in unchecked, or was checked with
 * other keys, is checked again.
 */

/** The keys that an entry was checked with, and the result. */
interface KeyCheck {
  /** Identifies the keys, as Trust.digest. */
  readonly keys: string;
  /** The fingerprint of the key that signed the package; null if none did and none had to. */
  readonly signer: string | null;
}

/** How many checks are remembered, the newest: this many sets of keys may share a store. */
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

/**
 * Whether an entry is known to be signed as the trust settings ask. Without a note, or with a damaged one, it
 * is not.
 */
function meets(directory: string, { policy, keys, digest }: Trust): boolean {
  if (keys.length === 0) return policy === 'allow-unsigned';
  return readChecks(directory).some(
    (check) => check.keys === digest && (policy === 'allow-unsigned' || check.signer !== null),
  );
}

/** Notes the result of checking the package in `directory`; wrong signatures are not noted. */
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

/**
 * Checks that a file is the package that the lock names, so that a repository cannot pass off another one.
 * @throws KilnError E_LOCK_MISMATCH
 */
export function checkIdentity(locked: LockedPackage, found: RpmIdentity): void {
  const same =
    found.name === locked.name &&
    (found.epoch ?? 0) === locked.epoch &&
    found.version === locked.version &&
    found.release === locked.release &&
    found.arch === locked.arch;
  if (same) return;
  throw new KilnError(
    'E_LOCK_MISMATCH',
    `the file of ${nameOf(locked)} holds ${found.name}-${found.version}-${found.release}.${found.arch}`,
    { hint: 'make the lock anew: its repository is inconsistent' },
  );
}

/** Gets package files in the requested order. */
type GetFiles = (packages: readonly LockedPackage[]) => Promise<readonly string[]>;

interface CheckOptions {
  /** Called only when the header is not enough: old signatures cover the payload as well. */
  readonly getFiles: GetFiles;
  readonly signal?: AbortSignal | undefined;
}

/**
 * Makes sure that entries of the store are signed as their lock asks for, each by its repository's
 * keys; what has been checked with those before is not checked again.
 * @param packages of the lock, all of them in the store
 * @returns those whose header is damaged: nothing is known of them
 * @throws KilnError E_RPM_SIGNATURE, E_RPM_DIGEST, E_KEY_MISSING, E_KEYRING
 */
export async function checkStored(
  paths: StatePaths,
  lock: Pick<Lock, 'repositories'>,
  packages: readonly LockedPackage[],
  { getFiles, signal }: CheckOptions,
): Promise<LockedPackage[]> {
  const damaged: LockedPackage[] = [];
  const directory = ({ digest }: LockedPackage) => packageDirectory(paths, digest);
  for (const [trust, members] of await byTrust(lock, packages)) {
    const unknown = members.filter((wanted) => !meets(directory(wanted), trust));
    if (unknown.length === 0) continue;
    using _ = span('check what is stored');
    const whole: LockedPackage[] = [];
    const headers = unknown.map((wanted) => `${directory(wanted)}/header.rpm`);
    for await (const result of readIdentities(headers, { keys: trust.keys, signal })) {
      const wanted = unknown[result.index]!;
      const { package: found } = result;
      if (found === undefined) {
        damaged.push(wanted);
      } else if (coversPayload(found)) {
        whole.push(wanted);
      } else {
        naming(wanted, () => assertSigned(found.signatures, trust.policy));
        noteCheck(directory(wanted), trust, found.signatures);
      }
    }
    if (whole.length === 0) continue;
    const files = await getFiles(whole);
    for await (const [wanted, found] of readTrusted(whole, files, trust, signal)) {
      noteCheck(directory(wanted), trust, found.signatures);
    }
  }
  return damaged;
}

/**
 * Checks that package files are signed as their lock asks. Files of repositories without keys are not read.
 * @param files in the order of the lock
 * @throws KilnError E_RPM_SIGNATURE, E_RPM_DIGEST, E_LOCK_MISMATCH, E_KEY_MISSING, E_KEYRING
 */
export async function checkFiles(
  lock: Pick<Lock, 'repositories' | 'packages'>,
  files: readonly string[],
  signal: AbortSignal | undefined,
): Promise<void> {
  const places = new Map(lock.packages.map((wanted, index) => [wanted, files[index]!]));
  for (const [trust, members] of await byTrust(lock, lock.packages)) {
    const theirs = members.map((wanted) => places.get(wanted)!);
    for await (const _ of readTrusted(members, theirs, trust, signal));
  }
}

/**
 * Packages grouped by the keys that must have signed them. Packages that need no signature and have no keys are
 * left out.
 */
async function byTrust(
  { repositories }: Pick<Lock, 'repositories'>,
  packages: readonly LockedPackage[],
): Promise<[Trust, LockedPackage[]][]> {
  const groups: [Trust, LockedPackage[]][] = [];
  for (const repository of repositories) {
    const members = packages.filter((wanted) => wanted.repository === repository.id);
    const asksNothing = !repository.gpgcheck && repository.gpgkey.length === 0;
    if (members.length === 0 || asksNothing) continue;
    groups.push([await readTrust(repository), members]);
  }
  return groups;
}

/** Whether checking the signatures needs the whole file. */
function coversPayload({ signatures }: RpmIdentity): boolean {
  return (
    signatureVerdict(signatures) === 'untrusted' &&
    signatures.some(({ status }) => status === 'unchecked')
  );
}

async function* readTrusted(
  packages: readonly LockedPackage[],
  files: readonly string[],
  { keys, policy }: Trust,
  signal: AbortSignal | undefined,
): AsyncGenerator<[LockedPackage, RpmIdentity]> {
  const named = packages.map((locked, index) => ({ locked, file: files[index]! }));
  const results = readIdentities(files, { keys, depth: 'payload', signal });
  for await (const result of namingPackages(results, named)) {
    if (result.error !== undefined) throw aboutPackages(result.error, named);
    const { package: found } = result;
    const wanted = packages[result.index]!;
    naming(wanted, () => assertTrusted(found, policy));
    checkIdentity(wanted, found);
    yield [wanted, found];
  }
}
