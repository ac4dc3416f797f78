import type { Command } from 'commander';
import { plainText } from './print.ts';

/** Makes a command, and those below it, print mistakes of the command line in kiln's form. */
export function nameUsageErrors(command: Command): void {
  command.configureOutput({
    outputError: (text, write) => {
      const [first = '', ...more] = plainText(text).trimEnd().split('\n');
      const [, meant] = /^\(Did you mean (.*)\?\)$/.exec(more.join(' ')) ?? [];
      const help = `\`${nameOf(command)} --help\` tells more`;
      write(`kiln: ${first.replace(/^(?:error|kiln): /, '')}\n`);
      write(`  hint: ${meant === undefined ? '' : `did you mean ${meant}? `}${help}\n`);
    },
  });
  for (const sub of command.commands) nameUsageErrors(sub);
}

/** The full name: `kiln image build`. */
function nameOf(command: Command): string {
  return command.parent === null ? command.name() : `${nameOf(command.parent)} ${command.name()}`;
}
