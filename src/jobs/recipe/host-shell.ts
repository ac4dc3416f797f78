import { once } from 'node:events';
import type { Writable } from 'node:stream';
import { startProgram } from '../../host/process/child-process.ts';
import { withCallersUmask } from '../../host/process/own-umask.ts';
import { shellWord } from '../../shell-words.ts';
import { boundsOfClient, refuseLandlock, startAsUser } from '../../users/client-process.ts';
import type { CallerUser } from '../../users/configuration.ts';
import type { CommandProcess } from './relayed-command.ts';
import type { HostShell } from './request.ts';

type Started = ReturnType<typeof startProgram>;

interface ShellOptions {
  readonly cwd: string;
  readonly environment: Readonly<Record<string, string>>;
}

/** For a caller who is root: commands run as the caller, with sudo as the user who called it. */
export function callerShell(
  { uid, gid }: { readonly uid: number; readonly gid: number },
  { cwd: start, environment }: ShellOptions,
): HostShell {
  return {
    cwd: start,
    start: async ({ argv, cwd, env }) => {
      const command = startProgram(
        'setpriv',
        ['--pdeathsig', 'KILL', '--', ...withCallersUmask(argv)],
        {
          cwd,
          env: { ...environment, ...env },
          stdio: ['pipe', 'pipe', 'pipe'],
          detached: true,
          ...{ uid, gid },
        },
      );
      return await running(command);
    },
  };
}

/** Runs as the user: variables come by descriptor 3, so that no program of root's has them, and `ps` shows none. */
const AS_USER = 'eval "$(cat <&3)"; exec 3<&-; cd -- "$0" && exec "$@"';

const NAME = /^[A-Za-z_][A-Za-z0-9_]*$/;

/**
 * For a user who is not root: commands have the user's ids and groups, no way to other rights, the bounds of the
 * process that called kiln, and only the variables given here.
 */
export function userShell(user: CallerUser, { cwd: start, environment }: ShellOptions): HostShell {
  return {
    cwd: start,
    start: async ({ argv, cwd, env }) => {
      const bounds = boundsOfClient(user);
      await refuseLandlock(user, bounds);
      const words = ['/bin/sh', '-c', AS_USER, cwd, ...withCallersUmask(argv)];
      const command = startAsUser(user, bounds, words, ['pipe', 'pipe', 'pipe', 'pipe']);
      const variables = command.stdio[3] as Writable;
      variables.on('error', () => variables.destroy());
      variables.end(exports({ ...environment, ...env }));
      return await running(command);
    },
  };
}

function exports(variables: Readonly<Record<string, string>>): string {
  return Object.entries(variables)
    .filter(([name]) => NAME.test(name))
    .map(([name, value]) => `export ${name}=${shellWord(value)}\n`)
    .join('');
}

async function running(command: Started): Promise<CommandProcess> {
  await once(command, 'spawn');
  const { stdin, stdout, stderr, pid } = command;
  if (stdin === null || stdout === null || stderr === null) throw new TypeError('no pipes');
  stdin.on('error', () => stdin.destroy());
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
