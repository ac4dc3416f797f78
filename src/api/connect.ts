/** Finds the daemon, and starts it if root calls. */
import { execFile } from 'node:child_process';
import { existsSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { promisify } from 'node:util';
import { defined } from '../defined.ts';
import { KilnError } from '../errors.ts';
import { packageRoot } from '../host/state/package-root.ts';
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

/** @throws KilnError E_NO_DAEMON, E_PERMISSION, E_PROTOCOL for a daemon of another version */
export async function connect({ state, start = true }: ConnectOptions = {}): Promise<Kiln> {
  const place = state ?? (process.env.KILN_STATE || undefined);
  const socket = place === undefined ? DEFAULT_SOCKET : join(resolve(place), 'io.kiln');
  const open = async () => await Connection.open(socket);
  const program = clientProgram();
  const env = { ...process.env, ...defined({ KILN_STATE: place }) };
  const ask = async () => {
    const connection = await open();
    try {
      return { connection, ...(await connection.call('GetVersion', {})) };
    } catch (error) {
      connection.close();
      throw error;
    }
  };
  const again = async (error: NodeJS.ErrnoException) => {
    const { code = '' } = error;
    // One that is replaced, or that had nothing to do, may end before it answers.
    const isEnded = ['ECONNRESET', 'E_NO_DAEMON'].includes(code);
    if (!isEnded && !['ENOENT', 'ECONNREFUSED'].includes(code)) throw error;
    if (start && process.getuid?.() === 0) await startDaemon(program, env);
    else if (!isEnded) throw error;
    return await ask();
  };
  const first = await ask()
    .catch(again)
    .catch((error: Error) => {
      throw error instanceof KilnError ? error : unreachableError(socket, error);
    });
  const { connection, interface: version, kiln } = first;
  if (version !== INTERFACE_VERSION) {
    connection.close();
    throw new KilnError('E_PROTOCOL', `kilnd ${kiln} has version ${version} of the interface`, {
      hint: `this library is for version ${INTERFACE_VERSION}: install the same kiln`,
    });
  }
  const withFiles = async () => Connection.through(program, env);
  // kilnd opens root's files itself.
  return new Kiln(connection, { open, withFiles: process.getuid?.() === 0 ? open : withFiles });
}

/** That of the library's own package, or of the machine: the package kiln-client has none. */
function clientProgram(): string {
  const own = join(packageRoot(), 'dist/kiln');
  return existsSync(own) ? own : 'kiln';
}

function unreachableError(socket: string, cause: NodeJS.ErrnoException): KilnError {
  if (cause.code === 'EACCES') {
    return new KilnError('E_PERMISSION', `you may not connect to ${socket}`, {
      hint: 'root puts you into the group kiln: `kiln doctor users` says what is missing',
      cause,
    });
  }
  return new KilnError('E_NO_DAEMON', `kilnd does not listen at ${socket}`, {
    hint: 'root’s first `kiln ps` starts it, or `systemctl enable --now kiln.socket`',
    cause,
  });
}

async function startDaemon(program: string, env: NodeJS.ProcessEnv): Promise<void> {
  await promisify(execFile)(program, ['ps'], { env }).catch(
    (cause: Error & { stderr?: string }) => {
      const why = cause.stderr?.trim().replace(/^kiln: /, '') || cause.message;
      const hint = '`kiln doctor` tells what is missing';
      throw new KilnError('E_NO_DAEMON', `kilnd cannot be started: ${why}`, { hint, cause });
    },
  );
}
