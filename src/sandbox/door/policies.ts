import type { StatePaths } from '../../host/state/paths.ts';
import { awaitedLater } from '../../promise.ts';
import { commandPolicy, type PolicyRequest } from '../policy/policy.ts';
import type { CommandPolicy, Surroundings } from '../policy/specification.ts';

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
