/** Groups of processes that serve one sandbox from outside. Sources: as work-group.ts. */
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { KilnError } from '../../errors.ts';
import { attempt } from '../calls/libc.ts';
import { kilnGroup, knownHierarchies } from './cgroup.ts';

const CONTROLLERS = ['memory', 'cpu', 'pids', 'io', 'blkio'];

/**
 * Makes the groups of a sandbox; removeOwnCgroups() removes them. @returns files to which a process writes 0 to be
 * there @throws KilnError E_NO_CGROUPS
 */
export function makeHelperGroups(id: string): string[] {
  const hierarchies = knownHierarchies().filter(({ controllers }) =>
    controllers.some((name) => CONTROLLERS.includes(name)),
  );
  return hierarchies.map(({ path, version }) => {
    const group = kilnGroup(path, id);
    try {
      mkdirSync(group, { recursive: true });
    } catch (cause) {
      throw new KilnError('E_NO_CGROUPS', `no cgroup can be made for a machine: ${group}`, {
        cause,
        hint: '`kiln doctor cgroups` says what this host lacks',
      });
    }
    if (version === 2) for (const parent of [path, kilnGroup(path)]) passOn(parent);
    return join(group, 'cgroup.procs');
  });
}

/** Without a controller its limit cannot be set, and that is reported. */
function passOn(group: string): void {
  for (const name of CONTROLLERS) {
    attempt(() => writeFileSync(join(group, 'cgroup.subtree_control'), `+${name}`));
  }
}
