import type { RpmPackage } from '../../packages/rpm/package.ts';

/** RPMSENSE_EQUAL of rpm/rpmds.h. */
const RPMSENSE_EQUAL = 8;

/**
 * The users and groups a package brings, as lines of sysusers.d(5). Since rpm 4.19 they are the
 * versions (base64) of its `user(NAME)`, `group(NAME)` and `groupmember(USER/GROUP)` provides.
 */
export function sysusersLines(of: RpmPackage): string[] {
  return of.dependencies.provides
    .filter(
      ({ name, flags }) =>
        /^(?:user|group|groupmember)\(/.test(name) && (flags & RPMSENSE_EQUAL) !== 0,
    )
    .map(({ version }) => decode(version))
    .filter((line) => line !== undefined);
}

/** Undefined if it is not base64: then it is an ordinary version, as in rpm. */
function decode(version: string): string | undefined {
  if (!/^[A-Za-z0-9+/\s]+={0,2}$/.test(version) || version.length % 4 !== 0) return undefined;
  return Buffer.from(version, 'base64').toString('utf8').replace(/\0.*$/s, '');
}
