/**
 * How kiln starts programs of the host: the only place that does, other than spawn-detached.ts
 * (test/architecture). A child has the descriptors of its stdio and no others, and of the environment
 * nothing that makes it load code.
 */
import { execFile, type SpawnOptions, spawn } from 'node:child_process';
import { promisify } from 'node:util';
import { keepDescriptors } from './own-descriptors.ts';
import { withoutOrders } from './own-node.ts';

const execute = promisify(execFile);

/** child_process.spawn() for kiln. */
export const startProgram = ((program: string, args: readonly string[], options: SpawnOptions) => {
  keepDescriptors();
  return spawn(program, args, { env: withoutOrders(process.env), ...options });
}) as typeof spawn;

/** Runs a program of the host to its end; throws as child_process.execFile() does. */
export async function runProgram(
  program: string,
  args: readonly string[],
): Promise<{ readonly stdout: string; readonly stderr: string }> {
  keepDescriptors();
  return await execute(program, args, { env: withoutOrders(process.env) });
}
