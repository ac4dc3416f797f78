import { once } from 'node:events';
import type { Command } from 'commander';
import { KilnError } from '../errors.ts';
import { findSandbox } from '../sandbox/domain/find-sandbox.ts';
import { PlannedSandbox } from '../sandbox/door/planned-sandbox.ts';
import { connectCommand } from './attach.ts';
import { type Caller, hasTerminal } from './caller/caller.ts';
import { EqualsCommand } from './options/optional-value.ts';
import { addSandboxOptions, type SandboxOptions } from './options/sandbox-options.ts';
import { commandStatus } from './output/exit-status.ts';
import { ownContext, runCommand } from './run.ts';

/** The image's own shell: bash where there is one. */
const SHELL = ['/bin/sh', '-c', 'if command -v bash >/dev/null; then exec bash -l; fi; exec sh -l'];

const EXAMPLES = `
When the shell ends, a new sandbox is destroyed. A kept one stays until its time is over.

Examples:
  kiln shell -r debian-build
  kiln shell -r debian-build --bind .:/work --workdir /work
  kiln run -r debian-build --keep -- make; kiln shell 3fa9c1d2e4`;

/** `kiln shell`. */
export function command(caller: Caller): Command {
  const it = new EqualsCommand('shell')
    .description('Open a shell in a new sandbox, or in one that `kiln run --keep` kept.')
    .usage('[options] | ID')
    .argument(
      '[id]',
      'the id of a kept sandbox, as `kiln ps` shows it; the first digits are enough',
    );
  return addSandboxOptions(it, caller)
    .addHelpText('after', EXAMPLES)
    .action(async (id: string | undefined, options: SandboxOptions) => {
      if (id !== undefined) refuseOptions(it, id);
      const tty = hasTerminal(caller);
      if (id === undefined) await runCommand(SHELL, { ...options, tty }, it, ownContext(caller));
      else await enterKept(id, tty, caller);
    });
}

/** A kept sandbox cannot change: refuse options, so that nobody believes they had an effect. */
function refuseOptions(it: Command, id: string): void {
  const given = it.options.filter(
    (option) => it.getOptionValueSource(option.attributeName()) === 'cli',
  );
  if (given.length === 0) return;
  const names = given.map(({ long }) => long).join(', ');
  throw new KilnError('E_ARGUMENT', `the kept sandbox ${id} takes no ${names}`, {
    hint: 'it has the options that it was kept with; without an id, a new sandbox takes them',
  });
}

async function enterKept(id: string, tty: boolean, caller: Caller): Promise<void> {
  await using engine = caller.openEngine();
  const found = await findSandbox(engine, id);
  const { sandbox, kept, keepUntil } = await PlannedSandbox.reopen(engine, found.id);
  const { TERM } = caller.env;
  try {
    const { process: command } = await sandbox.start(
      {
        ...{ argv: SHELL, policy: kept.policy, workdir: kept.workdir, time: {}, leftovers: 'left' },
        env: { ...kept.env, ...(TERM && tty ? { TERM } : {}) },
      },
      {
        ...(tty ? { terminal: caller.windowSize } : {}),
        handOver: caller.handOver,
      },
    );
    const kill = () => void command.kill('SIGKILL');
    const attachment = connectCommand(command, kill, caller, tty);
    await once(command, 'close');
    attachment.detach();
    const { exitCode, signalCode } = command;
    caller.exitStatus = commandStatus({ exitCode, signal: signalCode, timeLimit: null });
  } finally {
    const left = Math.ceil((keepUntil - Date.now()) / 1000);
    if (left > 0) await sandbox.keep(left, kept);
    else await sandbox.close();
  }
}
