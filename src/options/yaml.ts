/** Keys of YAML files that mean what options mean: of recipes, service definitions and kiln.yaml. */
import { InvalidArgumentError } from 'commander';
import { z } from 'zod';
import { defined } from '../defined.ts';
import { type Kind, NOWHERE } from './kind.ts';
import * as numbers from './numbers.ts';
import { flagOf, type Row, type Rows, type ValuesOf } from './row.ts';
import { VARIABLE } from './texts.ts';

/** A value of a kind, as words have it; numbers need no quotes. */
export function yaml<Value>(kind: Kind<Value>) {
  return (kind.yaml ?? z.union([z.number(), z.string()])).transform((value, context) => {
    try {
      return kind.read(String(value), NOWHERE) as Value;
    } catch (error) {
      if (!(error instanceof InvalidArgumentError)) throw error;
      const message = `"${value}" is ${error.message.replace(/\.$/, '')}`;
      context.addIssue({ code: 'custom', message });
      return z.NEVER;
    }
  });
}

/** In bytes. */
export const size = yaml(numbers.size);

/** In milliseconds. */
export const time = yaml(numbers.time);

/** In seconds. */
export const seconds = yaml({ ...numbers.time, read: (word) => numbers.time.read(word) / 1000 });

export const environment = z.record(
  z.string().regex(VARIABLE, 'letters, digits and _ only'),
  z.string().regex(/^[^\0]*$/, 'no NUL byte'),
);

/** `ioWrite` is `io-write`. */
type Key<Name> = Name extends `${infer First}${infer Rest}`
  ? `${First extends Lowercase<First> ? First : `-${Lowercase<First>}`}${Key<Rest>}`
  : '';

type Keys<Table extends Rows> = {
  readonly [Name in keyof Table as Key<Name>]: z.ZodOptional<ReturnType<typeof yaml<number>>>;
};

export type Keyed<Table extends Rows> = {
  readonly [Name in keyof ValuesOf<Table> as Key<Name>]?: ValuesOf<Table>[Name] | undefined;
};

export function keyOf(name: string, row: Row): string {
  return flagOf(name, row).slice('--'.length);
}

/** A key for each row of a table of numbers. */
export function keysOf<Table extends Readonly<Record<string, Row<number>>>>(table: Table) {
  const keys = Object.entries<Row<number>>(table).map(([name, row]) => [
    keyOf(name, row),
    yaml(row.kind).optional().describe(row.help),
  ]);
  return Object.fromEntries(keys) as Keys<Table>;
}

/** What the keys of a file say, by the names of the rows. */
export function valuesOfKeys<Table extends Rows>(table: Table, keyed: Keyed<Table>) {
  const values = Object.entries(table).map(([name, row]) => [
    name,
    (keyed as Readonly<Record<string, unknown>>)[keyOf(name, row)],
  ]);
  return defined(Object.fromEntries(values)) as Partial<ValuesOf<Table>>;
}

export function keysOfValues<Table extends Rows>(table: Table, values: Partial<ValuesOf<Table>>) {
  const keyed = Object.entries(table).map(([name, row]) => [
    keyOf(name, row),
    values[name as keyof ValuesOf<Table>],
  ]);
  return defined(Object.fromEntries(keyed)) as Keyed<Table>;
}
