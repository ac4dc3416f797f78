import { LISTED, type Listed } from '../../../src/cli/completion.ts';
import { shellWord } from '../../../src/shell-words.ts';
import {
  type CommandDescription,
  type NamedValue,
  type OptionDescription,
  valueKind,
  withSubcommands,
} from '../describe.ts';

/** What else a value may be. */
const FILES: Readonly<Partial<Record<Listed, string>>> = {
  image: " || _files -g '*.(yaml|json)'",
  recipe: ' || _files',
  profile: " || _files -g '*.json'",
};

const HEAD = `#compdef kiln kiln-mock
# zsh completion for kiln and kiln-mock. \`kiln completion zsh\` prints it.

# What kiln lists of a kind: a word and what it is on each line.
__kiln_listed() {
  local -a found
  found=(\${(f)"$(kiln complete $1 2>/dev/null)"})
  found=(\${found//:/\\\\:})
  found=(\${found/$'\\t'/:})
  _describe -t $1 $1 found
}
${LISTED.map((kind) => `__kiln_${kind}() { __kiln_listed ${kind}${FILES[kind] ?? ''} }`).join('\n')}

`;

/** Before a colon, or between brackets, of a specification of _arguments. */
function plain(text: string): string {
  return text.replaceAll(/[[\]:\\]/g, '\\$&');
}

function action(value: NamedValue): string {
  const message = plain(value.name);
  if (value.choices.length > 0) return `${message}:(${value.choices.join(' ')})`;
  const kind = valueKind(value);
  if (kind === 'file' || kind === 'command') return `${message}:_files`;
  if (kind === 'folder') return `${message}:_files -/`;
  return kind === 'text' ? `${message}: ` : `${message}:__kiln_${kind}`;
}

function optionSpecs({ names, help, value, isRepeatable }: OptionDescription): string[] {
  return names.map((name) => {
    const others = isRepeatable ? '*' : `(${names.join(' ')})`;
    const isLong = name.startsWith('--');
    const form = value === undefined ? '' : value.isOptional ? '=-' : isLong ? '=' : '+';
    const taken = value === undefined ? '' : `:${value.isOptional ? ':' : ''}${action(value)}`;
    return shellWord(`${others}${name}${form}[${plain(help)}]${taken}`);
  });
}

function functionName({ words }: CommandDescription): string {
  return ['_kiln', ...words].join('_');
}

function argumentSpecs({ arguments: all }: CommandDescription): string[] {
  return all.map((argument, at) => {
    if (valueKind(argument) === 'command') return shellWord('*:::command:_files');
    return shellWord(`${argument.isVariadic ? '*' : at + 1}:${action(argument)}`);
  });
}

function leaf(command: CommandDescription): string {
  const specs = [...command.options.flatMap(optionSpecs), ...argumentSpecs(command)];
  // After the command for the sandbox, no option is kiln's.
  const mode = command.passesThrough ? "-s -S -A '-*'" : '-s -S';
  return `${functionName(command)}() {
  _arguments ${mode} \\
    ${specs.join(' \\\n    ')}
}
`;
}

function group(command: CommandDescription): string {
  const name = functionName(command);
  const commands = command.commands.map(({ words, summary }) =>
    shellWord(`${words.at(-1)}:${summary}`),
  );
  const calls = command.commands.map(
    (sub) => `        ${sub.words.at(-1)}) ${functionName(sub)} ;;`,
  );
  const isRoot = command.words.length === 0;
  return `${name}() {
  local curcontext=$curcontext state line
  ${isRoot ? '[[ $service == kiln-mock ]] && { _kiln_mock; return }\n  ' : ''}local -a commands
  commands=(
    ${commands.join('\n    ')}
  )
  _arguments -C \\
    ${command.options.flatMap(optionSpecs).join(' \\\n    ')} \\
    '1:command:->command' '*::argument:->argument'
  case $state in
    command) _describe -t commands command commands ;;
    argument)
      case $line[1] in
${calls.join('\n')}
      esac
      ;;
  esac
}
`;
}

export function zshScript(kiln: CommandDescription): string {
  const functions = withSubcommands(kiln).map((command) =>
    command.commands.length === 0 ? leaf(command) : group(command),
  );
  // As a file of fpath it is the body of _kiln and is called at once; when it is sourced, it is registered.
  return `${HEAD}${functions.join('\n')}
if [[ $funcstack[1] == _kiln ]]; then _kiln "$@"; else compdef _kiln kiln kiln-mock; fi
`;
}
