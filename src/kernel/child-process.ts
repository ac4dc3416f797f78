/**
 * How kiln starts programs of the host: the only place that does, other than spawn-detached.ts
 * (test/architecture). A child has the descriptors of its stdio and no others, and of the environment
 * nothing that makes it load code.
 */
import { execFile, type SpawnOptions, spawn } from 'node:child_process';
import { promisify } from 'node:util';
import { KilnError } from '../errors.ts';
import { awaitedLater } from '../promise.ts';
import { keepDescriptors } from './own-descriptors.ts';
import { withoutOrders } from './own-node.ts';
import { stoppedSince, waitFor } from './wait-for.ts';

const execute = promisify(execFile);

/** child_process.spawn() for kiln. Throws E_TOO_MANY_FILES. */
export const startProgram = ((program: string, args: readonly string[], options: SpawnOptions) => {
  keepDescriptors();
  const child = spawn(program, args, { env: withoutOrders(process.env), ...options });
  // Without descriptors Node gives up half-way: the child has no streams, and says why only later.
  if (child.stdio === undefined) {
    child.on('error', () => undefined);
    throw new KilnError('E_TOO_MANY_FILES', `cannot start ${program}: too many open files`, {
      hint: 'raise the limit: `ulimit -n 65536`',
    });
  }
  return child;
}) as typeof spawn;

/**
 * Runs a program of the host to its end, or kills it after {@link patience}; where it `works` long, only
 * once it has been stopped for so long. Throws as child_process.execFile() does, and KilnError
 * E_PROGRAM_SILENT.
 */
export async function runProgram(
  program: string,
  args: readonly string[],
  { works = false }: { readonly works?: boolean } = {},
): Promise<{ readonly stdout: string; readonly stderr: string }> {
  keepDescriptors();
  const running = awaitedLater(execute(program, args, { env: withoutOrders(process.env) }));
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
