/** Finds the daemon, and starts it if root calls. */

import { execFile } from 'node:child_process';
import { join, resolve } from 'node:path';
import { defined } from '../defined.ts';
import { KilnError } from '../errors.ts';
import { packageRoot } from '../host/state/paths.ts';
import { Connection } from './connection.ts';
import { INTERFACE_VERSION } from './io-kiln.ts';
import { Kiln } from './kiln.ts';

export interface ConnectOptions {
  /** The state directory; `KILN_STATE` or /var/lib/kiln by default. */
  readonly state?: string;
  /** Whether root's call starts a missing daemon; true by default. */
  readonly start?: boolean;
}

const DEFAULT_SOCKET = '/run/kiln/io.kiln';

/**
 * Connects to the daemon.
 * @throws KilnError E_NO_DAEMON where there is none, E_PERMISSION, E_PROTOCOL for a daemon of another version
 */
export async function connect({ state, start = true }: ConnectOptions = {}): Promise<Kiln> {
  const place = state ?? (process.env.KILN_STATE || undefined);
  const socket = place === undefined ? DEFAULT_SOCKET : join(resolve(place), 'io.kiln');
  const open = async () => await Connection.open(socket);
  const connection = await open().catch(async (error: NodeJS.ErrnoException) => {
    const isMissing = error.code === 'ENOENT' || error.code === 'ECONNREFUSED';
    if (!isMissing || !start || process.getuid?.() !== 0) throw unreachable(socket, error);
    await startDaemon(place);
    return await open();
  });
  const { interface: version, kiln } = await connection.call('GetVersion', {});
  if (version !== INTERFACE_VERSION) {
    connection.close();
    throw new KilnError('E_PROTOCOL', `kilnd ${kiln} has version ${version} of the interface`, {
      hint: `this library is for version ${INTERFACE_VERSION}: install the same kiln`,
    });
  }
  return new Kiln(connection, open);
}

function unreachable(socket: string, cause: NodeJS.ErrnoException): KilnError {
  if (cause.code === 'EACCES') {
    return new KilnError('E_PERMISSION', `you may not connect to ${socket}`, {
      hint: 'call it as root',
      cause,
    });
  }
  return new KilnError('E_NO_DAEMON', `kilnd does not listen at ${socket}`, {
    hint: 'root’s first `kiln ps` starts it, or `systemctl enable --now kiln.socket`',
    cause,
  });
}

/** Runs a short command of the client, which knows how to start a daemon. */
async function startDaemon(state: string | undefined): Promise<void> {
  const env = { ...process.env, ...defined({ KILN_STATE: state }) };
  const program = join(packageRoot(), 'dist/kiln');
  await new Promise<void>((done, failed) => {
    execFile(program, ['ps'], { env }, (cause, _, stderr) => {
      if (cause === null) done();
      else {
        const why = stderr.trim().replace(/^kiln: /, '') || cause.message;
        const hint = '`kiln doctor` tells what is missing';
        failed(new KilnError('E_NO_DAEMON', `kilnd cannot be started: ${why}`, { hint, cause }));
      }
    });
  });
}
