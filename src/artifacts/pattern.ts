import { GLOBSTAR, Minimatch } from 'minimatch';
import { KilnError } from '../errors.ts';

type Segment = string | { test(name: string): boolean } | typeof GLOBSTAR;

interface Position {
  readonly segments: readonly Segment[];
  readonly at: number;
}

export type PatternState = readonly Position[];

export interface ArtifactPattern {
  readonly source: string;
  /**
   * Everything before the first component with a wildcard (and never the last component): the walk starts here, and
   * matches keep their paths below it. Absolute, not normalised: the kernel resolves it.
   */
  readonly base: string;
  /** What messages call the base, where the tree is a copy of the one that the pattern is for. */
  readonly title?: string;
  readonly start: PatternState;
  readonly directoriesOnly: boolean;
}

const MAX_ALTERNATIVES = 1000;
const WILD = /[*?[\]{}\\]/;
/** All entries of a folder, hidden ones too. */
export const EVERYTHING: Segment = { test: () => true };

function patternError(source: string, why: string, cause?: unknown): KilnError {
  return new KilnError('E_ARTIFACT_PATTERN', `artifact pattern ${JSON.stringify(source)} ${why}`, {
    hint: 'patterns are paths with *, ?, [], {a,b} and **, relative to the working directory or absolute',
    cause,
  });
}

/**
 * Compiles a shell pattern: `*`, `?`, `[…]`, `{a,b}`, `**` for any number of directories, `\` for a literal character.
 * A leading dot must be written (`.config`, `.*`); with a slash at the end only directories match; a last component
 * `.` stands for everything in the directory, hidden or not.
 * @param workdir absolute path that a relative pattern starts from
 * @throws KilnError E_ARTIFACT_PATTERN
 */
export function compilePattern(source: string, workdir: string): ArtifactPattern {
  if (source === '' || source.includes('\0')) throw patternError(source, 'is not a path');
  const absolute = source.startsWith('/');
  const written = source.split('/').filter((part) => part !== '');
  const parts = written.filter((part) => part !== '.');
  const everything = parts.length === 0 || written.at(-1) === '.';
  const wild = parts.findIndex((part) => WILD.test(part));
  const whole = everything ? parts.length : parts.length - 1;
  const split = wild === -1 ? whole : Math.min(wild, whole);
  const prefix = parts.slice(0, split).join('/');
  const base = (absolute ? `/${prefix}` : `${workdir}/${prefix}`).replace(/\/+/g, '/');

  const rest = parts.slice(split).join('/');
  const alternatives = rest === '' ? [[]] : parse(source, rest);
  const start: Position[] = [];
  for (const segments of alternatives) {
    const named = segments.filter((segment) => segment !== '' && segment !== '.');
    if (named.includes('..')) throw patternError(source, 'has ".." after a wildcard or at its end');
    if (everything) named.push(EVERYTHING);
    if (named.length > 0) start.push({ segments: named, at: 0 });
  }
  if (start.length === 0) throw patternError(source, 'names nothing');
  return { source, base, start, directoriesOnly: source.endsWith('/') };
}

function parse(source: string, rest: string): Segment[][] {
  try {
    return new Minimatch(rest, {
      platform: 'linux',
      nocomment: true,
      nonegate: true,
      noext: true,
      optimizationLevel: 0,
      braceExpandMax: MAX_ALTERNATIVES,
    }).set;
  } catch (error) {
    throw patternError(source, 'cannot be read', error);
  }
}

export function literalNames(state: PatternState): ReadonlySet<string> | undefined {
  const names = new Set<string>();
  for (const { segments, at } of state) {
    const segment = segments[at];
    if (typeof segment !== 'string') return undefined;
    names.add(segment);
  }
  return names;
}

export function step(state: PatternState, name: string) {
  const below: Position[] = [];
  let matched = false;
  const pending = [...state];
  for (let position = pending.pop(); position !== undefined; position = pending.pop()) {
    const { segments, at } = position;
    const segment = segments[at];
    const last = at === segments.length - 1;
    if (segment === GLOBSTAR) {
      if (!last) pending.push({ segments, at: at + 1 });
      if (name.startsWith('.')) continue;
      if (last) matched = true;
      else below.push(position);
    } else if (segment === name || (typeof segment === 'object' && segment.test(name))) {
      if (last) matched = true;
      else below.push({ segments, at: at + 1 });
    }
  }
  return { matched, below };
}
