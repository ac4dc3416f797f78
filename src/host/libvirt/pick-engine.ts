import type { StatePaths } from '../state/paths.ts';
import { embeddedFiles } from './embedded/files.ts';
import { LibvirtError } from './errors.ts';

/** libvirt's driver of containers, and of machines. */
export type Driver = 'lxc' | 'qemu';

export type Engine =
  | { readonly kind: 'system'; readonly uri: string }
  | { readonly kind: 'embedded'; readonly uri: string };

/** What machines are started by, of which containers are not: they are in kiln's own libvirt then. */
const MACHINES = 'qemu';

/** Whether `KILN_URI` names libvirt's driver of machines: sandboxes are machines then, unless somebody says otherwise. */
export function choosesMachines({ KILN_URI = '' }: NodeJS.ProcessEnv): boolean {
  return new RegExp(`^${MACHINES}[:+]`).test(KILN_URI);
}

/** Whether `KILN_URI` names a session's libvirt, for which kiln's own stands in. */
const SESSION = new RegExp(`^${MACHINES}(?:\\+unix)?:(?://)?/session\\b`);

/** Whether `KILN_URI` names another libvirt than kiln's own, where nothing is parked. */
export function namesLibvirt({ KILN_URI = '' }: NodeJS.ProcessEnv): boolean {
  return KILN_URI !== '' && !SESSION.test(KILN_URI);
}

/** The libvirt of `KILN_URI`, else the embedded one. @throws LibvirtError E_LIBVIRT_REMOTE, E_LIBVIRT_URI */
export function pickEngine(
  paths: StatePaths,
  env: NodeJS.ProcessEnv,
  driver: Driver = 'lxc',
): Engine {
  const uri = env.KILN_URI;
  const { uri: own, machineUri } = embeddedFiles(paths);
  const embedded = { kind: 'embedded', uri: driver === 'lxc' ? own : machineUri } as const;
  if (uri === undefined || uri === '') return embedded;
  const [, named, transport, host] =
    /^([a-z]+)(?:\+([a-z0-9]+))?:(?:\/\/([^/?]*))?(?:$|[/?])/.exec(uri) ?? [];
  const hint = 'unset KILN_URI for the embedded libvirt, or set it to lxc:///system';
  if (named === undefined) {
    throw new LibvirtError('E_LIBVIRT_URI', `KILN_URI is not a libvirt URI: ${uri}`, { hint });
  }
  if ((transport ?? 'unix') !== 'unix' || (host ?? '') !== '') {
    throw new LibvirtError(
      'E_LIBVIRT_REMOTE',
      `KILN_URI names a remote libvirt, ${uri}: images, binds and descriptors cannot travel there`,
      { hint },
    );
  }
  if (named !== 'lxc' && named !== MACHINES) {
    const what = `KILN_URI names libvirt's ${named} driver, neither lxc nor qemu`;
    throw new LibvirtError('E_LIBVIRT_URI', what, { hint });
  }
  // A session's libvirt runs qemu as its user, with that user's files. Kiln's own is as private, and qemu owns nothing.
  if (named === MACHINES && (driver === 'lxc' || SESSION.test(uri))) return embedded;
  if (named === 'lxc' && driver === 'qemu') {
    const what = `KILN_URI names a libvirt for containers, and this sandbox is a machine: ${uri}`;
    throw new LibvirtError('E_LIBVIRT_URI', what, {
      hint: 'set KILN_URI to qemu:///system, or unset it for kiln’s own libvirt',
    });
  }
  return { kind: 'system', uri };
}
