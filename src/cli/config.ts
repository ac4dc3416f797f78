import { Command } from 'commander';
import { stringify } from 'yaml';
import { configurationFile, groupNumber, readUserPolicy } from '../users/configuration.ts';
import type { Caller } from './caller/caller.ts';

const EXAMPLES = `
The configuration is /etc/kiln/kiln.yaml, root's to write; without it, everything is as by default.

Examples:
  kiln config check
  kiln config show`;

/** `kiln config`. */
export function command(caller: Caller): Command {
  const it = new Command('config')
    .description('Show and check what users who are not root may do.')
    .addHelpText('after', EXAMPLES);
  it.command('show')
    .description('Print what is in force, with all that is so by default.')
    .addHelpText('after', '\nExamples:\n  kiln config show')
    .action(() => {
      const policy = caller.user?.policy ?? readUserPolicy(configurationFile(caller.env));
      caller.stdout.say(stringify({ users: policy }));
    });
  it.command('check')
    .description('Read the configuration, and say all that is wrong with it.')
    .addHelpText('after', '\nExamples:\n  kiln config check')
    .action(() => {
      const file = configurationFile(caller.env);
      const { group } = readUserPolicy(file);
      caller.stdout.say(`${file}: no mistakes\n`);
      if (groupNumber(group) === undefined) {
        caller.stderr.say(
          `kiln: warning: there is no group ${group}, so only root can use kiln: groupadd --system ${group}\n`,
        );
      }
    });
  return it;
}
