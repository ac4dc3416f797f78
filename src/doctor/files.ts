import { stat } from 'node:fs/promises';
import { join } from 'node:path';
import { embeddedFiles } from '../host/libvirt/embedded/files.ts';
import { homeOf } from '../host/libvirt/embedded/launch.ts';
import { hasSystemd } from '../host/libvirt/embedded/systemd.ts';
import { pickEngine } from '../host/libvirt/pick-engine.ts';
import type { StatePaths } from '../host/state/paths.ts';

/** A place outside KILN_STATE that kiln, or libvirt on its behalf, uses. */
export interface HostFile {
  readonly path: string;
  readonly purpose: string;
  /** When it disappears by itself. */
  readonly lives: string;
  readonly exists: boolean;
}

/** Every place on this host, beside KILN_STATE, where kiln may leave files while it works. */
export async function hostFiles(paths: StatePaths, env: NodeJS.ProcessEnv): Promise<HostFile[]> {
  const engine = pickEngine(paths, env);
  const embedded = embeddedFiles(paths);
  const boot = 'until the next boot';
  const places: Array<Omit<HostFile, 'exists'>> = [
    { path: paths.hostRun, purpose: 'sockets and locks, one folder a KILN_STATE', lives: boot },
    { path: paths.run, purpose: 'sockets and locks of this KILN_STATE', lives: boot },
    { path: join(paths.hostRun, 'ranges'), purpose: 'which sandbox has which ids', lives: boot },
  ];
  if (engine.kind === 'embedded') {
    const idle = 'until the embedded libvirtd ends';
    places.push({ path: embedded.run, purpose: 'files of the embedded libvirtd', lives: idle });
    for (const path of (await homeOf(embedded)).joined) {
      places.push({
        path,
        purpose: 'cgroup of the embedded libvirtd and its sandboxes',
        lives: idle,
      });
    }
    if (hasSystemd()) {
      places.push({
        path: `/run/systemd/transient/${embedded.name}.service`,
        purpose: 'the unit of the embedded libvirtd',
        lives: idle,
      });
    }
  } else {
    places.push(
      {
        path: '/run/libvirt/lxc',
        purpose: 'the system libvirtd: running sandboxes',
        lives: 'with the sandbox',
      },
      {
        path: '/var/log/libvirt/lxc',
        purpose: 'the system libvirtd: a log for each sandbox',
        lives: 'until deleted',
      },
    );
  }
  const exists = (path: string) =>
    stat(path).then(
      () => true,
      () => false,
    );
  return Promise.all(places.map(async (place) => ({ ...place, exists: await exists(place.path) })));
}
