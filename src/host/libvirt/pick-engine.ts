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
  const [, named, transport, host, path = ''] =
    /^([a-z]+)(?:\+([a-z0-9]+))?:(?:\/\/([^/?]*))?(?:$|[/?](\w*))/.exec(uri) ?? [];
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
  if (named === MACHINES && path === 'session') {
    const what = `the libvirt of a session runs qemu as the session’s user, which a machine’s must not be: ${uri}`;
    throw new LibvirtError('E_LIBVIRT_URI', what, {
      hint: 'set KILN_URI to qemu:///system, or unset it and give --isolation vm',
    });
  }
  if (named !== 'lxc' && named !== MACHINES) {
    const what = `KILN_URI names libvirt's ${named} driver, neither lxc nor qemu`;
    throw new LibvirtError('E_LIBVIRT_URI', what, { hint });
  }
  if (named === MACHINES && driver === 'lxc') return embedded;
  if (named === 'lxc' && driver === 'qemu') {
    const what = `KILN_URI names a libvirt for containers, and this sandbox is a machine: ${uri}`;
    throw new LibvirtError('E_LIBVIRT_URI', what, {
      hint: 'set KILN_URI to qemu:///system, or unset it for kiln’s own libvirt',
    });
  }
  return { kind: 'system', uri };
}
