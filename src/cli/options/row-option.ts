import { Option } from 'commander';
import { NOWHERE } from '../../options/kind.ts';
import { flagOf, type Row } from '../../options/row.ts';
import type { Pair } from '../../options/texts.ts';

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
