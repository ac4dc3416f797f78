/** Signatures of packages that are not unpacked now: those of the store, and those that rpm itself installs. */
import { KilnError } from '../../errors.ts';
import type { Lock, LockedPackage } from '../../repository/lock.ts';
import { readTrust, type Trust } from '../../repository/trust.ts';
import { assertSigned, assertTrusted } from '../../rpm/inspect.ts';
import type { RpmIdentity } from '../../rpm/package.ts';
import { readIdentities } from '../../rpm/read.ts';
import { signatureVerdict } from '../../rpm/signature-packet.ts';
import type { StatePaths } from '../../state/paths.ts';
import { span } from '../../trace/trace.ts';
import { checkIdentity } from './check-identity.ts';
import { meets, noteCheck } from './checks.ts';
import { packageDirectory } from './entry.ts';

/** Gets package files, in the order that is asked for. */
type GetFiles = (packages: readonly LockedPackage[]) => Promise<readonly string[]>;

interface CheckOptions {
  /** Asked only for what the store's header cannot show: old signatures cover the payload as well. */
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
 * Makes sure that package files are signed as their lock asks for. Those of repositories without keys
 * are not read at all.
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

/** Packages by what they must be signed by; those that need not be, and have no keys, are left out. */
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

/** Whether only the whole file shows what the signatures are worth. */
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
  for await (const result of readIdentities(files, { keys, depth: 'payload', signal })) {
    if (result.error !== undefined) throw result.error;
    const { package: found } = result;
    const wanted = packages[result.index]!;
    naming(wanted, () => assertTrusted(found, policy));
    checkIdentity(wanted, found);
    yield [wanted, found];
  }
}

/** Does something about a package; what that throws names it. */
function naming({ nevra }: LockedPackage, act: () => void): void {
  try {
    act();
  } catch (error) {
    if (!(error instanceof KilnError)) throw error;
    throw new KilnError(error.code, `${nevra}: ${error.message}`, {
      cause: error,
      ...(error.hint === undefined ? {} : { hint: error.hint }),
    });
  }
}
