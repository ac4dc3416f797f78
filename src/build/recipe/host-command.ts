/** `$host`: a command of a recipe that the caller lets run on the host. */

import { once } from 'node:events';
import { startProgram } from '../../kernel/child-process.ts';
import { withCallersUmask } from '../../kernel/own-umask.ts';
import type { CommandProcess } from './relayed-command.ts';
import type { RecipeRequest } from './request.ts';
import type { SpawnMessage } from './script-protocol.ts';

/**
 * Starts a command as the caller: with sudo, as the one who called sudo. It ends when kiln does.
 * Throws what spawn(2) says.
 */
export async function startOnHost(
  { argv, cwd, env }: SpawnMessage,
  { caller, callerEnvironment }: Pick<RecipeRequest, 'caller' | 'callerEnvironment'>,
): Promise<CommandProcess> {
  const command = startProgram(
    'setpriv',
    ['--pdeathsig', 'KILL', '--', ...withCallersUmask(argv)],
    {
      cwd,
      env: { ...callerEnvironment, ...env },
      stdio: ['pipe', 'pipe', 'pipe'],
      detached: true,
      ...(process.geteuid?.() === 0 ? { uid: caller.uid, gid: caller.gid } : {}),
    },
  );
  await once(command, 'spawn');
  command.stdin.on('error', () => command.stdin.destroy());
  const { stdin, stdout, stderr, pid } = command;
  return {
    stdin,
    stdout,
    stderr,
    kill: (signal) => {
      if (pid === undefined || command.exitCode !== null || command.signalCode !== null)
        return false;
      try {
        return process.kill(-pid, signal);
      } catch {
        return command.kill(signal as NodeJS.Signals | number);
      }
    },
    once: command.once.bind(command) as CommandProcess['once'],
  };
}
