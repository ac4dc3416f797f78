import { LISTED } from '../../../src/cli/completion.ts';
import { shellWord } from '../../../src/shell-words.ts';
import {
  ALSO_FILES,
  type ArgumentDescription,
  type CommandDescription,
  type NamedValue,
  valueKind,
  withSubcommands,
} from '../describe.ts';

const FUNCTIONS = `# bash completion for kiln and kiln-mock. \`kiln completion bash\` prints it.

_kiln_files() {
  compopt -o filenames
  COMPREPLY+=($(compgen "$1" -- "$cur"))
}

# Completes $cur to a value of this kind: one that kiln lists, a file, or one of the words after "=".
_kiln_value() {
  local IFS=$'\\n'
  case $1 in
    =*) COMPREPLY=($(compgen -W "\${1:1}" -- "$cur")) ;;
    ${LISTED.join(' | ')})
      COMPREPLY=($(compgen -W "$(kiln complete "$1" 2>/dev/null | cut -f1)" -- "$cur"))
      case $1 in ${ALSO_FILES.join(' | ')}) ((\${#COMPREPLY[@]})) || _kiln_files -f ;; esac
      ;;
    file | command) _kiln_files -f ;;
    folder) _kiln_files -d ;;
  esac
}

_kiln() {
  local cur word i option= path= past= positional=0
  local all=() options=() commands=() arguments=()
  local -A values=()
  # bash has split words at = and at colons.
  for ((i = 0; i <= COMP_CWORD; i++)); do
    word=\${COMP_WORDS[i]}
    if ((i > 1)) && [[ $word == [=:]* || \${all[-1]} == *[=:] ]]; then all[-1]+=$word; else all+=("$word"); fi
  done
  cur=\${all[-1]}
  [[ \${all[0]##*/} == kiln-mock ]] && path=mock
  _kiln_table
  for word in "\${all[@]:1:\${#all[@]}-2}"; do
    if [[ -n $option ]]; then
      option=
    elif [[ -n $past ]]; then
      ((positional++))
    elif [[ $word == -- ]]; then
      past=yes
    elif [[ $word == -* ]]; then
      option=\${values[$word]:-}
    elif [[ " \${commands[*]} " == *" $word "* ]]; then
      path+=\${path:+ }$word
      _kiln_table
    else
      [[ \${arguments[positional]:-} == command ]] && past=yes
      ((positional++))
    fi
  done
  if [[ -n $option ]]; then
    _kiln_value "$option"
  elif [[ -z $past && $cur == --*=* ]]; then
    option=\${cur%%=*}
    cur=\${cur#*=}
    _kiln_value "\${values[$option]:-}"
    if [[ $COMP_WORDBREAKS != *=* ]]; then COMPREPLY=("\${COMPREPLY[@]/#/$option=}"); fi
  elif [[ -z $past && $cur == -* ]]; then
    COMPREPLY=($(compgen -W "\${options[*]}" -- "$cur"))
  elif ((\${#commands[@]})); then
    COMPREPLY=($(compgen -W "\${commands[*]}" -- "$cur"))
  elif ((\${#arguments[@]})); then
    ((positional < \${#arguments[@]})) || positional=$((\${#arguments[@]} - 1))
    _kiln_value "\${arguments[positional]}"
  fi
}

# Options, the values that follow them, commands and arguments of the command $path.
_kiln_table() {
  options=() commands=() arguments=() values=()
  case $path in
`;

function kindOf(value: NamedValue): string {
  return value.choices.length === 0 ? valueKind(value) : `=${value.choices.join('\n')}`;
}

function argumentKinds(all: readonly ArgumentDescription[]): string[] {
  const kinds = all.map(kindOf);
  return all.length === 0 || all.at(-1)?.isVariadic ? kinds : [...kinds, 'text'];
}

function row(command: CommandDescription): string {
  const words = (list: readonly string[]) => list.map(shellWord).join(' ');
  const values = command.options.flatMap(({ names, value }) =>
    value === undefined || value.isOptional
      ? []
      : names.map((name) => `[${name}]=${shellWord(kindOf(value))}`),
  );
  return `    ${shellWord(command.words.join(' '))})
      options=(${command.options.flatMap(({ names }) => names).join(' ')})
      commands=(${command.commands.map(({ words: all }) => all.at(-1)).join(' ')})
      arguments=(${words(argumentKinds(command.arguments))})
      values=(${values.join(' ')})
      ;;
`;
}

/** The script for bash 4 or newer. */
export function bashScript(kiln: CommandDescription): string {
  const rows = withSubcommands(kiln).map(row);
  return `${FUNCTIONS}${rows.join('')}  esac
}

complete -F _kiln kiln kiln-mock
`;
}
