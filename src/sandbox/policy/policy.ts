import { KilnError } from '../../errors.ts';
import { type Capability, landlockAbi } from '../../host/process/process.ts';
import type { StatePaths } from '../../host/state/paths.ts';
import { awaitedLater } from '../../promise.ts';
import { withCoreGuard, withLentCalls, withSetIdGuard, withShareGuard } from '../seccomp/guard.ts';
import { isShipped, seccompFilter } from '../seccomp/profile.ts';
import { withProtocolGuard } from '../seccomp/protocols.ts';
import type { LandlockWall } from '../wire/codec.ts';
import { refuseCopyUp, refuseRemount } from './host-write.ts';
import { layerMissingError, requireLayer } from './layers.ts';
import { type CommandPolicy, ROOT_CAPABILITIES, type Surroundings } from './specification.ts';

export interface PolicyRequest {
  readonly user: string;
  readonly capabilities: readonly Capability[];
  /** One of kiln's profiles, or the path of a profile; chosenProfile() checks what a person chose. */
  readonly seccomp: string;
  readonly seccompCapabilities?: readonly Capability[];
}

/** Root's defaults and the added ones. Throws E_ARGUMENT for SETFCAP if the command can write to the host. */
export function userCapabilities(
  uid: number,
  capAdd: readonly Capability[],
  surroundings: Surroundings,
): Capability[] {
  if (withoutSetfcap(surroundings) && capAdd.includes('SETFCAP')) {
    const what = 'the capability SETFCAP cannot be combined with a writable bind';
    throw new KilnError('E_ARGUMENT', what, {
      hint: 'a file with capabilities would have them on the host, too: bind read-only (SRC:DST:ro)',
    });
  }
  return commandCapabilities([...(uid === 0 ? ROOT_CAPABILITIES : []), ...capAdd], surroundings);
}

function commandCapabilities(
  wanted: readonly Capability[],
  surroundings: Surroundings,
): Capability[] {
  const without = withoutSetfcap(surroundings);
  return [...new Set(wanted)].filter((name) => !(without && name === 'SETFCAP'));
}

/**
 * Drops SETFCAP where files of the host are writable, so that no file gets capabilities. In a user namespace of
 * its own a command has SETFCAP again, and root needs it to make one (user_namespaces(7)); there the seccomp
 * filter refuses extended attributes instead.
 */
function withoutSetfcap({ hostFiles, userNamespaces }: Surroundings): boolean {
  return hostFiles && !userNamespaces;
}

/** No other function makes a policy; {@link policiesOf} calls it. Throws E_SECCOMP_PROFILE, E_SECCOMP, E_LAYER_MISSING, E_BIND. */
export async function commandPolicy(
  paths: StatePaths,
  planned: Surroundings,
  { user, capabilities: wanted, seccomp: profile, seccompCapabilities }: PolicyRequest,
): Promise<CommandPolicy> {
  const remounts = wanted.includes('SYS_ADMIN') && planned.shownFiles;
  const surroundings = { ...planned, hostFiles: planned.hostFiles || remounts };
  const capabilities = commandCapabilities(wanted, surroundings);
  if (mayMount(capabilities, surroundings)) refuseCopyUp(planned);
  if (remounts) refuseRemount(planned);
  const compiled = await seccompFilter(paths, profile, seccompCapabilities ?? capabilities);
  const shared = withShareGuard(withLentCalls(compiled), capabilities);
  const filter = withCoreGuard(
    isShipped(profile) ? withProtocolGuard(shared, capabilities) : shared,
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

/** The first Landlock ABI with each wall (landlock(7)). */
export const FIRST_ABI: Readonly<Record<LandlockWall, number>> = {
  files: 1,
  'no-tcp': 4,
  'abstract-sockets': 6,
};

export interface LandlockUse {
  readonly capabilities: readonly Capability[];
  readonly seccomp: string;
  readonly surroundings: Surroundings;
}

/** Whether a command may mount: behind Landlock's rules for files nothing can be mounted. */
export function mayMount(capabilities: readonly Capability[], { mounts }: Surroundings): boolean {
  return mounts || capabilities.includes('SYS_ADMIN');
}

export function landlockWalls(use: LandlockUse): LandlockWall[] {
  const { seccomp, surroundings } = use;
  const { hostNetwork, allowMissing } = surroundings;
  const wanted: LandlockWall[] = mayMount(use.capabilities, surroundings) ? [] : ['files'];
  if (seccomp === 'strict') wanted.push('no-tcp');
  // In any other network, the namespace separates abstract sockets already.
  if (hostNetwork) wanted.push('abstract-sockets');
  if (wanted.length === 0 || !requireLayer('landlock', allowMissing)) return [];
  const abi = landlockAbi();
  return wanted.filter((wall) => {
    if (FIRST_ABI[wall] <= abi) return true;
    if (allowMissing.includes('landlock')) return false;
    throw layerMissingError(
      'landlock',
      `${wall} needs ABI ${FIRST_ABI[wall]}, this kernel has ${abi}`,
    );
  });
}

export type Policies = (request: PolicyRequest) => Promise<CommandPolicy>;

/** Makes the policies of a sandbox's commands, each once. */
export function policiesOf(paths: StatePaths, surroundings: Surroundings): Policies {
  const made = new Map<string, Promise<CommandPolicy>>();
  return (request) => {
    const key = JSON.stringify(request);
    const known = made.get(key);
    if (known !== undefined) return known;
    const policy = awaitedLater(commandPolicy(paths, surroundings, request));
    made.set(key, policy);
    // The cause may be fixed before the next command, so do not cache the failure.
    policy.catch(() => made.delete(key));
    return policy;
  };
}
