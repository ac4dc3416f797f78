import { isAbsolute, join, resolve } from 'node:path';
import { shortHash } from '../kernel/short-hash.ts';

/** Where kiln keeps everything it keeps. All paths are absolute. */
export interface StatePaths {
  /** `KILN_STATE`, default /var/lib/kiln. */
  readonly root: string;
  /** Sockets and what lives no longer than a boot: /run/kiln/HASH, short enough for sun_path. */
  readonly run: string;
  /** Shared by every KILN_STATE of this host: id ranges must be unique on the whole machine. */
  readonly hostRun: string;
  /** Downloads and repository metadata; may be deleted at any time. */
  readonly cache: string;
  /** Unpacked packages, one folder each, named by the RPM's sha256. Below `store` so that hard links work. */
  readonly packages: string;
  /** Images, one folder each, named by image id. */
  readonly images: string;
  /** kiln-mock's persistent roots, one folder each. Below `store`: what is thrown away goes to `trash`. */
  readonly roots: string;
  /** The folder that holds `packages` and `images`: one file system, one mount. */
  readonly store: string;
  /** Trees on their way out: renamed here, deleted late (ext4 scans freshly deleted inodes). */
  readonly trash: string;
  /** One folder a claimed box: its state, its owner, its socket. They live no longer than a boot. */
  readonly boxes: string;
  /** Boxes that wait for a claim: a claim renames one into `boxes`. */
  readonly parked: string;
  /** The constant root of every box. */
  readonly skeleton: string;
  /** One folder a service: what it is, its /etc and /var, its logs. */
  readonly services: string;
  /** Sockets and locks of the services' supervisors. */
  readonly runServices: string;
  /** The embedded libvirtd's private files. */
  readonly libvirt: string;
}

/**
 * The layout of the state directory named by `env.KILN_STATE`.
 * Two state directories share nothing but `hostRun`.
 */
export function statePaths(env: NodeJS.ProcessEnv = process.env): StatePaths {
  const configured = env.KILN_STATE ?? '/var/lib/kiln';
  const root = isAbsolute(configured) ? resolve(configured) : resolve(process.cwd(), configured);
  const run = join('/run/kiln', shortHash(root));
  const store = join(root, 'store');
  return {
    root,
    run,
    hostRun: '/run/kiln',
    cache: join(root, 'cache'),
    store,
    packages: join(store, 'packages'),
    images: join(store, 'images'),
    roots: join(store, 'roots'),
    trash: join(store, 'trash'),
    boxes: join(run, 'boxes'),
    parked: join(run, 'parked'),
    skeleton: join(root, 'skeleton'),
    services: join(root, 'services'),
    runServices: join(run, 'services'),
    libvirt: join(root, 'libvirt'),
  };
}
