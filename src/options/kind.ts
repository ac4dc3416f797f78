import { InvalidArgumentError } from 'commander';
import type { z } from 'zod';
import type { Rule } from './rules.ts';

/** By which words mean something: the caller's folder and variables. */
export interface Source {
  readonly env: Readonly<Record<string, string | undefined>>;
  cwd(): string;
  variable(name: string): string | undefined;
}

/** For kinds that need none, and for calls, which give whole values. */
export const NOWHERE: Source = { env: {}, cwd: () => '/', variable: () => undefined };

/**
 * A kind of value that options have. It says once how it is read from a word and from the API's JSON, how a word says it
 * again, and what becomes of a path in it. `Value` is what it is once such a path has been opened.
 */
export interface Kind<Value = unknown> {
  /** What help calls a value. A flag has none. */
  readonly term?: string;
  /** Undefined for what counts for nothing. @throws InvalidArgumentError */
  readonly read: (word: string, from: Source) => unknown;
  /**
   * Of the API's JSON, in its units, bytes and milliseconds. What has none is a word there, too.
   * @throws InvalidArgumentError, KilnError E_ARGUMENT
   */
  readonly fromJson?: (json: never, field: string) => unknown;
  /**
   * The word for what a request has. That comes from result.json, a file: it can be anything.
   * What has none is text or a number.
   */
  readonly word?: (asked: unknown) => string | undefined;
  /** What comes of a job has its word, not the value. */
  readonly told?: true;
  /** A word has several values. */
  readonly lists?: true;
  /** Several words are one text, with spaces between them. */
  readonly joins?: true;
  /** A word has a name and what it stands for: all of them are one record, as in the API's JSON. */
  readonly pairs?: true;
  readonly choices?: readonly string[];
  /** A flag for what is so without it: `--no-NAME`. */
  readonly negates?: true;
  /** What a file in YAML may have, if it is not text or a number. */
  readonly yaml?: z.ZodType<number | string>;
  /** What becomes of a path in it, whoever gives it. */
  readonly opens?: Rule;
  /** Where in a word the path is, if it is not the whole word. */
  readonly pathIn?: (word: string) => readonly [from: number, to: number];
  /** For types alone: nothing has it. */
  readonly value?: Value;
}

/** @throws InvalidArgumentError that says how to write it, where there is no value */
export function needed<Value>(value: Value | undefined, how: string): Value {
  if (value !== undefined) return value;
  throw new InvalidArgumentError(how);
}

export type Fields = Readonly<Record<string, unknown>>;

export function fieldsOf(value: unknown): Fields {
  return typeof value === 'object' && value !== null ? (value as Fields) : {};
}

export const flag: Kind<boolean> = { read: () => true };
export const negation: Kind<boolean> = {
  read: () => false,
  fromJson: (value: boolean) => value,
  negates: true,
};

export function text(term: string): Kind<string> {
  return { term, read: String };
}
