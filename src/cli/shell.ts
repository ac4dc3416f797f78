import { once } from 'node:events';
import { Command } from 'commander';
import { reopenSandbox } from '../sandbox/open.ts';
import { seccompFilter } from '../sandbox/seccomp/profile.ts';
import { attach, attachTerminal } from './attach.ts';
import { openEngine } from './engine.ts';
import { commandStatus } from './exit-status.ts';
import { runCommand } from './run.ts';
import { addSandboxOptions, type SandboxOptions } from './sandbox-options.ts';

/** The image's own shell: bash where there is one. */
const SHELL = ['/bin/sh', '-c', 'if command -v bash >/dev/null; then exec bash -l; fi; exec sh -l'];

const EXAMPLES = `
Leaving the shell destroys a new sandbox; one that was kept stays until its time is over.

Examples:
  kiln shell -r debian-build
  kiln shell -r debian-build --bind .:/work --workdir /work
  kiln run -r debian-build --keep -- make; kiln shell 3fa9c1d2e4`;

/** `kiln shell`. */
export function command(): Command {
  const it = new Command('shell')
    .description('An interactive shell in a new sandbox, or in one that `run --keep` left.')
    .argument('[id]', 'a kept sandbox, as `kiln ps` shows it');
  return addSandboxOptions(it)
    .addHelpText('after', EXAMPLES)
    .action(async (id: string | undefined, options: SandboxOptions) => {
      const tty = process.stdin.isTTY === true && process.stdout.isTTY === true;
      if (id === undefined) await runCommand(SHELL, { ...options, tty }, it);
      else await enterKept(id, tty);
    });
}

async function enterKept(id: string, tty: boolean): Promise<void> {
  await using engine = openEngine();
  const { sandbox, session, keepUntil } = await reopenSandbox(engine, id);
  try {
    const seccomp = await seccompFilter(engine.paths, session.seccomp, session.capabilities);
    const command = await sandbox.spawn(SHELL, {
      policy: {
        user: session.user,
        capabilities: session.capabilities,
        seccomp,
        ...(session.landlock === undefined ? {} : { landlock: session.landlock }),
      },
      env: { ...session.env, ...(process.env.TERM && tty ? { TERM: process.env.TERM } : {}) },
      workdir: session.workdir,
      ...(tty ? { terminal: { rows: process.stdout.rows, columns: process.stdout.columns } } : {}),
    });
    const kill = () => void command.kill('SIGKILL');
    const attachment = (tty ? attachTerminal : attach)(command, kill);
    await once(command, 'close');
    attachment.detach();
    const { exitCode, signalCode } = command;
    process.exitCode = commandStatus({ exitCode, signal: signalCode, timeLimit: null });
  } finally {
    const left = Math.ceil((keepUntil - Date.now()) / 1000);
    if (left > 0) await sandbox.keep(left, session);
    else await sandbox.close();
  }
}
