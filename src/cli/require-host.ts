import { KilnError } from '../errors.ts';
import { hasProc } from '../host/process/process.ts';

/**
 * Refuses a caller or host on which every command would fail. Without this check each command fails in its own
 * way, or shows an empty list of what it cannot read.
 * @throws KilnError E_NOT_ROOT, E_NO_PROC
 */
export function requireHost(): void {
  const uid = process.geteuid?.() ?? 0;
  if (uid !== 0) {
    throw new KilnError('E_NOT_ROOT', `only root can do this, and kiln runs as user ${uid}`, {
      hint: 'run it as root, for example with sudo, or have root put you into the group kiln, and leave KILN_STATE unset: `kiln doctor users` says what is missing; `kiln rpm query` and `verify` need no root',
    });
  }
  if (!hasProc()) {
    throw new KilnError('E_NO_PROC', '/proc is not mounted', {
      hint: 'mount it: mount -t proc proc /proc',
    });
  }
}
