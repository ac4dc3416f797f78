import {
  type AddHelpTextContext,
  type AddHelpTextPosition,
  type Argument,
  Command,
  Help,
  InvalidArgumentError,
  type Option,
} from 'commander';
import { KilnError } from '../../errors.ts';
import type { Source } from '../../options/kind.ts';
import type { Row, Rows } from '../../options/row.ts';
import { filled } from '../output/fill.ts';
import { RowOption } from './row-option.ts';

/** An empty path, of a variable that is not set, would be the caller's folder. */
function refuseEmpty(given: Option | Argument): void {
  const { parseArg } = given;
  given.argParser((text: string, before: unknown) => {
    if (text === '') throw new InvalidArgumentError('a path cannot be empty.');
    return parseArg === undefined ? text : parseArg(text, before);
  });
}

/** Columns of the names in help; what is longer has a line of its own. */
const NAMES = 26;

const help = Help.prototype;

/** An option as somebody has written it. */
export interface WrittenOption {
  readonly flag: string;
  readonly attribute: string;
  /** Null for a flag alone. */
  readonly text: string | null;
  readonly row: Row;
}

/**
 * A command of kiln's. An optional value must follow `=` (`--keep`, `--keep=10m`): commander would take the next
 * word, which may be an argument of the command.
 */
export class KilnCommand extends Command {
  #passesThrough = false;
  readonly #written: WrittenOption[] = [];

  constructor(name: string) {
    super(name);
    this.configureHelp({
      minWidthToWrap: NAMES,
      padWidth(command, helper) {
        return Math.min(NAMES, help.padWidth.call(this, command, helper));
      },
      formatItem(term, width, description, helper) {
        const isLonger = description !== '' && helper.displayWidth(term) > width;
        const above = isLonger ? `  ${term}\n` : '';
        return above + help.formatItem.call(this, isLonger ? '' : term, width, description, helper);
      },
      optionTerm: ({ flags }) => flags.replace(/ \[(.*)\]$/, '[=$1]'),
      // That an option may be repeated, and is not given, is no value.
      optionDescription(option) {
        return help.optionDescription.call(this, option).replace(' (default: none)', '');
      },
    });
  }

  override createCommand(name: string): KilnCommand {
    return new KilnCommand(name);
  }

  override addOption(option: Option): this {
    if (/<(?:dir|file|path)>$/.test(option.flags)) refuseEmpty(option);
    super.addOption(option);
    if (option instanceof RowOption) this.#listen(option);
    return this;
  }

  #listen(option: RowOption): void {
    const { row } = option;
    const flag = option.long ?? option.short ?? '';
    const attribute = option.attributeName();
    this.on(`option:${option.name()}`, (text?: string | null) => {
      this.#written.push({ flag, attribute, text: text ?? null, row });
    });
  }

  override addArgument(argument: Argument): this {
    if (!argument.variadic && /^(?:dir|folder|file|path)$/.test(argument.name()))
      refuseEmpty(argument);
    return super.addArgument(argument);
  }

  /** Gives it an option for each row. */
  rows(table: Rows, from?: Source): this {
    for (const [name, row] of Object.entries(table)) this.addOption(new RowOption(name, row, from));
    return this;
  }

  override addHelpText(
    position: AddHelpTextPosition,
    text: string | ((context: AddHelpTextContext) => string),
  ): this {
    return super.addHelpText(position, (context) =>
      filled(typeof text === 'string' ? text : text(context)),
    );
  }

  examples(...lines: readonly string[]): this {
    return this.addHelpText('after', ['\nExamples:', ...lines].join('\n  '));
  }

  isGiven(name: string): boolean {
    return this.getOptionValueSource(name) === 'cli';
  }

  /** Its options in the command line: those of the environment and of kiln.yaml do not count. */
  given(): Option[] {
    return this.options.filter((option) => this.isGiven(option.attributeName()));
  }

  /** The same with their words, in their order: each value of those that are given several times. */
  get written(): readonly WrittenOption[] {
    return this.#written;
  }

  override parseOptions(argv: string[]): ReturnType<Command['parseOptions']> {
    const again = (option: RowOption, word: string) => this.#again(option, word);
    return super.parseOptions(withPresets(this.options, argv, this.#passesThrough, again));
  }

  /** The words that an option which is another spelling stands for. */
  #again({ flags, row }: RowOption, word: string): readonly string[] {
    try {
      const [flag, value] = row.again?.(word) ?? [];
      if (flag === undefined || value === undefined) return [];
      if (this.options.some(({ long }) => long === flag)) return [flag, value];
      throw new InvalidArgumentError(`kiln ${wordsOf(this)} has no ${flag}.`);
    } catch (error) {
      if (!(error instanceof InvalidArgumentError)) throw error;
      const { exitCode, code } = error;
      return this.error(
        `error: option '${flags}' argument '${word}' is invalid. ${error.message}`,
        { exitCode, code },
      );
    }
  }

  override passThroughOptions(passThrough = true): this {
    this.#passesThrough = passThrough;
    return super.passThroughOptions(passThrough);
  }
}

function withPresets(
  options: readonly Option[],
  argv: readonly string[],
  passesThrough: boolean,
  again: (option: RowOption, word: string) => readonly string[],
): string[] {
  const words: string[] = [];
  for (let at = 0; at < argv.length; at++) {
    const word = argv[at] ?? '';
    if (word === '--' || (passesThrough && !/^-./.test(word))) {
      return [...words, ...argv.slice(at)];
    }
    const option = options.find(({ long, short }) => word === long || word === short);
    const spelled = options.find(
      (each): each is RowOption =>
        each instanceof RowOption &&
        each.row.again !== undefined &&
        (word === each.long || word.startsWith(`${each.long}=`)),
    );
    if (spelled !== undefined && (word !== spelled.long || at + 1 < argv.length)) {
      const value = word === spelled.long ? argv[++at] : word.slice(`${spelled.long}=`.length);
      words.push(...again(spelled, value ?? ''));
      continue;
    }
    // commander also reads a [ inside <> as an optional value.
    if (option?.optional && !option.required) words.push(`${option.long}=${option.presetArg}`);
    else words.push(word);
    if (takesNext(options, option, word) && at + 1 < argv.length) words.push(argv[++at] ?? '');
  }
  return words;
}

function takesNext(options: readonly Option[], option: Option | undefined, word: string): boolean {
  if (option !== undefined) return option.required;
  if (!/^-[^-]./.test(word)) return false;
  const letters = [...word.slice(1)];
  const first = letters.findIndex(
    (letter) => options.find(({ short }) => short === `-${letter}`)?.required === true,
  );
  return first !== -1 && first === letters.length - 1;
}

/** Refuses options, so that nobody believes they had an effect. @throws KilnError E_ARGUMENT */
export function refuseOptions(options: readonly Option[], by: string, hint: string): void {
  if (options.length === 0) return;
  const names = options.map(({ long }) => long).join(', ');
  throw new KilnError('E_ARGUMENT', `${by} takes no ${names}`, { hint });
}

/** Its names, without the program's: `image build`. */
export function wordsOf(action: Command): string {
  const words: string[] = [];
  for (let at: Command | null = action; at?.parent; at = at.parent) words.unshift(at.name());
  return words.join(' ');
}
