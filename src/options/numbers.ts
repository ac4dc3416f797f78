/** Kinds of numbers. */
import { z } from 'zod';
import { MINIMUM_MEMORY } from '../sandbox/policy/limits.ts';
import { type Kind, needed } from './kind.ts';
import { sizeInBytes, timeInMilliseconds } from './measures.ts';

interface NumberKind extends Kind<number> {
  readonly read: (word: string) => number;
  readonly fromJson: (json: number) => number;
}

/** What no word has the digits for. */
const NUMBER_END = 1e15;

function measure(
  term: string,
  numberIn: (word: string) => number | undefined,
  how: string,
  least = Number.MIN_VALUE,
): NumberKind {
  const check = (value: number | undefined) => {
    const said = value === 0 ? how.replace(/\.$/, ', not 0.') : how;
    return needed(value !== undefined && value >= least ? value : undefined, said);
  };
  return {
    term,
    read: (word) => check(numberIn(word)),
    fromJson: (json) => check(json < NUMBER_END ? json : undefined),
  };
}

const SIZE = 'not a size: write it as 512M or 2G.';

/** Bytes of `512M`: powers of 1024. Not 0, which is no limit to some who are told it. */
export const size = measure('size', sizeInBytes, SIZE);

/** What may stay of something: 0 is nothing. */
export const rest = measure('size', sizeInBytes, SIZE, 0);

function enough(bytes: number): number {
  const how = 'less than a sandbox takes: give 4M or more.';
  return needed(bytes >= MINIMUM_MEMORY ? bytes : undefined, how);
}

export const memory: NumberKind = {
  ...size,
  read: (word) => enough(size.read(word)),
  fromJson: (json) => enough(size.fromJson(json)),
};

/** Bytes a second. */
export const rate = measure(
  'rate',
  sizeInBytes,
  'not a rate: write bytes per second as 10M or 512K.',
);

const TIME = 'not a duration: write it as 90s, 10m or 1h30m.';

/** How old something may be: 0 is nothing. */
export const age = measure('time', timeInMilliseconds, TIME, 0);

/** Milliseconds of `90s`, `10m`, `1h30m`, `500ms`; a plain number is seconds. */
export const time: NumberKind = {
  ...measure('time', timeInMilliseconds, TIME),
  word: (asked) => (typeof asked === 'number' ? `${asked / 1000}s` : undefined),
};

/** Milliseconds since 1970 of a date, or of so long ago. */
export const moment: NumberKind = {
  term: 'time',
  read: (word) => {
    const ago = timeInMilliseconds(word);
    const at = ago === undefined ? dateIn(word) : Date.now() - ago;
    return needed(at, 'not a time: write it as 10m, 2026-12-01 or 2026-12-01T08:00.');
  },
  fromJson: (json) => json,
};

/** Of this machine's time zone, unless it names another. */
function dateIn(word: string): number | undefined {
  if (!/^\d{4}-\d\d-\d\d/.test(word)) return undefined;
  // A date alone is UTC to Date.
  const at = Date.parse(/^[\d-]+$/.test(word) ? `${word}T00:00` : word.replace(' ', 'T'));
  return Number.isNaN(at) ? undefined : at;
}

export const count: NumberKind = {
  ...measure(
    'number',
    (word) => (/^[1-9]\d{0,9}$/.test(word) ? Number(word) : undefined),
    'not a positive number.',
  ),
  yaml: z.int().positive(),
};

/** From the smallest share that the kernel can give: thousandths of a second of each tenth. */
export const cpus: NumberKind = {
  ...measure(
    'number',
    (word) => (/^\d+(\.\d+)?$/.test(word) ? Number(word) : undefined),
    'not a number of processors from 0.01: write it as 2 or 0.5.',
    0.01,
  ),
  yaml: z.number().positive(),
};
