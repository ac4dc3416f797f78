/** `kiln run --file` and `--save`: the options of a command line, and its command, in a file. */
import { dirname, resolve } from 'node:path';
import { InvalidArgumentError } from 'commander';
import { Document } from 'yaml';
import { z } from 'zod';
import { KilnError } from '../../errors.ts';
import { readPatiently, utf8Text, writeUserFile } from '../../host/files/user-file.ts';
import { isImageName } from '../../image/find.ts';
import type { Source } from '../../options/kind.ts';
import { flagOf, type Row, type Rows } from '../../options/row.ts';
import { RUN } from '../../options/sandbox.ts';
import { keyOf } from '../../options/yaml.ts';
import { RecipeDocument } from '../../recipe/document.ts';
import { RecipeError } from '../../recipe/problem.ts';
import { unusableError } from '../../users/caller-paths.ts';
import type { Caller } from '../caller/caller.ts';
import type { KilnCommand, WrittenOption } from '../options/command.ts';

/** What is about the file itself is in none. */
const { file: _file, save: _save, ...KEYS } = RUN;

/** Bytes: a job is written by hand. */
const FILE_MAX = 1 << 20;
const HINT = 'docs/jobs.md tells what a file has: the options of `kiln run`, and `command`';

/** The words of a command line that names a file, with the file's before them: of two values the later one counts. */
export async function wordsWithFile(
  argv: readonly string[],
  { written, args }: KilnCommand,
  caller: Caller,
): Promise<readonly string[]> {
  const named = written.findLast(({ row }) => row === RUN.file)?.text;
  if (named === undefined || named === null) return argv;
  const given = written.filter(({ row }) => row !== RUN.file);
  const replaced = given
    .filter(({ row }) => row.kind.joins)
    .map((each) => keyOf(each.attribute, each.row));
  const { words, command } = await readJobFile(named, caller, replaced);
  const own = given.map(wordOf);
  const behind = args.length > 0 ? args : command;
  return ['run', ...words, ...own, ...(behind.length === 0 ? [] : ['--', ...behind])];
}

function wordOf({ flag, text }: WrittenOption): string {
  return text === null ? flag : `${flag}=${text}`;
}

/** @param replaced keys that do not count @throws RecipeError (E_JOB_FILE) with all mistakes; KilnError E_CALLER_FILE */
async function readJobFile(file: string, caller: Caller, replaced: readonly string[]) {
  const held = await caller.paths.text(file);
  const text = await readPatiently(held, FILE_MAX, undefined)
    .then((bytes) => utf8Text(bytes, file))
    .catch((cause: unknown) => {
      throw unusableError(file, cause);
    });
  const document = new RecipeDocument(file, text);
  const value = document.value();
  const folder = dirname(resolve(caller.cwd(), file));
  const checked = value === undefined ? undefined : document.check(schemaIn(folder, caller), value);
  if (checked === undefined) throw new RecipeError(file, document.problems, HINT, 'job');
  const { command = [], ...options } = checked;
  const kept = Object.entries(options).filter(([key]) => !replaced.includes(key));
  return { words: kept.flatMap(([, words]) => words as string[]), command };
}

/** Of a file in `folder`: its values become words of a command line. */
function schemaIn(folder: string, caller: Caller) {
  const from: Source = {
    env: caller.env,
    cwd: () => folder,
    variable: (name) => caller.variable(name),
  };
  const rows = Object.entries<Row>(KEYS as Rows);
  return z.strictObject({
    ...Object.fromEntries(
      rows.map(([name, row]) => [keyOf(name, row), wordsOfValue(name, row, from).optional()]),
    ),
    command: z.array(z.string()).max(10_000).optional(),
  });
}

function wordsOfValue(name: string, row: Row, from: Source): z.ZodType<string[], unknown> {
  const { kind, many, preset } = row;
  const flag = flagOf(name, row);
  const alone = z.boolean().transform((isSo) => (isSo ? [flag] : []));
  if (kind.term === undefined) return alone;
  const one = z.union([z.string(), z.number()]).transform((value, context) => {
    const word = placedIn(from.cwd(), row, String(value));
    try {
      kind.read(word, from);
    } catch (error) {
      if (!(error instanceof InvalidArgumentError || error instanceof KilnError)) throw error;
      const why = error.message.replace(/\.$/, '');
      context.addIssue({ code: 'custom', message: `"${value}" cannot be used: ${why}` });
      return z.NEVER;
    }
    return [`${flag}=${word}`];
  });
  if (preset !== undefined) return z.union([alone, one]);
  if (!many && !kind.joins) return one;
  const several = z.array(one).transform((each: string[][]) => each.flat());
  if (!kind.pairs) return z.union([several, one]);
  const pairs = z
    .record(z.string(), z.union([z.string(), z.number(), z.boolean()]))
    .transform((record): (string | number)[] =>
      Object.entries(record).map(([key, value]) => `${key}=${value}`),
    )
    .pipe(several);
  return z.union([several, pairs]);
}

/** A word whose path begins at the root: relative to `folder` until now. */
function placedIn(folder: string, { kind, users }: Row, word: string): string {
  const rule = kind.opens ?? users;
  if (rule === 'image' && isImageName(word)) return word;
  if (rule !== 'image' && (typeof rule !== 'object' || rule.kind !== 'path')) return word;
  if (rule !== 'image' && rule.where?.(word) === false) return word;
  const [from, to] = kind.pathIn?.(word) ?? [0, word.length];
  const path = word.slice(from, to);
  if (path === '' || path.startsWith('/')) return word;
  // What is at its end may have a meaning: a slash, or `/.`.
  return `${word.slice(0, from)}${folder === '/' ? '' : folder}/${path}${word.slice(to)}`;
}

/** Writes what a command line says to a file. @throws KilnError E_CALLER_FILE */
export async function saveJobFile(
  file: string,
  command: readonly string[],
  written: readonly WrittenOption[],
  caller: Caller,
): Promise<void> {
  const value: Record<string, unknown> = {};
  for (const [name, row] of Object.entries<Row>(KEYS as Rows)) {
    const given = written.filter(({ attribute }) => attribute === name);
    const last = given.at(-1);
    if (last === undefined) continue;
    const words = given.flatMap(({ text }) =>
      text === null ? [] : placedIn(caller.cwd(), row, text),
    );
    const isFlag = row.kind.term === undefined;
    const isList = row.many || (row.kind.joins && words.length > 1);
    value[keyOf(name, row)] = isFlag ? true : isList ? words : words.at(-1);
  }
  if (command.length > 0) value.command = command;
  const text = new Document(value).toString({ lineWidth: 0 });
  const place = await caller.paths.resultAt(file);
  try {
    writeUserFile(place, text);
  } catch (cause) {
    throw unusableError(file, cause);
  }
}
