import { Command } from 'commander';
import type { Caller } from '../caller/caller.ts';
import { advertiseCommand, prepareCommand, publishCommand } from './hooks.ts';
import { cancelCommand, checkCommand, logsCommand, resumeCommand, statusCommand } from './look.ts';
import { stepCommand } from './step.ts';

const EXAMPLES = `
A chain goes to a pool with “kiln build --chain --farm”; docs/farm.md explains it.

Examples:
  kiln farm check
  kiln build --chain --farm -r debian-build --resultdir out *.src.rpm
  kiln farm status 3fa9c1d2
  kiln farm logs -f 3fa9c1d2 app-1-1`;

/** `kiln farm`. */
export function command(caller: Caller): Command {
  const it = new Command('farm')
    .description('Build chains on a pool of machines, which HTCondor schedules.')
    .addHelpText('after', EXAMPLES);
  const commands = [
    checkCommand(caller),
    statusCommand(caller),
    logsCommand(caller),
    cancelCommand(caller),
    resumeCommand(caller),
    stepCommand(caller),
    advertiseCommand(caller),
  ];
  for (const command of commands) it.addCommand(command);
  // For DAGMan, in a chain's folder.
  it.addCommand(prepareCommand(caller), { hidden: true });
  it.addCommand(publishCommand(caller), { hidden: true });
  return it;
}
