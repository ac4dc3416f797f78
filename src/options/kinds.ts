/**
 * Kinds of value that options have. A kind says once how it is read from a word and from the API's JSON, how a word says it
 * again, and what becomes of a path in it.
 */
import { InvalidArgumentError } from 'commander';
import type * as json from '../api/io-kiln.ts';
import { defined } from '../defined.ts';
import { KilnError } from '../errors.ts';
import type { HeldPath } from '../host/files/held.ts';
import type { Capability } from '../host/process/process.ts';
import { type LabelRequest, parseLabelRequest } from '../sandbox/labels/labels.ts';
import { type OptionalLayer, parseLayer } from '../sandbox/policy/layers.ts';
import {
  type Bind,
  parseCapability,
  type Tmpfs,
  type WantedBind,
} from '../sandbox/policy/specification.ts';
import { sizeInBytes, timeInMilliseconds } from './measures.ts';
import { path, type Rule } from './rules.ts';
import {
  absoluteTarget,
  asCount,
  asCpus,
  asMemory,
  asRate,
  asSize,
  asTime,
  mountTarget,
  parseBind,
  parseCopyIn,
  parseCount,
  parseEgress,
  parseEnvironment,
  parseHostname,
  parseSecret,
  parseTmpfs,
  read,
  secretName,
  VARIABLE,
} from './words.ts';

/** By which words mean something: the caller's folder and variables. */
export interface Source {
  readonly env: Readonly<Record<string, string | undefined>>;
  cwd(): string;
  variable(name: string): string | undefined;
}

/** For kinds that need none, and for calls, which give whole values. */
export const NOWHERE: Source = { env: {}, cwd: () => '/', variable: () => undefined };

/** `Value` is what it is once a path in it has been opened. */
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
  readonly choices?: readonly string[];
  /** A flag for what is so without it: `--no-NAME`. */
  readonly negates?: true;
  /** What becomes of a path in it, whoever gives it. */
  readonly opens?: Rule;
  /** Where in a word the path is, if it is not the whole word. */
  readonly pathIn?: (word: string) => readonly [from: number, to: number];
  /** For types alone: nothing has it. */
  readonly value?: Value;
}

export type Fields = Readonly<Record<string, unknown>>;

export function fieldsOf(value: unknown): Fields {
  return typeof value === 'object' && value !== null ? (value as Fields) : {};
}

/** @throws KilnError E_ARGUMENT */
export function hostPath(field: string, path: string): string;
export function hostPath(field: string, path: string | undefined): string | undefined;
export function hostPath(field: string, path: string | undefined): string | undefined {
  if (path === undefined || path.startsWith('/')) return path;
  throw new KilnError(
    'E_ARGUMENT',
    `${field}: ${path || 'an empty path'} is not an absolute path`,
    {
      hint: 'a call has no working directory: give the whole path',
    },
  );
}

/** An image is a name or an id, or the path of a recipe or lock. @throws KilnError E_ARGUMENT */
export function hostImage(field: string, image: string): string;
export function hostImage(field: string, image: string | undefined): string | undefined;
export function hostImage(field: string, image: string | undefined): string | undefined {
  return image !== undefined && /\/|\.(?:ya?ml|json)$/.test(image) ? hostPath(field, image) : image;
}

function kind<Value>(term: string, read: Kind['read']): Kind<Value> {
  return { term, read };
}

export const flag: Kind<boolean> = { read: () => true };
export const negation: Kind<boolean> = { read: () => false, negates: true };

export const text = (term: string): Kind<string> => kind(term, String);

export function choice<const Choice extends string>(
  term: string,
  choices: readonly Choice[],
): Kind<Choice> {
  const how = `Allowed choices are ${choices.join(', ')}.`;
  const chosen = (word: string) =>
    read(
      choices.find((each) => each === word),
      how,
    );
  return { ...kind(term, chosen), choices };
}

/** What no word has the digits for. */
const NUMBER_END = 1e15;

function measure(
  term: string,
  numberIn: (word: string) => number | undefined,
  check: (value: number | undefined) => number,
): Kind<number> {
  return {
    term,
    read: (word) => check(numberIn(word)),
    fromJson: (json: number) => check(json < NUMBER_END ? json : undefined),
  };
}

/** Bytes. */
export const size = measure('size', sizeInBytes, asSize);
export const memory = measure('size', sizeInBytes, asMemory);
/** Bytes a second. */
export const rate = measure('rate', sizeInBytes, asRate);
/** Milliseconds. */
export const time: Kind<number> = {
  ...measure('time', timeInMilliseconds, asTime),
  word: (asked) => (typeof asked === 'number' ? `${asked / 1000}s` : undefined),
};
export const count = measure('number', parseCount, asCount);
export const cpus = measure(
  'number',
  (word) => (/^\d+(\.\d+)?$/.test(word) ? Number(word) : undefined),
  asCpus,
);

