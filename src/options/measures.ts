/** What sizes, times and names look like in text. */
import { parseDuration } from '../packages/repository/configuration-schema.ts';

const UNITS = 'KMGT';

/** Bytes of `512M`, `2G`, `1.5GiB`, `4096` (powers of 1024); undefined for anything else. */
export function sizeInBytes(text: string): number | undefined {
  const match = /^(\d{1,15}(?:\.\d{1,15})?)([KMGT])?(?:i?B)?$/i.exec(text);
  if (match === null) return undefined;
  const power = match[2] === undefined ? 0 : UNITS.indexOf(match[2].toUpperCase()) + 1;
  const bytes = Math.round(Number(match[1]) * 1024 ** power);
  return Number.isSafeInteger(bytes) ? bytes : undefined;
}

/** `1h30m`: units from the largest, each once at most. */
const COMPOUND = /^(\d{1,9}w)?(\d{1,9}d)?(\d{1,9}h)?(\d{1,9}m)?(\d{1,9}s)?$/;

/** Milliseconds of `90s`, `10m`, `1h30m`, `500ms`; a plain number is seconds; undefined for anything else. */
export function timeInMilliseconds(text: string): number | undefined {
  const milliseconds = /^(\d{1,12})ms$/.exec(text);
  if (milliseconds !== null) return Number(milliseconds[1]);
  const fraction = /^(\d*\.\d+)s?$/.exec(text);
  if (fraction !== null) return Math.round(Number(fraction[1]) * 1000);
  const parts = COMPOUND.exec(text)
    ?.slice(1)
    .filter((part) => part !== undefined);
  const seconds =
    parts === undefined || parts.length === 0 ? [parseDuration(text)] : parts.map(parseDuration);
  return seconds.reduce<number | undefined>(
    (sum, each) => (sum === undefined || each === undefined ? undefined : sum + each * 1000),
    0,
  );
}

export const HOSTNAME = /^[A-Za-z0-9][A-Za-z0-9.-]{0,62}$/;

export const SIZES = { G: 2 ** 30, M: 2 ** 20, K: 2 ** 10 };
export const TIMES = { h: 3_600_000, m: 60_000, s: 1000, ms: 1 };

/** As options and kiln.yaml have it. */
export function inUnits(value: number, units: Readonly<Record<string, number>>): string | number {
  const fitting = Object.entries(units).find(([, unit]) => value % unit === 0);
  return fitting === undefined ? value : `${value / fitting[1]}${fitting[0]}`;
}
