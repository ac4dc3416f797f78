import { Option } from 'commander';
import { NOWHERE, type Source } from '../../options/kind.ts';
import { flagOf, type Row, type Rows } from '../../options/row.ts';
import type { Pair } from '../../options/texts.ts';
import type { KilnCommand } from './command.ts';

type Parse<Value> = (text: string) => Value;

export function parsed(flags: string, description: string, parse: Parse<unknown>): Option {
  return new Option(flags, description).argParser(parse);
}

/** @param parse undefined for what counts for nothing */
export function repeated(flags: string, description: string, parse: Parse<unknown>): Option {
  return repeating(new Option(flags, description), parse);
}

function repeating(option: Option, parse: Parse<unknown>, lists = false): Option {
  return option
    .argParser((text: string, before: unknown[] = []) => {
      const value = parse(text);
      if (value === undefined) return before;
      return lists && Array.isArray(value) ? [...before, ...value] : [...before, value];
    })
    .default([], 'none');
}

/** Each word has a name and a value: they are one record. */
function pairing(option: Option, parse: Parse<unknown>): Option {
  return option
    .argParser((text: string, before: object = {}) => {
      const pair = parse(text) as Pair | undefined;
      return pair === undefined ? before : { ...before, [pair[0]]: pair[1] };
    })
    .default({}, 'none');
}

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
    if (term === undefined) return;
    const read = (text: string) => kind.read(text, from);
    if (kind.pairs) pairing(this, read);
    else if (many) repeating(this, read, kind.lists);
    else this.argParser(read).default((variable && from.env[variable]) || usual, usually);
    if (preset !== undefined) this.preset(preset);
    if (kind.choices !== undefined) this.argChoices = [...kind.choices];
  }

  override attributeName(): string {
    return this.#name;
  }
}

export function addOptions(command: KilnCommand, rows: Rows, from?: Source): KilnCommand {
  for (const [name, row] of Object.entries(rows)) command.addOption(new RowOption(name, row, from));
  return command;
}
