import type { StatePaths } from '../state/paths.ts';
import { type Connection, openConnection } from './connection.ts';
import { type EmbeddedOptions, ensureEmbeddedDaemon } from './embedded/daemon.ts';
import { pickEngine } from './pick-engine.ts';

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
