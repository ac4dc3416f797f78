import { KilnError } from '../../errors.ts';
import { expandSpecifiers, type SpecifierContext } from './specifiers.ts';
import { plainWords, splitWords } from './words.ts';

/** What variables may add to a command's arguments: the kernel takes no more (2 MiB). */
const ARGUMENTS_MAX = 2 * 2 ** 20;

/** A word of a command line. Variables are replaced when it is run, by {@link commandArguments}. */
interface ArgumentWord {
  readonly text: string;
  readonly quoted: boolean;
}

/** One command of ExecStart= and its kin (systemd.service(5), "Command lines"). */
export interface ExecCommand {
  readonly path: string;
  readonly words: readonly ArgumentWord[];
  /** `-`: its failure is none. */
  readonly ignoreFailure: boolean;
  /** `+`, `!`, `!!`: as root, whatever User= says. */
  readonly privileged: boolean;
  /** `:`: no variables are replaced. */
  readonly literal: boolean;
  /** `@`: the first word is argv[0], which kiln does not set. */
  readonly renamed: boolean;
}

/** Reads the value of an Exec setting; undefined when a quote is not closed or a command has no path. */
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
 * The arguments of a command, its path first: a word that is `$NAME` becomes the words of its value
 * (none if it has none), `${NAME}` anywhere its value, `$$` a dollar sign. Throws E_UNIT when that is
 * too much.
 */
export function commandArguments(
  command: ExecCommand,
  environment: Readonly<Record<string, string>>,
): string[] {
  const { path, words, literal } = command;
  if (literal) return [path, ...words.map((word) => word.text)];
  // A few words with many references to a long variable would be larger than the host's memory.
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