/** A name or an id, or the path of a recipe or a lock. */
export const image: Kind<string> = {
  ...text('image'),
  opens: 'image',
  fromJson: (name: string, field) => hostImage(field, name),
};

export const bind: Kind<Bind> = {
  term: 'src:dst[:ro|rw][,z|Z][,nolinks]',
  read: (word, from) => parseBind(word, from.cwd()),
  // A path may have a colon here.
  fromJson: ({ source, target, readonly = false, relabel }: json.Bind, field): WantedBind => ({
    source: hostPath(field, source),
    target: mountTarget(target),
    readonly,
    ...defined({ relabel }),
  }),
  word: (asked) => {
    const { source, target, readonly, relabel, noLinks } = fieldsOf(asked);
    const letter = relabel === 'private' ? 'Z' : 'z';
    const options = [
      readonly === true ? 'ro' : 'rw',
      ...(relabel === undefined ? [] : [letter]),
      ...(noLinks === true ? ['nolinks'] : []),
    ];
    return `${source}:${target}:${options.join(',')}`;
  },
  opens: path('place', 'source'),
};

export const copyIn: Kind<{ readonly source: HeldPath; readonly target: string }> = {
  term: 'src:dst',
  read: (word, from) => parseCopyIn(word, from.cwd()),
  fromJson: ({ source, target }: json.Copy, field) => ({
    source: hostPath(field, source),
    target: absoluteTarget(target),
  }),
  word: (asked) => `${fieldsOf(asked).source}:${fieldsOf(asked).target}`,
  opens: path('tree', 'source'),
  pathIn: (word) => [0, word.lastIndexOf(':')],
};

export const tmpfs: Kind<Tmpfs> = {
  term: 'dst[:size]',
  read: parseTmpfs,
  fromJson: ({ target, size: bytes }: json.Tmpfs) => ({
    target: mountTarget(target),
    ...(bytes === undefined ? {} : { bytes: asSize(bytes) }),
  }),
  word: (asked) => {
    const { target, bytes } = fieldsOf(asked);
    return typeof bytes === 'number' ? `${target}:${bytes}` : String(target);
  },
};

export const secret: Kind<{ readonly name: string; readonly file: HeldPath }> = {
  term: 'name=file',
  read: (word, from) => parseSecret(word, from.cwd()),
  fromJson: ({ name, file }: json.Secret, field) => ({
    name: secretName(name),
    file: hostPath(field, file),
  }),
  // A result has the name only.
  word: (name) => `${name}=FILE`,
  opens: path('content', 'file'),
  pathIn: (word) => [word.indexOf('=') + 1, word.length],
};

export const env: Kind<readonly [name: string, value: string]> = {
  term: 'name=value',
  read: (word, from) => parseEnvironment(word, (name) => from.variable(name)),
  fromJson: ([name, value]: readonly [string, string]) => {
    if (VARIABLE.test(name)) return [name, value];
    throw new InvalidArgumentError(`${name || 'an empty name'} is the name of no variable.`);
  },
};

export const egress = kind<string>('host[:port]', parseEgress);
export const hostname = kind<string>('name', parseHostname);
export const capability = kind<Capability>('capability', parseCapability);
export const layer = kind<OptionalLayer>('layer', parseLayer);

export const label: Kind<LabelRequest> = {
  ...kind('label', parseLabelRequest),
  word: (asked) => {
    const { kind, label } = fieldsOf(asked);
    if (typeof kind !== 'string') return undefined;
    return typeof label === 'string' ? `${kind}:${label}` : kind;
  },
};

export const network: Kind<string> = {
  ...text('network'),
  word: (asked) => {
    const { name, ...network } = fieldsOf(asked);
    if (typeof name !== 'string') return asked === 'host' ? asked : undefined;
    const options = (['address', 'gateway', 'mac'] as const)
      .filter((key) => network[key] !== undefined)
      .map((key) => `,${key}=${network[key]}`);
    return `${name}${options.join('')}`;
  },
};

export const results: Kind<string> = {
  ...text('dir'),
  fromJson: (folder: string, field) => hostPath(field, folder),
  opens: path('results'),
};

export function isProfileFile(nameOrPath: string): boolean {
  return /[./]/.test(nameOrPath);
}

/** The name of one of kiln's, or the path of a file in podman's format. */
export const seccomp: Kind<string> = {
  ...text('profile'),
  fromJson: (profile: string, field) =>
    isProfileFile(profile) ? hostPath(field, profile) : profile,
  opens: path('text', undefined, isProfileFile),
};
