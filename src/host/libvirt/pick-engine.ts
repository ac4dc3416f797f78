import type { StatePaths } from '../state/paths.ts';
import { embeddedFiles } from './embedded/files.ts';
import { LibvirtError } from './errors.ts';

export type Engine =
  | { readonly kind: 'system'; readonly uri: string }
  | { readonly kind: 'embedded'; readonly uri: string };

/** The libvirt of `KILN_URI`, else the embedded one. @throws LibvirtError E_LIBVIRT_REMOTE, E_LIBVIRT_URI */
export function pickEngine(paths: StatePaths, env: NodeJS.ProcessEnv): Engine {
  const uri = env.KILN_URI;
  if (uri === undefined || uri === '') return { kind: 'embedded', uri: embeddedFiles(paths).uri };
  const [, driver, transport, host] =
    /^([a-z]+)(?:\+([a-z0-9]+))?:(?:\/\/([^/?]*))?(?:[/?]|$)/.exec(uri) ?? [];
  const hint = 'unset KILN_URI for the embedded libvirt, or set it to lxc:///system';
  if (driver === undefined) {
    throw new LibvirtError('E_LIBVIRT_URI', `KILN_URI is not a libvirt URI: ${uri}`, { hint });
  }
  if ((transport ?? 'unix') !== 'unix' || (host ?? '') !== '') {
    throw new LibvirtError(
      'E_LIBVIRT_REMOTE',
      `KILN_URI names a remote libvirt, ${uri}: images, binds and descriptors cannot travel there`,
      { hint },
    );
  }
  if (driver !== 'lxc') {
    throw new LibvirtError('E_LIBVIRT_URI', `KILN_URI names libvirt's ${driver} driver, not lxc`, {
      hint,
    });
  }
  return { kind: 'system', uri };
}
