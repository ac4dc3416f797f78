import { existsSync } from 'node:fs';
import { refuseCopyUp, refuseHostWrites } from '../sandbox/host-write.ts';
import type { StatePaths } from '../state/paths.ts';
import type { ServiceDefinition } from './definition.ts';
import { namedCapabilities } from './unit-host.ts';

/**
 * Refuses early what no start would allow: mounts of what the host lives on. Mounts that are not there
 * yet are looked at when the service starts. Throws E_BIND.
 */
export function checkMounts(paths: StatePaths, definition: ServiceDefinition): void {
  const { boot, capabilities, mounts, 'allow-host-write': allowHostWrite } = definition;
  const binds = mounts
    .filter(({ source }) => existsSync(source))
    .map(({ source, target, readonly }) => ({ source, target, readonly }));
  refuseHostWrites(paths, { binds, allowHostWrite }, { uid: 0 });
  if (!boot && !namedCapabilities(capabilities).includes('SYS_ADMIN')) return;
  refuseCopyUp({ hostFiles: mounts.some(({ readonly }) => !readonly), allowHostWrite });
}
