import {
  isMap,
  isNode,
  isScalar,
  LineCounter,
  type Node,
  type YAMLError,
  type Document as YamlDocument,
} from 'yaml';
import type * as z from 'zod';
import { counted } from '../counted.ts';
import { defined } from '../defined.ts';
import { KilnError } from '../errors.ts';
import { formatPath } from '../host/calls/system-error.ts';
import { NotUtf8, readUserText } from '../host/files/user-file.ts';
import { suggest } from '../suggest.ts';
import { knownKeys, type RecipeProblem, SHOWN } from './problem.ts';
import { parseYaml } from './yaml.ts';

/** In place of those that name functions of the library, which a reader does not call. */
const MESSAGES: Readonly<Partial<Record<YAMLError['code'], string>>> = {
  RESOURCE_EXHAUSTION: 'lists and maps are nested too deeply here',
  MULTIPLE_DOCS: 'a second document begins here: a file has one',
};

export class RecipeDocument {
  readonly file: string;
  readonly problems: RecipeProblem[] = [];
  readonly #document: YamlDocument.Parsed;
  readonly #lines: LineCounter;

  /** Broken YAML becomes problems, never an exception. `file` is the name in messages. */
  constructor(file: string, text: string) {
    this.file = file;
    this.#lines = new LineCounter();
    this.#document = parseYaml(text, { lineCounter: this.#lines, prettyErrors: false });
    // One mistake may have many consequences: of a thousand lists that nobody closes, all end in one place.
    const places = new Set<number>();
    for (const error of [...this.#document.errors, ...this.#document.warnings]) {
      if (places.has(error.pos[0])) continue;
      places.add(error.pos[0]);
      const message = MESSAGES[error.code] ?? error.message;
      this.problems.push({ file, ...this.#position(error.pos[0]), path: '', message });
    }
  }

  /** Undefined when its YAML is broken. Aliases are bounded by `yaml`. */
  value(): unknown {
    if (this.#document.errors.length > 0) return undefined;
    try {
      return this.#document.toJS({ maxAliasCount: 100 }) ?? {};
    } catch (error) {
      this.report([], error instanceof Error ? error.message : String(error));
      return undefined;
    }
  }

  report(
    path: readonly PropertyKey[],
    message: string,
    options: { hint?: string | undefined; atKey?: boolean } = {},
  ): void {
    this.problems.push({
      file: this.file,
      ...this.#place(path, options.atKey ?? false),
      path: formatPath(path),
      message,
      ...defined({ hint: options.hint }),
    });
  }

  /** Of a value's beginning; undefined if it is not there. */
  lineOf(path: readonly PropertyKey[]): number | undefined {
    const [start] = this.#node(path)?.range ?? [];
    return start === undefined ? undefined : this.#lines.linePos(start).line;
  }

  check<Schema extends z.ZodType>(schema: Schema, value: unknown): z.output<Schema> | undefined {
    const result = schema.safeParse(value, { reportInput: true });
    if (result.success) return result.data;
    for (const issue of result.error.issues) this.#reportIssue(schema, issue, []);
    return undefined;
  }

  #reportIssue(schema: z.ZodType, issue: z.core.$ZodIssue, outer: readonly PropertyKey[]): void {
    const path = [...outer, ...issue.path];
    if (issue.code === 'unrecognized_keys') {
      const known = knownKeys(schema, path);
      const more = issue.keys.length - SHOWN;
      if (more > 0) this.report(path, `${counted(more, 'more key is', 'more keys are')} unknown`);
      for (const key of issue.keys.slice(0, SHOWN)) {
        const hint = quotedSuggestion(key, known) ?? listOf(known);
        this.report([...path, key], 'unknown key', { hint, atKey: true });
      }
    } else if (issue.code === 'invalid_value' && typeof issue.input === 'string') {
      const values = issue.values.map(String);
      const hint = quotedSuggestion(issue.input, values);
      this.report(path, `"${issue.input}" is not one of ${values.join(', ')}`, { hint });
    } else if (issue.code === 'invalid_union' && issue.errors.length > 0) {
      // The branch with the fewest problems is probably meant, unless it is for another kind of value.
      const nearest = [...issue.errors].sort(
        (a, b) => Number(isOtherKind(a)) - Number(isOtherKind(b)) || a.length - b.length,
      )[0]!;
      for (const inner of nearest) this.#reportIssue(schema, inner, path);
    } else if (issue.code === 'invalid_key') {
      for (const { message } of issue.issues) this.report(path, message, { atKey: true });
    } else if (issue.code === 'invalid_type' && issue.input === undefined) {
      this.report(path, 'is missing', { hint: `${article(issue.expected)} is needed here` });
    } else if (issue.code === 'invalid_type') {
      this.report(path, `must be ${article(issue.expected)}, not ${kindOf(issue.input)}`, {
        hint: isQuotable(issue) ? 'put it in quotes' : undefined,
      });
    } else if (issue.code === 'too_small' || issue.code === 'too_big') {
      this.report(path, boundOf(issue));
    } else this.report(path, issue.message);
  }

  #place(path: readonly PropertyKey[], atKey: boolean): { line: number; column: number } {
    const offset = this.#offset(path, atKey);
    return offset === undefined ? { line: 0, column: 0 } : this.#position(offset);
  }

  #position(offset: number): { line: number; column: number } {
    const { line, col: column } = this.#lines.linePos(offset);
    return { line, column };
  }

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

function quotedSuggestion(word: string, known: readonly string[]): string | undefined {
  const near = suggest(word, known);
  return near && `did you mean "${near}"?`;
}

function listOf(keys: readonly string[]): string {
  return keys.length === 0 ? 'remove it' : `known here: ${keys.join(', ')}`;
}

function article(noun: string): string {
  const name = noun === 'record' || noun === 'object' ? 'map' : noun === 'array' ? 'list' : noun;
  return /^[aeiou]/.test(name) ? `an ${name}` : `a ${name}`;
}

/** Schemas have words of their own for some bounds; zod's begin with "Too". */
function boundOf(issue: z.core.$ZodIssueTooSmall | z.core.$ZodIssueTooBig): string {
  if (!issue.message.startsWith('Too ')) return issue.message;
  const isSmall = issue.code === 'too_small';
  const bound = isSmall ? issue.minimum : issue.maximum;
  const [least, most] =
    issue.inclusive === false ? ['more than', 'less than'] : ['at least', 'at most'];
  const what = `${isSmall ? least : most} ${bound}`;
  if (issue.origin === 'string') return `needs ${what} ${bound === 1 ? 'character' : 'characters'}`;
  return issue.origin === 'array'
    ? `needs ${what} ${bound === 1 ? 'entry' : 'entries'}`
    : `must be ${what}`;
}

function isQuotable({ expected, input }: z.core.$ZodIssueInvalidType): boolean {
  return expected === 'string' && ['number', 'boolean'].includes(typeof input);
}

function kindOf(value: unknown): string {
  if (value === null) return 'empty';
  if (Array.isArray(value)) return 'a list';
  return typeof value === 'object' ? 'a map' : `a ${typeof value}`;
}

/** Bytes: a recipe is written by hand. */
export const RECIPE_SIZE_LIMIT = 1024 * 1024;

/** @param below a folder as openWithin() takes it */
export function readRecipeText(
  file: string,
  hint: string,
  below?: string,
  code: 'E_RECIPE_READ' | 'E_SERVICE_READ' = 'E_RECIPE_READ',
): string {
  const refusal = (cause: unknown) =>
    new KilnError(code, `cannot read ${code === 'E_RECIPE_READ' ? 'the recipe ' : ''}${file}`, {
      cause,
      hint: cause instanceof NotUtf8 ? NotUtf8.hint : hint,
    });
  return readUserText(file, RECIPE_SIZE_LIMIT, refusal, below);
}

/** For repository settings and `files[].source` only: shells use the same notation. */
export interface RecipeVariables {
  readonly KILN_STATE: string;
  readonly KILN_FIXTURES: string;
  readonly recipe_dir: string;
}

const REPOSITORY_VARIABLES = ['arch', 'basearch', 'releasever'];

export function expandVariables(
  text: string,
  variables: RecipeVariables,
  onUnknown: (name: string, hint: string) => void,
): string {
  const values = new Map<string, string>(Object.entries(variables));
  const known = [...values.keys(), ...REPOSITORY_VARIABLES];
  const replace = (whole: string, braced: string | undefined, bare: string | undefined) => {
    const name = braced ?? bare ?? '';
    const value = values.get(name);
    if (value !== undefined || REPOSITORY_VARIABLES.includes(name)) return value ?? whole;
    const near = suggest(name, known);
    onUnknown(name, near ? `did you mean $${near}?` : `known variables: ${known.join(', ')}`);
    return whole;
  };
  return text.replace(/\$(?:\{([^}]*)\}|(\w+))/g, replace);
}

export function expandStrings(
  value: unknown,
  path: readonly (string | number)[],
  change: (text: string, path: readonly (string | number)[]) => string,
): unknown {
  const here =
    path[0] === 'repositories' ||
    (path[0] === 'files' && path.length === 3 && path[2] === 'source');
  if (typeof value === 'string') return here ? change(value, path) : value;
  if (Array.isArray(value)) {
    return value.map((entry, index) => expandStrings(entry, [...path, index], change));
  }
  if (typeof value !== 'object' || value === null) return value;
  return Object.fromEntries(
    Object.entries(value).map(([key, entry]) => [
      key,
      expandStrings(entry, [...path, key], change),
    ]),
  );
}
