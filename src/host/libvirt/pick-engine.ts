import type { StatePaths } from '../state/paths.ts';
import { embeddedFiles } from './embedded/files.ts';
import { LibvirtError } from './errors.ts';

/** libvirt's driver of containers, and of machines. */
export type Driver = 'lxc' | 'qemu';

export type Engine =
  | { readonly kind: 'system'; readonly uri: string }
  | { readonly kind: 'embedded'; readonly uri: string };

/** The libvirt of `KILN_URI`, else the embedded one. @throws LibvirtError E_LIBVIRT_REMOTE, E_LIBVIRT_URI */
export function pickEngine(
  paths: StatePaths,
  env: NodeJS.ProcessEnv,
  driver: Driver = 'lxc',
): Engine {
  const uri = env.KILN_URI;
  if (uri === undefined || uri === '') {
    const { uri, machineUri } = embeddedFiles(paths);
    return { kind: 'embedded', uri: driver === 'lxc' ? uri : machineUri };
  }
  const [, named, transport, host] =
    /^([a-z]+)(?:\+([a-z0-9]+))?:(?:\/\/([^/?]*))?(?:[/?]|$)/.exec(uri) ?? [];
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
  if (named !== 'lxc') {
    throw new LibvirtError('E_LIBVIRT_URI', `KILN_URI names libvirt's ${named} driver, not lxc`, {
      hint,
    });
  }
  if (driver === 'qemu') {
    const what = `machines run in kiln’s own libvirt only, and KILN_URI names ${uri}`;
    throw new LibvirtError('E_LIBVIRT_URI', what, {
      hint: 'unset KILN_URI, or leave out --isolation vm',
    });
  }
  return { kind: 'system', uri };
}
