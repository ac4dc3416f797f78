/** Signatures of packages that are not unpacked now: those in the store, and those that rpm installs. */
import { availableParallelism } from 'node:os';
import { KilnError } from '../../errors.ts';
import { findCached, withFields, writeRecord } from '../../host/state/checked-file.ts';
import type { StatePaths } from '../../host/state/paths.ts';
import { span } from '../../host/trace/trace.ts';
import type { Lock, LockedPackage, LockedRepository } from '../../packages/repository/lock/lock.ts';
import { mapParallel } from '../../packages/repository/open.ts';
import { readTrust, type Trust } from '../../packages/repository/trust/keys.ts';
import { assertSigned, assertTrusted } from '../../packages/rpm/inspect.ts';
import type { RpmIdentity, RpmSignature } from '../../packages/rpm/package.ts';
import { readIdentities } from '../../packages/rpm/read.ts';
import { signatureVerdict } from '../../packages/rpm/signature/package-signatures.ts';
import { packageDirectory } from './entry.ts';

/* An entry of the store that came in unchecked, or was checked with other keys, is checked again. */

interface KeyCheck {
  readonly keys: string;
  readonly signer: string | null;
}

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

function meets(directory: string, { policy, keys, digest }: Trust): boolean {
  if (keys.length === 0) return policy === 'allow-unsigned';
  return readChecks(directory).some(
    (check) => check.keys === digest && (policy === 'allow-unsigned' || check.signer !== null),
  );
}

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
  const value = findCached(checksFile(directory), takeChecks);
  return value?.format === FORMAT ? value.checks.filter(isCheck) : [];
}

function isCheck(value: unknown): value is KeyCheck {
  if (typeof value !== 'object' || value === null) return false;
  const { keys, signer } = value as Partial<KeyCheck>;
  return typeof keys === 'string' && (signer === null || typeof signer === 'string');
}

/** A repository cannot pass off another package. @throws KilnError E_LOCK_MISMATCH */
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
    { hint: 'make the lock again: its repository is inconsistent' },
  );
}

export interface Confinement {
  /**
   * Each package has a confined child of its own: users' recipes and builds can put a package that takes its child over
   * beside others, which root's images may have as well.
   */
  readonly apart?: boolean | undefined;
  readonly signal?: AbortSignal | undefined;
}

interface CheckOptions extends Confinement {
  /** Called only for old signatures, which cover the payload as well. */
  readonly getFiles: (packages: readonly LockedPackage[]) => Promise<readonly string[]>;
}

/** Hands all packages to the same children, or each to one of its own. */
export async function confined<Item, Result>(
  items: readonly Item[],
  { apart = false, signal }: Confinement,
  work: (items: readonly Item[], signal: AbortSignal) => Promise<Result>,
): Promise<Result[]> {
  const groups = apart ? items.map((item) => [item]) : [items];
  return await mapParallel(groups, availableParallelism(), signal, work);
}

/**
 * Entries are to be signed as their lock asks, each by its repository's keys; what was checked with those is
 * not checked again.
 * @param packages of the lock, all of them in the store
 * @returns those whose header is damaged: nothing is known of them
 * @throws KilnError E_RPM_SIGNATURE, E_RPM_DIGEST, E_KEY_MISSING, E_KEYRING
 */
export async function checkStored(
  paths: StatePaths,
  repositories: readonly LockedRepository[],
  packages: readonly LockedPackage[],
  { getFiles, ...confinement }: CheckOptions,
): Promise<LockedPackage[]> {
  const damaged: LockedPackage[] = [];
  const directory = ({ digest }: LockedPackage) => packageDirectory(paths, digest);
  for (const [trust, members] of await byTrust(repositories, packages)) {
    const unknown = members.filter((wanted) => !meets(directory(wanted), trust));
    if (unknown.length === 0) continue;
    using _ = span('check what is stored');
    const whole: LockedPackage[] = [];
    await confined(unknown, confinement, async (members, signal) => {
      const headers = members.map((wanted) => `${directory(wanted)}/header.rpm`);
      for await (const result of readIdentities(headers, { keys: trust.keys, signal })) {
        const wanted = members[result.index]!;
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
    });
    if (whole.length === 0) continue;
    const named = withFiles(whole, await getFiles(whole));
    await checkTrusted(named, trust, confinement, (wanted, found) =>
      noteCheck(directory(wanted), trust, found.signatures),
    );
  }
  return damaged;
}

/**
 * Files of repositories without keys are not read.
 * @param files in the order of the lock
 * @throws KilnError E_RPM_SIGNATURE, E_RPM_DIGEST, E_LOCK_MISMATCH, E_KEY_MISSING, E_KEYRING
 */
export async function checkFiles(
  lock: Lock,
  files: readonly string[],
  confinement: Confinement,
): Promise<void> {
  const named = withFiles(lock.packages, files);
  for (const [trust, members] of await byTrust(lock.repositories, lock.packages)) {
    const theirs = named.filter(({ locked }) => members.includes(locked));
    await checkTrusted(theirs, trust, confinement);
  }
}

export interface PackageFile {
  readonly locked: LockedPackage;
  readonly file: string;
}

function withFiles(packages: readonly LockedPackage[], files: readonly string[]): PackageFile[] {
  return packages.map((locked, index) => ({ locked, file: files[index]! }));
}

async function byTrust(
  repositories: readonly LockedRepository[],
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

function coversPayload({ signatures }: RpmIdentity): boolean {
  return (
    signatureVerdict(signatures) === 'untrusted' &&
    signatures.some(({ status }) => status === 'unchecked')
  );
}

async function checkTrusted(
  packages: readonly PackageFile[],
  { keys, policy }: Trust,
  confinement: Confinement,
  onChecked?: (wanted: LockedPackage, found: RpmIdentity) => void,
): Promise<void> {
  await confined(packages, confinement, async (named, signal) => {
    const files = named.map(({ file }) => file);
    const results = readIdentities(files, { keys, depth: 'payload', signal });
    for await (const result of namingPackages(results, named)) {
      if (result.error !== undefined) throw aboutPackages(result.error, named);
      const { package: found } = result;
      const wanted = named[result.index]!.locked;
      naming(wanted, () => assertTrusted(found, policy));
      checkIdentity(wanted, found);
      onChecked?.(wanted, found);
    }
  });
}

function nameOf({ nevra, repository }: LockedPackage): string {
  return `${nevra} of repository ${repository}`;
}

export function aboutPackages(error: unknown, packages: readonly PackageFile[]): unknown {
  if (!(error instanceof KilnError)) return error;
  const named = packages.filter(({ file }) => error.message.includes(file));
  if (named.length === 0) return error;
  const message = named.reduce(
    (text, { locked, file }) => text.replaceAll(file, nameOf(locked)),
    error.message,
  );
  return new KilnError(error.code, message, {
    cause: error.cause,
    hint: error.hint,
    details: { ...error.details, files: named.map(({ file }) => file) },
  });
}

export async function* namingPackages<Result>(
  results: AsyncIterable<Result>,
  packages: readonly PackageFile[],
): AsyncGenerator<Result, void, undefined> {
  try {
    yield* results;
  } catch (error) {
    throw aboutPackages(error, packages);
  }
}

function naming(locked: LockedPackage, act: () => void): void {
  try {
    act();
  } catch (error) {
    if (!(error instanceof KilnError)) throw error;
    throw new KilnError(error.code, `${nameOf(locked)}: ${error.message}`, {
      cause: error,
      hint: error.hint,
    });
  }
}
