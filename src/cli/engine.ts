import { type Kiln, openKiln } from '../kiln.ts';
import type { Engine } from '../sandbox/open.ts';
import { requireHost } from './require-host.ts';

export interface CliEngineOptions {
  /**
   * The command's end is not to wait until libvirtd has put away what belonged to its box: cgroups
   * are there for a fifth of a second more.
   */
  readonly hurry?: boolean;
  /** For what needs nothing of this host: users other than root may call it. */
  readonly anybody?: boolean;
  /** Whose sandboxes are, where they are not root's. */
  readonly owner?: Engine['owner'];
}

/**
 * The engine that `env` names. Its one connection is made when first needed.
 * Throws E_NOT_ROOT, E_NO_PROC, E_STATE.
 */
export interface CliEngine extends Engine, AsyncDisposable {}

export function openEngine(env: NodeJS.ProcessEnv, options: CliEngineOptions = {}): CliEngine {
  const { hurry = false, anybody = false, owner } = options;
  if (!anybody) requireHost();
  const kiln: Kiln = openKiln({ env, owner });
  return { ...kiln.engine, [Symbol.asyncDispose]: () => (hurry ? kiln.leave() : kiln.close()) };
}
