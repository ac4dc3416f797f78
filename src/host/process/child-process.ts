/**
 * The only place where kiln starts programs of the host (test/architecture). A child gets the descriptors of
 * its stdio and no others, and no environment variable that makes it load code.
 */
import { type ExecFileException, execFile, type SpawnOptions, spawn } from 'node:child_process';
import { promisify } from 'node:util';
import { KilnError } from '../../errors.ts';
import { awaitedLater } from '../../promise.ts';
import { keepDescriptors } from '../calls/descriptor.ts';
import { withoutOrders } from './own-node.ts';
import { ownEnvironment } from './own-process.ts';
import { stoppedSince, waitFor } from './wait-for.ts';

const execute = promisify(execFile);

export const startProgram = ((program: string, args: readonly string[], options: SpawnOptions) => {
  keepDescriptors();
  const child = spawn(program, args, { env: withoutOrders(ownEnvironment), ...options });
  // Without free descriptors Node stops half-way: the child has no streams, and the error comes later.
  if (child.stdio === undefined) {
    child.on('error', () => undefined);
    throw new KilnError('E_TOO_MANY_FILES', `cannot start ${program}: too many open files`, {
      hint: 'raise the limit: `ulimit -n 65536`',
    });
  }
  return child;
}) as typeof spawn;

/** Outlives this process: in a session of its own, with nothing on its stdio. @param program by its path */
export function startDetached([program, ...args]: readonly [string, ...string[]]): void {
  const child = startProgram(program, args, { detached: true, stdio: 'ignore' });
  child.on('error', () => undefined).unref();
}

/**
 * Runs a program to its end, or kills it after {@link patience}; one that `works` long only after it has been
 * stopped for that time. Throws as child_process.execFile() does, and KilnError E_PROGRAM_SILENT.
 */
export async function runProgram(
  program: string,
  args: readonly string[],
  { works = false }: { readonly works?: boolean } = {},
): Promise<{ readonly stdout: string; readonly stderr: string }> {
  keepDescriptors();
  const running = awaitedLater(execute(program, args, { env: withoutOrders(ownEnvironment) }));
  const { child } = running;
  const words = [program, ...args].join(' ');
  try {
    return await waitFor(running, {
      whom: () => ({ name: `\`${words}\` (pid ${child.pid})`, pid: child.pid }),
      code: 'E_PROGRAM_SILENT',
      hint: `run it by hand to see what it waits for: ${words}`,
      ...(works ? { since: stoppedSince(() => child.pid) } : {}),
    });
  } finally {
    if (child.exitCode === null && child.signalCode === null) child.kill('SIGKILL');
  }
}

export interface ToolOptions {
  readonly cwd?: string;
  readonly env?: Readonly<Record<string, string>>;
  readonly input?: string;
  /** Milliseconds. */
  readonly timeout?: number;
}

export interface ToolResult {
  readonly stdout: string;
  readonly stderr: string;
  readonly failure?: string;
}

/** Bytes: a tool that writes more is killed. */
const MAX_OUTPUT = 16 << 20;

export function runTool(
  program: string,
  args: readonly string[],
  { cwd, env = withoutOrders(ownEnvironment), input = '', timeout = 0 }: ToolOptions = {},
): Promise<ToolResult> {
  keepDescriptors();
  const options = { cwd, env, timeout, maxBuffer: MAX_OUTPUT, killSignal: 'SIGKILL' } as const;
  return new Promise((resolve) => {
    const child = execFile(program, args, options, (error, out, err) => {
      const [stdout = '', stderr = ''] = [out, err].map((text) => text.replace(/\r?\n$/, ''));
      if (error === null) resolve({ stdout, stderr });
      else
        resolve({ stdout, stderr, failure: stderr.trim() || failureText(program, error, timeout) });
    });
    child.stdin?.on('error', () => undefined).end(input);
  });
}

/** Writes all that is unwritten of the file system that `path` lies on. @throws KilnError E_IO */
export async function syncFileSystem(path: string): Promise<void> {
  const { failure } = await runTool('sync', ['--file-system', path]);
  if (failure === undefined) return;
  throw new KilnError('E_IO', `cannot write ${path} to the disk: ${failure}`, {
    hint: '`dmesg` tells more about the disk',
  });
}

function failureText(program: string, error: ExecFileException, timeout: number): string {
  if (error.code === 'ENOENT') return `${program} is not installed`;
  if (error.killed && typeof error.code !== 'string') return `no answer within ${timeout / 1000} s`;
  if (error.signal) return `ended by ${error.signal}`;
  return typeof error.code === 'number' ? `exit status ${error.code}` : error.message;
}
