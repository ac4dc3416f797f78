/** Names by which sandboxes of one caller find each other on networks of libvirt's. */
import type { StatePaths } from '../../host/state/paths.ts';
import { listSandboxes } from '../domain/sandbox-record.ts';
import type { Neighbour } from '../policy/hosts.ts';
import type { SandboxNetwork } from '../policy/network.ts';

/**
 * The caller's own named sandboxes on these networks, as kiln's records have them: no sandbox, no other user and no
 * server of a network has a say.
 * @param owner a user who is not root
 */
export async function neighboursOn(
  paths: StatePaths,
  network: SandboxNetwork,
  owner: { readonly uid: number } | undefined,
): Promise<Neighbour[]> {
  if (typeof network === 'string') return [];
  const here = new Set(network.map(({ name }) => name));
  const listed = await listSandboxes(paths, { owner });
  return listed.flatMap(({ state, record }) => {
    const { knownAs: name, addresses = [] } = record;
    const isThere = state === 'running' || state === 'kept';
    if (!isThere || record.owner !== owner?.uid || name === undefined || name === 'localhost')
      return [];
    return addresses
      .filter((each) => here.has(each.network))
      .map(({ address }) => ({ name, address }));
  });
}
