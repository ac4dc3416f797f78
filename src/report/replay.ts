import { BUILD } from '../options/build.ts';
import { type Fields, fieldsOf } from '../options/kind.ts';
import { type Row, wordsAgain } from '../options/row.ts';
import { SANDBOX } from '../options/sandbox.ts';
import type { Result } from '../result/schema.ts';
import { LIMIT_NAMES } from '../sandbox/policy/limits.ts';
import { shellWord } from '../shell-words.ts';

/** The words of a command line that ask for a field of a request. result.json is a file: values can be anything. */
type Words = (value: unknown) => readonly string[];

/**
 * A command for a shell that does a job again. Values of environment variables and of parameters, and files of
 * secrets, are in no result: the first come from the caller's environment, for the others VALUE and FILE are places
 * to fill in.
 * @returns undefined where the request does not say what was asked for
 */
export function replayCommand({ request, image: used }: Result): string | undefined {
  const { argv, recipe } = request;
  if (recipe !== undefined) {
    const { given, path, parameters, allowHost } = fieldsOf(recipe);
    if (given === undefined || typeof path !== 'string') return undefined;
    return command(
      'build',
      wordsOf(RECIPE_WORDS, { ...fieldsOf(given), path, parameters, allowHost }),
    );
  }
  if (Array.isArray(argv)) {
    const name = used?.name ?? request.image;
    if (typeof name !== 'string') return undefined;
    const words = again(SANDBOX, { ...request, image: name });
    return command('run', [...words, '--', ...argv.map(String)]);
  }
  if (typeof fieldsOf(request.source).path !== 'string') return undefined;
  if (typeof request.image !== 'string') return undefined;
  const { kind, path } = fieldsOf(request.source);
  const source = kind === 'spec' ? [] : [String(path)];
  return command('build', [...again(BUILD, request), ...source]);
}

/** As chain.json has it. */
interface ReplayedChain {
  readonly request: Fields;
  readonly members: readonly { readonly source?: string | undefined }[];
  readonly farm?: unknown;
}

/** The same of a chain, or undefined. */
export function replayChain({ request, members, farm }: ReplayedChain): string | undefined {
  const { image: from, jobs, build, resultDirectory } = request;
  const sources = members.flatMap(({ source }) => source ?? []);
  const isWhole = sources.length > 0 && sources.length === members.length;
  if (build === undefined || !isWhole) return undefined;
  return command('build', [
    '--chain',
    ...(farm === undefined ? [] : ['--farm']),
    ...(typeof jobs === 'number' && jobs > 0 ? ['--jobs', String(jobs)] : []),
    ...flag('--continue')(request.continue),
    ...flag('--recurse')(request.recurse),
    ...again(BUILD, { ...fieldsOf(build), image: from, resultDirectory }),
    ...sources,
  ]);
}

function command(name: 'run' | 'build', words: readonly string[]): string {
  return ['kiln', name, ...words].map(shellWord).join(' ');
}

/** As -r, an image is what most people write. */
function again({ image: _, ...rows }: typeof SANDBOX | typeof BUILD, request: Fields): string[] {
  const asked = Object.entries<Row>(rows).flatMap(([name, row]) => wordsAgain(name, row, request));
  return [...image(request.image), ...asked];
}

function wordsOf(table: Readonly<Record<string, Words>>, request: Fields): string[] {
  return Object.entries(table).flatMap(([field, words]) => words(request[field]));
}

/** Of fields that the command line does not have, or that another field says. */
const nothing: Words = () => [];

/** What the rows of options say of a field. */
function said(field: string, ...names: readonly (keyof typeof SANDBOX)[]): Words {
  return (value) => names.flatMap((name) => wordsAgain(name, SANDBOX[name], { [field]: value }));
}

const image: Words = (value) => (value === '' ? [] : option('-r')(value));
const limits = said('limits', ...LIMIT_NAMES);
const time = said('time', 'timeout', 'stallTimeout');
const keep = said('keepSeconds', 'keep');
const disk = said('disk', 'disk');
const binds = said('binds', 'binds');
const resultDirectory = said('resultDirectory', 'resultDirectory');

/** For every field of a recipe's request. Of parameters, results have the names only. */
export const RECIPE_WORDS = {
  path: (value) => [String(value)],
  folder: nothing,
  admit: nothing,
  image,
  parameters: each('--param', (name) => `${name}=VALUE`),
  allowHost: said('allowHost', 'allowHost'),
  allowHostWrite: said('allowHostWrite', 'allowHostWrite'),
  sources: option('--sources'),
  offline: flag('--offline'),
  binds,
  limits,
  disk,
  time,
  // kiln.yaml's.
  usual: nothing,
  resultDirectory,
  keepSeconds: keep,
  caller: nothing,
  host: nothing,
} as const satisfies Readonly<Record<string, Words>>;

function option(name: string): Words {
  return (value) =>
    typeof value === 'string' || typeof value === 'number' ? [name, String(value)] : [];
}

function flag(...words: readonly string[]): Words {
  return (value) => (value === true ? words : []);
}

function each(name: string, text: (value: unknown) => string): Words {
  return (values) =>
    Array.isArray(values) ? values.flatMap((value: unknown) => [name, text(value)]) : [];
}
