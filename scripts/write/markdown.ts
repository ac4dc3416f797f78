/** docs/reference: a page for each of kiln's commands. */
import type { CommandDescription, OptionDescription } from './describe.ts';
import { noteBlocks, pageName, withPages } from './man.ts';

const HEAD =
  '<!-- Written by scripts/write/reference.ts from the options of the command line. Do not edit. -->\n';

/** In a cell of a table. */
function cell(text: string): string {
  return text.replaceAll('|', '\\|').replaceAll('<', '&lt;').replaceAll('*', '\\*');
}

function code(text: string): string {
  return `\`${text.replaceAll('|', '\\|')}\``;
}

function optionRow({ flags, help, value, preset }: OptionDescription): string {
  const choices =
    value === undefined || value.choices.length === 0
      ? ''
      : `: ${value.choices.map((choice) => `\`${choice}\``).join(', ')}`;
  return `| ${code(flags)} | ${cell(help)}${choices} | ${preset === undefined ? '' : cell(preset)} |\n`;
}

/** Lines of a page: longer ones have their subcommands on pages of their own. */
const LONGEST = 250;

function body(command: CommandDescription, heading: string, hasOwnPages = false): string {
  const { arguments: taken, options } = command;
  const notes = noteBlocks(command.notes).map(({ title, lines, isVerbatim }) => {
    const above = title === '' || title === 'Examples' ? '' : `${title}:\n\n`;
    return isVerbatim
      ? `${above}\`\`\`text\n${lines.join('\n')}\n\`\`\`\n`
      : `${above}${cell(lines.join('\n'))}\n`;
  });
  const rows = taken.map(({ name, help, isVariadic, choices }) => {
    const of =
      choices.length === 0 ? '' : `: ${choices.map((choice) => `\`${choice}\``).join(', ')}`;
    return `| ${code(isVariadic ? `${name}…` : name)} | ${cell(help)}${of} | |\n`;
  });
  const table = [...rows, ...options.map(optionRow)];
  return [
    `\`\`\`text\n${command.usage.join('\n')}\n\`\`\`\n`,
    `${cell(command.description)}\n`,
    ...(table.length === 0 ? [] : [`| | | default |\n| --- | --- | --- |\n${table.join('')}`]),
    ...notes,
    ...(hasOwnPages
      ? [listOf(command.commands)]
      : command.commands.map((sub) => `${heading} ${sub.program}\n\n${body(sub, `${heading}#`)}`)),
  ].join('\n');
}

function listOf(commands: readonly CommandDescription[]): string {
  const rows = commands.map(
    (command) => `| [${command.program}](${pageName(command)}.md) | ${cell(command.summary)} |\n`,
  );
  return `| | |\n| --- | --- |\n${rows.join('')}`;
}

type Page = readonly [name: string, text: string];

function pagesOf(command: CommandDescription): readonly Page[] {
  const page = (hasOwnPages: boolean): Page => [
    `${pageName(command)}.md`,
    `${HEAD}# ${command.program}\n\n${body(command, '##', hasOwnPages)}`,
  ];
  const whole = page(false);
  if (whole[1].split('\n').length <= LONGEST) return [whole];
  return [page(true), ...command.commands.flatMap(pagesOf)];
}

/** The pages by their file names; README.md lists them. */
export function referencePages(kiln: CommandDescription): ReadonlyMap<string, string> {
  const commands = withPages(kiln);
  const pages = commands.flatMap(pagesOf);
  const index = `${HEAD}# Commands and their options

The same pages are \`man kiln\`, \`man kiln-run\` and so on where a package of kiln is installed.

${listOf(commands)}`;
  return new Map([['README.md', index], ...pages]);
}
