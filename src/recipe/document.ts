import {
  isMap,
  isNode,
  isScalar,
  LineCounter,
  type Node,
  parseDocument,
  type Document as YamlDocument,
} from 'yaml';
import type * as z from 'zod';
import { defined } from '../defined.ts';
import { KilnError } from '../errors.ts';
import { readUserFile } from '../host/files/user-file.ts';
import { formatPath, knownKeys, type RecipeProblem, suggest } from './problem.ts';

/** One YAML file, with the place of each of its values. */
export class RecipeDocument {
  readonly file: string;
  readonly problems: RecipeProblem[] = [];
  readonly #document: YamlDocument.Parsed;
  readonly #lines: LineCounter;

  /** Parses `text`. Broken YAML becomes problems, never an exception. `file` is the name in messages. */
  constructor(file: string, text: string) {
    this.file = file;
    this.#lines = new LineCounter();
    this.#document = parseDocument(text, { lineCounter: this.#lines, prettyErrors: false });
    for (const error of [...this.#document.errors, ...this.#document.warnings]) {
      const position = this.#lines.linePos(error.pos[0]);
      this.problems.push({
        file,
        line: position.line,
        column: position.col,
        path: '',
        message: error.message,
      });
    }
  }

  /** The document as plain values; undefined when its YAML is broken. Aliases are bounded by `yaml`. */
  value(): unknown {
    if (this.#document.errors.length > 0) return undefined;
    try {
      return this.#document.toJS({ maxAliasCount: 100 }) ?? {};
    } catch (error) {
      this.report([], error instanceof Error ? error.message : String(error));
      return undefined;
    }
  }

  /** Adds a problem at a key. With `atKey` the place is the key itself, not its value. */
  report(
    path: readonly PropertyKey[],
    message: string,
    options: { hint?: string; atKey?: boolean } = {},
  ): void {
    this.problems.push({
      file: this.file,
      ...this.#place(path, options.atKey ?? false),
      path: formatPath(path),
      message,
      ...defined({ hint: options.hint }),
    });
  }

  /** Parses `value` with `schema`, and reports each problem with its place. */
  check<Schema extends z.ZodType>(schema: Schema, value: unknown): z.output<Schema> | undefined {
    const result = schema.safeParse(value, { reportInput: true });
    if (result.success) return result.data;
    for (const issue of result.error.issues) this.#reportIssue(schema, issue, []);
    return undefined;
  }

  #reportIssue(schema: z.ZodType, issue: z.core.$ZodIssue, outer: readonly PropertyKey[]): void {
    const path = [...outer, ...issue.path];
    if (issue.code === 'unrecognized_keys') {
      for (const key of issue.keys) {
        const known = knownKeys(schema, path);
        const near = suggest(key, known);
        const hint = near === undefined ? listOf(known) : `did you mean "${near}"?`;
        this.report([...path, key], 'unknown key', { hint, atKey: true });
      }
      return;
    }
    if (issue.code === 'invalid_value' && typeof issue.input === 'string') {
      const values = issue.values.map(String);
      const near = suggest(issue.input, values);
      this.report(path, `"${issue.input}" is not one of ${values.join(', ')}`, {
        ...(near === undefined ? {} : { hint: `did you mean "${near}"?` }),
      });
      return;
    }
    if (issue.code === 'invalid_union' && issue.errors.length > 0) {
      // The branch with the fewest problems is probably the intended one, unless it is for another kind of
      // value.
      const nearest = [...issue.errors].sort(
        (a, b) => Number(isOtherKind(a)) - Number(isOtherKind(b)) || a.length - b.length,
      )[0]!;
      for (const inner of nearest) this.#reportIssue(schema, inner, path);
      return;
    }
    if (issue.code === 'invalid_type' && issue.input === undefined) {
      this.report(path, 'is missing', { hint: `a ${issue.expected} is needed here` });
      return;
    }
    if (issue.code === 'invalid_type') {
      this.report(path, `must be ${article(issue.expected)}, not ${kindOf(issue.input)}`, {
        ...(issue.expected === 'string' ? { hint: 'put it in quotes' } : {}),
      });
      return;
    }
    this.report(path, issue.message);
  }

  #place(path: readonly PropertyKey[], atKey: boolean): { line: number; column: number } {
    const offset = this.#offset(path, atKey);
    if (offset === undefined) return { line: 0, column: 0 };
    const position = this.#lines.linePos(offset);
    return { line: position.line, column: position.col };
  }

  /** The place of a key's value; for a missing value, of the nearest enclosing one. */
  #offset(path: readonly PropertyKey[], atKey: boolean): number | undefined {
    if (atKey && path.length > 0) {
      const parent = this.#node(path.slice(0, -1));
      const pair = isMap(parent)
        ? parent.items.find((item) => isScalar(item.key) && item.key.value === path.at(-1))
        : undefined;
      if (pair !== undefined && isNode(pair.key) && pair.key.range) return pair.key.range[0];
    }
    for (let length = path.length; length >= 0; length--) {
      const node = this.#node(path.slice(0, length));
      if (node?.range) return node.range[0];
    }
    return undefined;
  }

  #node(path: readonly PropertyKey[]): Node | undefined {
    if (path.length === 0) return this.#document.contents ?? undefined;
    const node = this.#document.getIn(path, true);
    return isNode(node) ? node : undefined;
  }
}

function isOtherKind(issues: readonly z.core.$ZodIssue[]): boolean {
  return issues.some(({ code, path }) => code === 'invalid_type' && path.length === 0);
}

function listOf(keys: readonly string[]): string {
  return keys.length === 0 ? 'remove it' : `known here: ${keys.join(', ')}`;
}

function article(noun: string): string {
  const name = noun === 'record' || noun === 'object' ? 'map' : noun === 'array' ? 'list' : noun;
  return /^[aeiou]/.test(name) ? `an ${name}` : `a ${name}`;
}

function kindOf(value: unknown): string {
  if (value === null) return 'empty';
  if (Array.isArray(value)) return 'a list';
  return typeof value === 'object' ? 'a map' : `a ${typeof value}`;
}

/** A recipe is written by hand: a larger file (bytes) is something else. */
export const RECIPE_SIZE_LIMIT = 1024 * 1024;

/** The text of a recipe. Throws E_RECIPE_READ with `hint`, which says where recipes are. */
export async function readRecipeText(file: string, hint: string): Promise<string> {
  try {
    return readUserFile(file, RECIPE_SIZE_LIMIT).toString('utf8');
  } catch (cause) {
    throw new KilnError('E_RECIPE_READ', `cannot read the recipe ${file}`, { cause, hint });
  }
}
