import type { Capability } from '../../src/host/process/process.ts';
import type { StatePaths } from '../../src/host/state/paths.ts';
import type { SpawnOptions } from '../../src/sandbox/command/command-request.ts';
import { commandPolicy } from '../../src/sandbox/policy/policy.ts';
import type { Sandbox } from '../../src/sandbox/sandbox.ts';

/** How a command of root's is started that is about something else than its rights. */
export async function asRoot(
  paths: StatePaths,
  sandbox: Sandbox,
  capabilities: readonly Capability[] = [],
): Promise<Pick<SpawnOptions, 'policy'>> {
  const request = { user: '0:0', capabilities, seccomp: 'default' };
  return { policy: await commandPolicy(paths, sandbox.surroundings, request) };
}
