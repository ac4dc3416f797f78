import { KilnError } from '../../errors.ts';
import type { StatePaths } from '../../host/state/paths.ts';
import { withCoreGuard, withSetIdGuard } from '../seccomp/guard.ts';
import { seccompFilter } from '../seccomp/profile.ts';
import { type Capability, ROOT_CAPABILITIES } from './capabilities.ts';
import { refuseCopyUp } from './host-write.ts';
import { landlockWalls, mayMount } from './landlock.ts';
import type { CommandPolicy } from './specification.ts';
import type { Surroundings } from './surroundings.ts';

/** What a command's policy is made of, beside its sandbox. */
export interface PolicyRequest {
  /** NAME|UID[:GROUP|GID], names as in the image's /etc/passwd. */
  readonly user: string;
  readonly capabilities: readonly Capability[];
  /** One of kiln's own profiles, or the path of one; chosenProfile() checks what a person chose. */
  readonly seccomp: string;
  /** Those by which the profile decides, where they are not the command's. */
  readonly seccompCapabilities?: readonly Capability[];
}

/**
 * The capabilities of a user: root's default ones, and those added by name.
 * Throws E_ARGUMENT for SETFCAP where the command can write to files of the host.
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
 * Where files of the host can be written to, no file is given capabilities. In a user namespace of its
 * own a command has SETFCAP again, and root needs it to make one (user_namespaces(7)): there the seccomp
 * filter refuses extended attributes instead.
 */
function withoutSetfcap({
  hostFiles,
  userNamespaces,
}: Pick<Surroundings, 'hostFiles' | 'userNamespaces'>): boolean {
  return hostFiles && !userNamespaces;
}

/**
 * The policy of a command in a sandbox with these surroundings: the only place where one is made.
 * Throws E_SECCOMP_PROFILE, E_SECCOMP, E_LAYER_MISSING, E_BIND.
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
    // landlockWalls() has refused that unless somebody said that Landlock may be missing.
    openSockets: hostNetwork && !landlock.includes('abstract-sockets'),
  };
}
