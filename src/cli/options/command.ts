import {
  type AddHelpTextContext,
  type AddHelpTextPosition,
  type Argument,
  Command,
  Help,
  InvalidArgumentError,
  Option,
} from 'commander';
import { KilnError } from '../../errors.ts';
import { NOWHERE, type Source } from '../../options/kind.ts';
import { flagOf, type Row, type Rows } from '../../options/row.ts';
import type { Pair } from '../../options/texts.ts';
import { filled } from '../output/fill.ts';

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

type Parse = (text: string) => unknown;

/** An option as its row says. */
export class RowOption extends Option {
  readonly row: Row;
  readonly #name: string;

  /** @param from left out for a kind that needs none */
  constructor(name: string, row: Row, from = NOWHERE) {
    const { kind, short, many, help, usual, usually, variable, preset, term = kind.term } = row;
    const value = term && (preset === undefined ? ` <${term}>` : ` [${term}]`);
    super(`${short ? `-${short}, ` : ''}${flagOf(name, row)}${value ?? ''}`, help);
    this.row = row;
    this.#name = name;
    this.hideHelp(row.hidden === true).makeOptionMandatory(row.required === true);
    // commander gives none to what has an option without the `no-` beside it.
    if (kind.negates) this.default(usual);
    if (term === undefined) return;
    const read = (text: string) => kind.read(text, from);
    if (kind.pairs) this.#pair(read);
    else if (many) this.#repeat(read);
    else if (kind.joins) this.#join(read, usual);
    else this.argParser(read).default((variable && from.env[variable]) || usual, usually);
    if (preset !== undefined) this.preset(preset);
    if (kind.choices !== undefined) this.argChoices = [...kind.choices];
  }

  override attributeName(): string {
    return this.#name;
  }

  /** What has no value counts for nothing. */
  #repeat(read: Parse): void {
    const { lists } = this.row.kind;
    this.argParser((text: string, before: unknown[] = []) => {
      const value = read(text);
      if (value === undefined) return before;
      return lists && Array.isArray(value) ? [...before, ...value] : [...before, value];
    }).default([], 'none');
  }

  /** The first word takes the place of what is usual. */
  #join(read: Parse, usual: unknown): void {
    const { word = String } = this.row.kind;
    this.argParser((text: string, before: unknown) => {
      const isFirst = before === undefined || before === usual;
      return read(isFirst ? text : `${word(before)} ${text}`);
    }).default(usual);
  }

  /** Each word has a name and a value: they are one record. */
  #pair(read: Parse): void {
    this.argParser((text: string, before: object = {}) => {
      const pair = read(text) as Pair | undefined;
      return pair === undefined ? before : { ...before, [pair[0]]: pair[1] };
    }).default({}, 'none');
  }
}
