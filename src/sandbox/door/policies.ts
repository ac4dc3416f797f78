import type { StatePaths } from '../../host/state/paths.ts';
import { awaitedLater } from '../../promise.ts';
import { commandPolicy, type PolicyRequest } from '../policy/policy.ts';
import type { CommandPolicy } from '../policy/specification.ts';
import type { Surroundings } from '../policy/surroundings.ts';

/** The policies of one sandbox's commands: each is made once, from the sandbox's own surroundings. */
export class Policies {
  readonly #paths: StatePaths;
  readonly #surroundings: Surroundings;
  readonly #made = new Map<string, Promise<CommandPolicy>>();

  constructor(paths: StatePaths, surroundings: Surroundings) {
    this.#paths = paths;
    this.#surroundings = surroundings;
  }

  of(request: PolicyRequest): Promise<CommandPolicy> {
    const key = JSON.stringify(request);
    let policy = this.#made.get(key);
    if (policy === undefined) {
      policy = awaitedLater(commandPolicy(this.#paths, this.#surroundings, request));
      this.#made.set(key, policy);
      // The cause may be fixed before the next command, so do not cache the failure.
      policy.catch(() => this.#made.delete(key));
    }
    return policy;
  }
}
