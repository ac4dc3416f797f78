/** Groups of processes that serve one sandbox from outside. Sources: as work-group.ts. */
import { mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { KilnError } from '../../errors.ts';
import { hierarchiesOf, kilnGroup, passControllersOn } from './cgroup.ts';

const CONTROLLERS = ['memory', 'cpu', 'pids', 'io', 'blkio'];

/**
 * Makes the groups of a sandbox; removeOwnCgroups() removes them. @returns files to which a process writes 0 to be
 * there @throws KilnError E_NO_CGROUPS
 */
export function makeHelperGroups(id: string): string[] {
  return hierarchiesOf(CONTROLLERS).map(({ path, version }) => {
    const group = kilnGroup(path, id);
    try {
      mkdirSync(group, { recursive: true });
    } catch (cause) {
      throw new KilnError('E_NO_CGROUPS', `no cgroup can be made for a machine: ${group}`, {
        cause,
        hint: '`kiln doctor cgroups` says what this host lacks',
      });
    }
    if (version === 2) passControllersOn(path, CONTROLLERS);
    return join(group, 'cgroup.procs');
  });
}
