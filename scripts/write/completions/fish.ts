import {
  ALSO_FILES,
  type CommandDescription,
  type NamedValue,
  type OptionDescription,
  valueKind,
  withSubcommands,
} from '../describe.ts';

/** A word of fish's: only these two signs mean something between quotes. */
function word(text: string): string {
  return `'${text.replaceAll(/[\\']/g, '\\$&')}'`;
}

const HEAD = `# fish completion for kiln and kiln-mock. \`kiln completion fish\` prints it.

# Whether the words so far call this command, and nothing behind a -- is asked for.
function __kiln_at
    set -l words (commandline -pxc)
    contains -- -- $words; and return 1
    set -l path
    for word in $words[2..]
        string match -q -- '-*' $word; and continue
        contains -- (string join ' ' $path $word) $__kiln_commands; or break
        set -a path $word
    end
    test "$path" = "$argv"
end

complete -c kiln -f
complete -c kiln-mock -f
`;

function values(value: NamedValue): string {
  if (value.choices.length > 0) return `-f -a ${word(value.choices.join(' '))}`;
  const kind = valueKind(value);
  if (kind === 'file' || kind === 'command') return '-F';
  if (kind === 'folder') return "-f -a '(__fish_complete_directories)'";
  if (kind === 'text') return '-f';
  const files = ALSO_FILES.includes(kind) ? '-F' : '-f';
  return `${files} -a '(kiln complete ${kind} 2>/dev/null)'`;
}

function optionLine(start: string, { names, help, value }: OptionDescription): string {
  const flags = names.map((name) =>
    name.startsWith('--') ? `-l ${name.slice(2)}` : `-s ${name.slice(1)}`,
  );
  const taken = value === undefined || value.isOptional ? '' : ` -r ${values(value)}`;
  return `${start} ${flags.join(' ')}${taken} -d ${word(help)}`;
}

function lines(command: CommandDescription): string[] {
  const { words, program } = command;
  const start =
    program === 'kiln-mock'
      ? 'complete -c kiln-mock'
      : `complete -c kiln -n ${word(`__kiln_at ${words.join(' ')}`.trim())}`;
  return [
    ...command.options.map((option) => optionLine(start, option)),
    ...command.commands.map(
      ({ words: sub, summary }) => `${start} -f -a ${sub.at(-1)} -d ${word(summary)}`,
    ),
    ...command.arguments.map((argument) => `${start} ${values(argument)}`),
  ];
}

/** The script for fish 3.4 or newer. */
export function fishScript(kiln: CommandDescription): string {
  const all = withSubcommands(kiln);
  const known = all.filter(({ words }) => words.length > 0);
  const names = known.map(({ words }) => word(words.join(' '))).join(' ');
  return `${HEAD}set -g __kiln_commands ${names}

${all.flatMap(lines).join('\n')}
`;
}
