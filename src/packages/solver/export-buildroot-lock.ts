import { pathToFileURL } from 'node:url';
import { KilnError } from '../../errors.ts';
import { packageUrls } from '../repository/fetch-packages.ts';
import type { Lock, LockedPackage } from '../repository/lock/lock.ts';
import type { OpenOptions } from '../repository/open.ts';
import type { RpmPackage } from '../rpm/package.ts';
import { readRpms } from '../rpm/read.ts';

/** A package in {@link BuildrootLock}. */
interface BuildrootRpm {
  readonly name: string;
  readonly arch: string;
  readonly epoch: string | null;
  readonly version: string;
  readonly release: string;
  readonly license: string;
  readonly sigmd5: string;
  /** The last eight digits of the id of the key that signed it. */
  readonly signature: string | null;
  /** Of the package itself. */
  readonly url: string;
}

/** mock's buildroot_lock.json (its docs/buildroot-lock-schema-1.1.0.json). */
export interface BuildrootLock {
  readonly version: string;
  readonly buildroot: { readonly rpms: readonly BuildrootRpm[] };
  readonly config: { readonly target_arch: string; readonly legal_host_arches: readonly string[] };
}

/**
 * Writes a lock as mock's buildroot_lock.json. It lacks mock's `bootstrap`, for kiln has none.
 * @param files the packages' paths by digest, as `fetchPackages` gives them: the format wants what
 * only their headers say.
 * @param others packages that are not in `lock`, from an earlier one
 * @throws KilnError E_RPM_…; E_DOWNLOAD if the mirrors of a repository cannot be found out.
 */
export async function exportBuildrootLock(
  lock: Lock,
  files: ReadonlyMap<string, string>,
  options: Omit<OpenOptions, 'refresh'>,
  others: readonly BuildrootRpm[] = [],
): Promise<BuildrootLock> {
  const urls = await packageUrls(lock, options);
  const paths = lock.packages.map(({ digest }) => files.get(digest) ?? '');
  const rpms: BuildrootRpm[] = [...others];
  for await (const result of readRpms(paths, { signal: options.signal })) {
    if (result.error !== undefined) throw result.error;
    const entry = lock.packages[result.index];
    if (entry !== undefined) rpms.push(describe(entry, result.package, urls, result.file));
  }
  // mock sorts by name and architecture.
  rpms.sort((a, b) => compare(`${a.name} ${a.arch}`, `${b.name} ${b.arch}`));
  const { arch } = lock;
  return {
    version: '1.1.0',
    buildroot: { rpms },
    config: { target_arch: arch, legal_host_arches: [arch] },
  };
}

function describe(
  entry: LockedPackage,
  found: RpmPackage,
  urls: ReadonlyMap<string, string>,
  path: string,
): BuildrootRpm {
  const { name, arch, version, release, epoch, license } = found;
  const digest = found.digests.find(
    ({ scope, algorithm }) => scope === 'header+payload' && algorithm === 'md5',
  );
  if (digest === undefined) {
    throw new KilnError('E_LOCK_EXPORT', `${entry.nevra} has no MD5 of header and payload`, {
      hint: "packages of RPM's format 6 have none; a buildroot lock cannot name them",
    });
  }
  const [signature] = found.signatures;
  return {
    name,
    arch,
    version,
    release,
    epoch: epoch === null ? null : String(epoch),
    license,
    sigmd5: digest.expected,
    signature: signature === undefined ? null : signature.keyId.slice(-8),
    url: urls.get(entry.digest) ?? pathToFileURL(path).href,
  };
}

function compare(a: string, b: string): number {
  return a < b ? -1 : a > b ? 1 : 0;
}
