import { KilnError } from '../../errors.ts';
import type { StatePaths } from '../../host/state/paths.ts';
import { withCoreGuard, withSetIdGuard } from '../seccomp/guard.ts';
import { seccompFilter } from '../seccomp/profile.ts';
import { type Capability, ROOT_CAPABILITIES } from './capabilities.ts';
import { refuseCopyUp } from './host-write.ts';
import { landlockWalls, mayMount } from './landlock.ts';
import type { CommandPolicy } from './specification.ts';
import type { Surroundings } from './surroundings.ts';

/** What a command's policy is made from, beside its sandbox. */
export interface PolicyRequest {
  /** NAME|UID[:GROUP|GID], names as in the image's /etc/passwd. */
  readonly user: string;
  readonly capabilities: readonly Capability[];
  /** One of kiln's profiles, or the path of a profile; chosenProfile() checks what a person chose. */
  readonly seccomp: string;
  /** The capabilities by which the profile decides, if they differ from the command's. */
  readonly seccompCapabilities?: readonly Capability[];
}

/**
 * The capabilities of a user: root's defaults and the added ones. Throws E_ARGUMENT for SETFCAP if the command
 * can write to files of the host.
 */
export function userCapabilities(
  uid: number,
  capAdd: readonly Capability[],
  surroundings: Pick<Surroundings, 'hostFiles' | 'userNamespaces'>,
): Capability[] {
  if (withoutSetfcap(surroundings) && capAdd.includes('SETFCAP')) {
    throw new KilnError(
      'E_ARGUMENT',
      'the capability SETFCAP cannot be combined with a writable bind',
      {
        hint: 'a file with capabilities would have them on the host, too: bind read-only (SRC:DST:ro)',
      },
    );
  }
  return commandCapabilities([...(uid === 0 ? ROOT_CAPABILITIES : []), ...capAdd], surroundings);
}

function commandCapabilities(
  wanted: readonly Capability[],
  surroundings: Pick<Surroundings, 'hostFiles' | 'userNamespaces'>,
): Capability[] {
  const without = withoutSetfcap(surroundings);
  return [...new Set(wanted)].filter((name) => !(without && name === 'SETFCAP'));
}

/**
 * Drops SETFCAP where files of the host are writable, so that no file gets capabilities. In a user namespace of
 * its own a command has SETFCAP again, and root needs it to make one (user_namespaces(7)); there the seccomp
 * filter refuses extended attributes instead.
 */
function withoutSetfcap({
  hostFiles,
  userNamespaces,
}: Pick<Surroundings, 'hostFiles' | 'userNamespaces'>): boolean {
  return hostFiles && !userNamespaces;
}

/**
 * The policy of a command in a sandbox with these surroundings. No other function makes one. Throws
 * E_SECCOMP_PROFILE, E_SECCOMP, E_LAYER_MISSING, E_BIND.
 */
export async function commandPolicy(
  paths: StatePaths,
  surroundings: Surroundings,
  { user, capabilities: wanted, seccomp: profile, seccompCapabilities }: PolicyRequest,
): Promise<CommandPolicy> {
  const capabilities = commandCapabilities(wanted, surroundings);
  if (mayMount({ capabilities, surroundings })) refuseCopyUp(surroundings);
  const filter = withCoreGuard(
    await seccompFilter(paths, profile, seccompCapabilities ?? capabilities),
  );
  const { hostNetwork, hostFiles, userNamespaces } = surroundings;
  const landlock = landlockWalls({
    capabilities,
    seccomp: profile.replace(/-(?:offline|on-disk)$/, ''),
    surroundings,
  });
  return {
    user,
    capabilities,
    seccomp: hostFiles ? withSetIdGuard(filter, { attributes: userNamespaces }) : filter,
    landlock,
    // Without that wall landlockWalls() has thrown, unless Landlock may be missing.
    openSockets: hostNetwork && !landlock.includes('abstract-sockets'),
  };
}
