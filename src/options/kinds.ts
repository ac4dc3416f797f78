/** Kinds of value that options have. A kind says once how a word is read, and what becomes of a path in it. */
import type { HeldPath } from '../host/files/held.ts';
import type { Capability } from '../host/process/process.ts';
import { type LabelRequest, parseLabelRequest } from '../sandbox/labels/labels.ts';
import { type OptionalLayer, parseLayer } from '../sandbox/policy/layers.ts';
import { type Bind, parseCapability, type Tmpfs } from '../sandbox/policy/specification.ts';
import { path, type Rule } from './rules.ts';
import {
  parseBind,
  parseCopyIn,
  parseCount,
  parseCpus,
  parseEgress,
  parseEnvironment,
  parseHostname,
  parseMemory,
  parseRate,
  parseSecret,
  parseSize,
  parseTime,
  parseTmpfs,
} from './words.ts';

/** By which words mean something: the caller's folder and variables. */
export interface Source {
  readonly env: Readonly<Record<string, string | undefined>>;
  cwd(): string;
  variable(name: string): string | undefined;
}

/** `Value` is what it is once a path in it has been opened. */
export interface Kind<Value = unknown> {
  /** What help calls a value. A flag has none. */
  readonly term?: string;
  /** Undefined for what counts for nothing. @throws InvalidArgumentError */
  readonly read: (word: string, from: Source) => unknown;
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

function kind<Value>(term: string, read: Kind['read'], opens?: Rule): Kind<Value> {
  return opens === undefined ? { term, read } : { term, read, opens };
}

export const flag: Kind<boolean> = { read: () => true };
export const negation: Kind<boolean> = { read: () => false, negates: true };

export const text = (term: string): Kind<string> => kind(term, String);

export function choice<const Choice extends string>(
  term: string,
  choices: readonly Choice[],
): Kind<Choice> {
  return { ...kind(term, String), choices };
}

/** Bytes. */
export const size = kind<number>('size', parseSize);
export const memory = kind<number>('size', parseMemory);
/** Bytes a second. */
export const rate = kind<number>('rate', parseRate);
/** Milliseconds. */
export const time = kind<number>('time', parseTime);
export const count = kind<number>('number', parseCount);
export const cpus = kind<number>('number', parseCpus);

/** A name or an id, or the path of a recipe or a lock. */
export const image = kind<string>('image', String, 'image');

export const bind = kind<Bind>(
  'src:dst[:ro|rw][,z|Z][,nolinks]',
  (word, from) => parseBind(word, from.cwd()),
  path('place', 'source'),
);

export const copyIn: Kind<{ readonly source: HeldPath; readonly target: string }> = {
  term: 'src:dst',
  read: (word, from) => parseCopyIn(word, from.cwd()),
  opens: path('tree', 'source'),
  pathIn: (word) => [0, word.lastIndexOf(':')],
};

export const tmpfs = kind<Tmpfs>('dst[:size]', parseTmpfs);

export const secret: Kind<{ readonly name: string; readonly file: HeldPath }> = {
  term: 'name=file',
  read: (word, from) => parseSecret(word, from.cwd()),
  opens: path('content', 'file'),
  pathIn: (word) => [word.indexOf('=') + 1, word.length],
};

export const env = kind<readonly [string, string]>('name=value', (word, from) =>
  parseEnvironment(word, (name) => from.variable(name)),
);

export const egress = kind<string>('host[:port]', parseEgress);
export const hostname = kind<string>('name', parseHostname);
export const capability = kind<Capability>('capability', parseCapability);
export const layer = kind<OptionalLayer>('layer', parseLayer);
export const label = kind<LabelRequest>('label', parseLabelRequest);
export const results = kind<string>('dir', String, path('results'));

export function isProfileFile(nameOrPath: string): boolean {
  return /[./]/.test(nameOrPath);
}

/** The name of one of kiln's, or the path of a file in podman's format. */
export const seccomp = kind<string>('profile', String, path('text', undefined, isProfileFile));
