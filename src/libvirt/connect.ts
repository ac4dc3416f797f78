import type { StatePaths } from '../state/paths.ts';
import { type Connection, openConnection } from './connection.ts';
import { type EmbeddedOptions, ensureEmbeddedDaemon } from './embedded/daemon.ts';
import { embeddedFiles } from './embedded/files.ts';
import { LibvirtError } from './errors.ts';

/** Which libvirt runs the boxes: the system's (or any other local one), or kiln's own. */
export type Engine =
  | { readonly kind: 'system'; readonly uri: string }
  | { readonly kind: 'embedded'; readonly uri: string };

/**
 * Picks the engine: the libvirt that `KILN_URI` names, else the embedded one.
 *
 * @throws LibvirtError E_LIBVIRT_REMOTE for another machine's libvirt, E_LIBVIRT_URI for another
 *   driver than lxc
 */
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

/** From where and to what {@link connect} connects. */
export interface ConnectOptions extends EmbeddedOptions {
  readonly paths: StatePaths;
  readonly env?: NodeJS.ProcessEnv;
}

/**
 * Connects to the engine. The embedded daemon is started where it does not run, now or, after it
 * died or ended idle, at a later call on the connection.
 *
 * @throws LibvirtError E_LIBVIRT_MISSING, E_LIBVIRT_CONNECT, E_LIBVIRT_START, and those of
 *   {@link pickEngine}
 */
export function connect(options: ConnectOptions): Promise<Connection> {
  const { paths, env = process.env } = options;
  const engine = pickEngine(paths, env);
  if (engine.kind === 'system') return openConnection(engine.uri);
  return openConnection(engine.uri, async () => {
    await ensureEmbeddedDaemon(paths, options);
  });
}
