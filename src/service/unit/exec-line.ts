import { KilnError } from '../../errors.ts';
import { expandSpecifiers, type SpecifierContext } from './specifiers.ts';
import { plainWords, splitWords } from './unit-file.ts';

/** The most bytes that variables may add to a command's arguments: the kernel's own limit (2 MiB). */
const ARGUMENTS_MAX = 2 * 2 ** 20;

/** A word of a command line. {@link commandArguments} replaces variables when the command runs. */
interface ArgumentWord {
  readonly text: string;
  readonly quoted: boolean;
}

/** One command of ExecStart= and the like (systemd.service(5), "Command lines"). */
export interface ExecCommand {
  readonly path: string;
  readonly words: readonly ArgumentWord[];
  /** `-`: its failure does not count. */
  readonly ignoreFailure: boolean;
  /** `+`, `!`, `!!`: as root, whatever User= says. */
  readonly privileged: boolean;
  /** `:`: no variables are replaced. */
  readonly literal: boolean;
  /** `@`: the first word is argv[0], which kiln does not set. */
  readonly renamed: boolean;
}

/** Parses the value of an Exec setting; undefined if a quote is not closed or a command has no path. */
export function parseExecLine(value: string, context: SpecifierContext): ExecCommand[] | undefined {
  const all = splitWords(value);
  if (all === undefined) return undefined;
  const commands: ExecCommand[] = [];
  let words: ArgumentWord[] = [];
  const finish = (): boolean => {
    const command = readCommand(words);
    words = [];
    if (command === undefined) return false;
    commands.push(command);
    return true;
  };
  for (const { text, quoted } of all) {
    if (text === ';' && !quoted) {
      if (!finish()) return undefined;
    } else if (text === '\\;') words.push({ text: ';', quoted });
    else words.push({ text: expandSpecifiers(text, context), quoted });
  }
  if (words.length > 0 && !finish()) return undefined;
  return commands;
}

function readCommand(words: readonly ArgumentWord[]): ExecCommand | undefined {
  const [first, ...rest] = words;
  const [, prefixes = '', path = ''] = /^([-@:+!|]*)(.*)$/s.exec(first?.text ?? '') ?? [];
  if (path === '') return undefined;
  const renamed = prefixes.includes('@');
  return {
    path,
    words: renamed ? rest.slice(1) : rest,
    ignoreFailure: prefixes.includes('-'),
    privileged: /[+!]/.test(prefixes),
    literal: prefixes.includes(':'),
    renamed,
  };
}

/**
 * The arguments of a command, its path first. A word `$NAME` becomes the words of its value (none if unset),
 * `${NAME}` anywhere becomes its value, `$$` a dollar sign. Throws E_UNIT if the result is too long.
 */
export function commandArguments(
  command: ExecCommand,
  environment: Readonly<Record<string, string>>,
): string[] {
  const { path, words, literal } = command;
  if (literal) return [path, ...words.map((word) => word.text)];
  // A few words with many references to a long variable could exceed the host's memory.
  let left = ARGUMENTS_MAX;
  const taken = (text: string): string => {
    left -= text.length;
    if (left >= 0) return text;
    throw new KilnError(
      'E_UNIT',
      `the arguments of ${path} are longer than ${ARGUMENTS_MAX} bytes`,
    );
  };
  const expanded = words.flatMap(({ text }) => {
    const name = /^\$([A-Za-z_][A-Za-z0-9_]*)$/.exec(text)?.[1];
    if (name !== undefined) return plainWords(taken(environment[name] ?? ''));
    return [
      text.replace(/\$\$|\$\{([A-Za-z_][A-Za-z0-9_]*)\}/g, (whole, braced: string | undefined) =>
        braced === undefined ? (whole === '$$' ? '$' : whole) : taken(environment[braced] ?? ''),
      ),
    ];
  });
  return [path, ...expanded];
}

const ASSIGNMENT = /^([A-Za-z_][A-Za-z0-9_]*)=([\s\S]*)$/;

/** The assignments of `Environment=`: words of the form NAME=VALUE. Others are ignored. */
export function parseAssignments(value: string): [string, string][] {
  return (splitWords(value) ?? []).flatMap(({ text }): [string, string][] => {
    const [, name, content] = ASSIGNMENT.exec(text) ?? [];
    return name === undefined || content === undefined ? [] : [[name, content]];
  });
}

/**
 * The variables of an environment file (systemd.exec(5), EnvironmentFile=): lines NAME=VALUE as a
 * shell would read them, without any expansion; comments begin with # or ;.
 */
export function parseEnvironmentFile(text: string): [string, string][] {
  const variables: [string, string][] = [];
  const joined = text.replace(/\\\n/g, '');
  for (const line of joined.split('\n')) {
    const content = line.trim();
    if (content === '' || /^[#;]/.test(content)) continue;
    const [, name, value] = ASSIGNMENT.exec(content.replace(/^export\s+/, '')) ?? [];
    if (name === undefined || value === undefined) continue;
    variables.push([name, unquoted(value.trim())]);
  }
  return variables;
}

/** Removes quotes and backslashes as a shell would. */
function unquoted(value: string): string {
  let result = '';
  let quote = '';
  for (let at = 0; at < value.length; at++) {
    const char = value[at]!;
    if (quote === "'") {
      if (char === "'") quote = '';
      else result += char;
    } else if (char === '\\' && at + 1 < value.length) {
      const next = value[++at]!;
      result += quote === '"' && !/["\\$`]/.test(next) ? `\\${next}` : next;
    } else if (quote === '"') {
      if (char === '"') quote = '';
      else result += char;
    } else if (char === '"' || char === "'") quote = char;
    else result += char;
  }
  return result;
}
