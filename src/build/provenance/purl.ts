/** A package version, as locks and headers have it. */
export interface PackageVersion {
  readonly name: string;
  readonly epoch: number | null;
  readonly version: string;
  readonly release: string;
  /** `src` for a source package. */
  readonly arch: string;
}

/**
 * The package URL of an RPM: `pkg:rpm/zlib@1.3.1-4?arch=x86_64&epoch=1`. Without a namespace, which
 * would be the distribution's name: a lock does not say it. Source: purl-spec, type `rpm`.
 */
export function rpmPurl({ name, epoch, version, release, arch }: PackageVersion): string {
  const qualifiers = [`arch=${encode(arch)}`, ...(epoch ? [`epoch=${epoch}`] : [])];
  return `pkg:rpm/${encode(name)}@${encode(`${version}-${release}`)}?${qualifiers.join('&')}`;
}

/** `[epoch:]version-release`, epoch 0 left out. */
export function fullVersion({ epoch, version, release }: PackageVersion): string {
  return `${epoch ? `${epoch}:` : ''}${version}-${release}`;
}

function encode(text: string): string {
  return encodeURIComponent(text.toWellFormed());
}
