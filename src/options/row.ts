import { defined } from '../defined.ts';
import { type Fields, fieldsOf, type Kind, NOWHERE } from './kind.ts';
import type { Rule } from './rules.ts';
import type { Pair } from './texts.ts';

interface Facts {
  readonly help: string;
  /** `v` for `-v`. */
  readonly short?: string;
  /** What words call it, where that is not its name: one value of several, or something shorter. */
  readonly flag?: string;
  /** What help calls its value, where that is not the kind's. */
  readonly term?: string;
  /** It can be given several times. */
  readonly many?: true;
  /** What it is unless given. */
  readonly usual?: unknown;
  /** How help says that. */
  readonly usually?: string;
  /** The variable that says what it is unless given. */
  readonly variable?: string;
  /** The commands for which kiln.yaml may have a default. */
  readonly defaults?: readonly string[];
  /**
   * Why its values do not go to another machine (`--host`); undefined for those that go as they are. Without it, what
   * is opened travels.
   */
  readonly stays?: (value: unknown) => string | undefined;
  /** What the flag alone means, where a value may follow it behind `=`. */
  readonly preset?: string;
  /** The command wants it. */
  readonly required?: true;
  /** It is another spelling: the flag and value for a word of it. @throws InvalidArgumentError */
  readonly again?: (word: string) => readonly [flag: string, value: string];
  /** Help does not tell of it. */
  readonly hidden?: true;
}

/** An option of a command. Its name, in requests and calls of the API as well, is its key in the table of the command. */
export interface Row<Value = unknown> extends Facts {
  readonly kind: Kind<Value>;
  /** Whether users who are not root may give it. What it names is opened as the kind says. */
  readonly users: Rule;
}

export type Rows = Readonly<Record<string, Row>>;

export function row<Value, const More extends Facts>(kind: Kind<Value>, users: Rule, more: More) {
  return { kind, users, ...more };
}

type One<Each> = Each extends { readonly kind: Kind<infer Value> } ? Value : never;
type Many<Value> = Value extends Pair ? Readonly<Record<string, string>> : readonly Value[];
type ValueOf<Each> = Each extends { readonly many: true } ? Many<One<Each>> : One<Each>;
type Always<Each> = Each extends
  | { readonly many: true }
  | { readonly usual: unknown }
  | { readonly required: true }
  ? true
  : false;

/** Those that have a value always. */
type UsualOf<Table extends Rows> = {
  readonly [Name in keyof Table as Always<Table[Name]> extends true ? Name : never]: ValueOf<
    Table[Name]
  >;
};

/** The values of options, by their names. */
export type ValuesOf<Table extends Rows> = UsualOf<Table> & {
  readonly [Name in keyof Table as Always<Table[Name]> extends true ? never : Name]?: ValueOf<
    Table[Name]
  >;
};

/** `ioWrite` is `--io-write`. */
export function flagOf(name: string, { kind, flag = name }: Row): string {
  const words = flag.replace(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`);
  return `--${kind.negates ? 'no-' : ''}${words}`;
}

/** A value of the API's JSON as the option has it. @throws what a kind's fromJson() throws */
export function optionFromJson({ kind, many }: Row, json: unknown, field: string): unknown {
  const one = (each: unknown) =>
    kind.fromJson === undefined
      ? kind.read(String(each), NOWHERE)
      : kind.fromJson(each as never, field);
  if (!many) return one(json);
  const values = (Array.isArray(json) ? json : Object.entries(json as object)).map(one);
  if (kind.pairs) return Object.fromEntries(values as Pair[]);
  return kind.lists ? values.flat() : values;
}

/** Those of the values that the table has rows for. */
export function valuesIn<Table extends object, Values extends object>(
  table: Table,
  values: Values,
): Pick<Values, keyof Table & keyof Values> {
  const own = Object.entries(values).filter(([name]) => Object.hasOwn(table, name));
  return Object.fromEntries(own) as Pick<Values, keyof Table & keyof Values>;
}

/** What they are unless given. */
export function usualValues<Table extends Rows>(table: Table): UsualOf<Table> {
  const values = Object.entries(table).map(([name, { many, usual, kind }]) => [
    name,
    many ? (kind.pairs ? {} : []) : usual,
  ]);
  return defined(Object.fromEntries(values)) as UsualOf<Table>;
}

/** The words of a command line that ask for what a request asks for. */
export function wordsAgain(name: string, row: Row, request: Fields): string[] {
  const { kind, many = false, preset, usual } = row;
  const flag = flagOf(name, row);
  const asked = request[name];
  const values: unknown[] = many ? (Array.isArray(asked) ? asked : []) : [asked];
  if (usual !== undefined && asked === usual) return [];
  if (kind.term === undefined) return asked === !kind.negates ? [flag] : [];
  return values.flatMap((value) => {
    const word = (kind.word ?? plainWord)(value);
    if (word === undefined) return [];
    return preset === undefined ? [flag, word] : [`${flag}=${word}`];
  });
}

function plainWord(value: unknown): string | undefined {
  return typeof value === 'string' || typeof value === 'number' ? String(value) : undefined;
}

/** What a job asks for, as what comes of it has that: the values that are told by their words. */
export function toldWords(table: Rows, request: object): Fields {
  const told = Object.entries(table).flatMap(([name, { kind, many }]) => {
    const value = fieldsOf(request)[name];
    if (kind.told !== true || value === undefined) return [];
    return [[name, many ? [value].flat().map(kind.word ?? plainWord) : kind.word?.(value)]];
  });
  return Object.fromEntries(told);
}

/** What holds for users who are not root. */
export function usersRule({ kind, users }: Row): Rule {
  return users === 'open' ? (kind.opens ?? users) : users;
}
