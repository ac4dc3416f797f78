import { execFile } from 'node:child_process';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { type BusyboxState, busyboxState, PATIENCE } from './busybox-state.ts';

const run = promisify(execFile);
const top = join(import.meta.dirname, '../..');

/** A state with a daemon that listens. */
export interface ApiState extends BusyboxState {
  readonly socket: string;
  /** The environment of a user: no sources. */
  readonly userEnv: NodeJS.ProcessEnv;
}

/** Makes the state and has the client, as it is built, start a daemon of the bundle. */
export async function apiState(): Promise<ApiState> {
  const state = await busyboxState();
  const { PATH, HOME, KILN_STATE } = state.env;
  const userEnv = { PATH, HOME, KILN_STATE, KILN_PARKED: '0', KILN_IDLE: '10m' };
  await run(join(top, 'dist/kiln'), ['ps'], { env: userEnv });
  return { ...state, userEnv, socket: join(state.paths.root, 'io.kiln') };
}

/** How a program ended, and what it wrote. */
export interface Ran {
  readonly code: number;
  readonly stdout: string;
  readonly stderr: string;
}

/** Runs a program to its end, whatever that is. */
export function program(
  file: string,
  args: readonly string[],
  options: { readonly env?: NodeJS.ProcessEnv; readonly cwd?: string; readonly uid?: number } = {},
): Promise<Ran> {
  return new Promise((resolve) => {
    execFile(file, args, { ...options, timeout: 120_000 * PATIENCE }, (error, stdout, stderr) => {
      const code = error === null ? 0 : typeof error.code === 'number' ? error.code : -1;
      resolve({ code, stdout, stderr });
    });
  });
}
