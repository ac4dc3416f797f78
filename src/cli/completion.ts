import { Argument, Command } from 'commander';
import type { Caller } from './caller/caller.ts';
import type { CommandDescription } from './reference/describe.ts';
import { SHELLS, type Shell } from './reference/shells.ts';

const EXAMPLES = `
Packages of kiln install these scripts. From a checkout:

Examples:
  kiln completion bash >/etc/bash_completion.d/kiln
  kiln completion zsh >"\${fpath[1]}/_kiln"
  kiln completion fish >~/.config/fish/completions/kiln.fish`;

/** `kiln completion`; `describeKiln` has all commands, of which this is one. */
export function command(
  caller: Caller,
  describeKiln: (caller: Caller) => Promise<CommandDescription>,
): Command {
  return new Command('completion')
    .description('Print the script by which a shell completes kiln’s command lines.')
    .addArgument(new Argument('<shell>', 'the shell').choices(Object.keys(SHELLS)))
    .addHelpText('after', EXAMPLES)
    .action(async (shell: Shell) => {
      caller.stdout.write(SHELLS[shell](await describeKiln(caller)));
    });
}
