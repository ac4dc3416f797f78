import type { CommandDescription } from './describe.ts';

/** A word of a POSIX shell, of zsh and of bash. */
export function quoted(text: string): string {
  return `'${text.replaceAll("'", "'\\''")}'`;
}

/** A command and all below it. */
export function withSubcommands(command: CommandDescription): CommandDescription[] {
  return [command, ...command.commands.flatMap(withSubcommands)];
}
