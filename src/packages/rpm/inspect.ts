/** One package, read and checked. Runs in the confined child. */
import { formatDependency } from './dependency.ts';
import { checkDigests, type DigestDepth, digestFaults } from './digests.ts';
import {
  type RpmDependencyKind,
  type RpmFile,
  type RpmPackage,
  type RpmSignature,
  rpmError,
} from './package.ts';
import { type RpmSections, readSections } from './sections.ts';
import type { Keyring } from './signature/keyring.ts';
import { checkSignatures, signatureVerdict } from './signature/package-signatures.ts';

interface InspectOptions {
  readonly depth: DigestDepth;
  readonly keyring: Keyring;
}

interface Checked {
  readonly digests: RpmPackage['digests'];
  readonly signatures: RpmPackage['signatures'];
}

/**
 * What is wrong with digests and signatures is in the result; a file that cannot be read at all throws.
 * @param describe {@link describePackage}, or {@link describeIdentity} where that is enough
 */
export function inspect<Description>(
  fd: number,
  { depth, keyring }: InspectOptions,
  describe: (fd: number, sections: RpmSections) => Description,
): Description & Checked {
  const sections = readSections(fd);
  const digests = checkDigests(fd, sections, depth);
  const wrongHeader = digests.some(({ scope, status }) => scope === 'header' && status === 'bad');
  if (wrongHeader) throw rpmError('E_RPM_DIGEST', digestFaults(digests)[0]!);
  const signatures = checkSignatures(fd, sections, keyring, depth !== 'header');
  return { ...describe(fd, sections), digests, signatures };
}

/** `allow-unsigned`: unsigned, or signed by unknown keys, is good enough; a wrong signature never is. */
export type SignaturePolicy = 'require' | 'allow-unsigned';

export function assertTrusted(rpm: Checked, policy: SignaturePolicy): void {
  const [fault] = digestFaults(rpm.digests);
  if (fault !== undefined) {
    throw rpmError('E_RPM_DIGEST', fault, { hint: 'download it again' });
  }
  assertSigned(rpm.signatures, policy);
}

export function assertSigned(signatures: RpmPackage['signatures'], policy: SignaturePolicy): void {
  const verdict = signatureVerdict(signatures);
  if (verdict === 'broken') {
    const wrong = signatures.find(({ status }) => status === 'bad')!;
    throw rpmError(
      'E_RPM_SIGNATURE',
      `its signature by ${madeBy(wrong)} is wrong: ${wrong.reason}`,
    );
  }
  if (verdict === 'trusted' || policy === 'allow-unsigned') return;
  const hint = 'name the key of whoever made it, or switch the check off for its repository';
  const weak = signatures.find(({ status }) => status === 'unsupported');
  if (weak !== undefined) {
    throw rpmError(
      'E_RPM_SIGNATURE',
      `its signature by ${madeBy(weak)} cannot be trusted: ${weak.reason}`,
      {
        hint: 'rpm does not trust it, by its crypto policy (docs/repositories.md): it must be signed again',
      },
    );
  }
  const signers = signatures.map(({ keyId, algorithm }) => `${keyId} (${algorithm})`);
  throw rpmError(
    'E_RPM_SIGNATURE',
    signers.length === 0
      ? 'it is not signed'
      : `it is signed by ${signers.join(' and ')}, not by a key that is trusted here`,
    { hint },
  );
}

function madeBy({ signer, keyId, algorithm }: RpmSignature): string {
  return `${signer ?? 'unknown'} (key ${keyId === '' ? 'unknown' : keyId}, ${algorithm})`;
}

/* The object `kiln rpm query --json` prints for a package: what scripts rely on. */

export function octalMode(mode: number): string {
  return `0${(mode & 0o7777).toString(8).padStart(3, '0')}`;
}

function fileJson(file: RpmFile, algorithm: string) {
  return {
    path: file.path,
    type: file.type,
    mode: octalMode(file.mode),
    owner: file.owner,
    group: file.group,
    size: file.size,
    mtime: file.mtime,
    digest: file.digest === null ? null : `${algorithm}:${file.digest}`,
    linkTarget: file.linkTarget,
    flags: file.flags,
    caps: file.caps,
  };
}

export function queryJson(file: string, rpm: RpmPackage) {
  const list = (kind: RpmDependencyKind) => rpm.dependencies[kind].map(formatDependency);
  return {
    file,
    name: rpm.name,
    epoch: rpm.epoch,
    version: rpm.version,
    release: rpm.release,
    arch: rpm.arch,
    summary: rpm.summary,
    license: rpm.license,
    sourceRpm: rpm.sourceRpm,
    buildTime: rpm.buildTime,
    payloadCompressor: rpm.payload.compressor,
    formatVersion: rpm.formatVersion,
    packageSize: rpm.packageSize,
    installedSize: rpm.installedSize,
    requires: list('requires'),
    provides: list('provides'),
    conflicts: list('conflicts'),
    obsoletes: list('obsoletes'),
    recommends: list('recommends'),
    suggests: list('suggests'),
    supplements: list('supplements'),
    enhances: list('enhances'),
    scriptlets: rpm.scriptlets,
    triggers: rpm.triggers.map(({ conditions, ...trigger }) => ({
      ...trigger,
      conditions: conditions.map(formatDependency),
    })),
    fileTriggers: rpm.fileTriggers,
    signatures: rpm.signatures,
    digests: rpm.digests,
    files: rpm.files.map((entry) => fileJson(entry, rpm.fileDigestAlgorithm)),
  };
}
