import type { StatePaths } from '../state/paths.ts';
import { type Capability, ROOT_CAPABILITIES } from './capabilities.ts';
import { landlockWalls } from './landlock.ts';
import { allowedMissing, type OptionalLayer } from './layers.ts';
import { chosenProfile, seccompFilter } from './seccomp/profile.ts';
import type { CommandPolicy, SandboxSpecification } from './specification.ts';

/** What a command's policy is made of. */
export interface PolicyRequest {
  /** As the image's /etc/passwd has it: the text is for the init, the id decides capabilities. */
  readonly user: { readonly spec: string; readonly uid: number };
  /** Beyond what that user has by default. */
  readonly capAdd?: readonly Capability[];
  /** A shipped profile or the path of one. */
  readonly seccomp: string;
  readonly network?: SandboxSpecification['network'];
  /** The box is for other sandboxes: with the profile `nested`, which no other box can have. */
  readonly nested?: boolean;
  readonly allowMissing?: readonly OptionalLayer[];
}

/** The capabilities of a user: root's default ones, and those added by name. */
export function userCapabilities(uid: number, capAdd: readonly Capability[] = []): Capability[] {
  return [...new Set([...(uid === 0 ? ROOT_CAPABILITIES : []), ...capAdd])];
}

/**
 * The policy of a command in a sandbox. Throws E_SECCOMP_PROFILE, E_SECCOMP, E_LAYER_MISSING.
 */
export async function commandPolicy(
  paths: StatePaths,
  { user, capAdd, seccomp: profile, network, nested, allowMissing }: PolicyRequest,
): Promise<CommandPolicy> {
  const capabilities = userCapabilities(user.uid, capAdd);
  return {
    user: user.spec,
    capabilities,
    seccomp: await seccompFilter(paths, chosenProfile(profile, nested === true), capabilities),
    landlock: landlockWalls({
      capabilities,
      seccomp: profile,
      ...(network === undefined ? {} : { network }),
      nested: nested === true,
      allowMissing: allowMissing ?? allowedMissing(),
    }),
  };
}
