import { KilnError } from '../../errors.ts';
import type { ImageManifest } from '../../image/store/manifest.ts';

/** The last id of a sandbox's range. */
const LAST_ID = 65535;

/** The user that a command runs as. */
export interface CommandUser {
  /** UID:GID for the guest init, which then need not look up names. */
  readonly spec: string;
  readonly uid: number;
  readonly gid: number;
}

/**
 * Resolves NAME|UID[:GID] by the accounts that the image had when it was built. Without `wanted` it is the
 * image's own user. Throws E_NO_USER.
 */
export function commandUser(manifest: ImageManifest, wanted: string | undefined): CommandUser {
  if (wanted === undefined) return user(manifest.user.uid, manifest.user.gid);
  const [name = '', group, ...more] = wanted.split(':');
  const account = manifest.accounts.find(
    (candidate) => candidate.name === name || String(candidate.uid) === name,
  );
  const uid = account?.uid ?? number(name);
  const gid = group === undefined ? (account?.gid ?? uid) : number(group);
  if (uid !== undefined && gid !== undefined && more.length === 0) return user(uid, gid);
  const names = manifest.accounts.map((candidate) => candidate.name);
  throw new KilnError('E_NO_USER', `image ${manifest.name} has no user ${wanted}`, {
    hint: `it has: ${names.slice(0, 20).join(', ')}; or give numbers up to ${LAST_ID} as UID:GID`,
  });
}

function number(text: string): number | undefined {
  return /^\d{1,5}$/.test(text) && Number(text) <= LAST_ID ? Number(text) : undefined;
}

function user(uid: number, gid: number): CommandUser {
  return { spec: `${uid}:${gid}`, uid, gid };
}
