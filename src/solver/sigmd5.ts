import type { RpmPackage } from '../rpm/package.ts';

/** RPMTAG_SIGMD5 (the MD5 of header and payload) in hex, or '' for a package without. */
export function sigmd5(found: RpmPackage): string {
  const digest = found.digests.find(
    ({ scope, algorithm }) => scope === 'header+payload' && algorithm === 'md5',
  );
  return digest?.expected ?? '';
}
