import { parseDuration } from '../repository/duration.ts';

const UNITS = 'KMGT';

/** Bytes of `512M`, `2G`, `1.5GiB`, `4096` (powers of 1024); undefined for anything else. */
export function sizeInBytes(text: string): number | undefined {
  const match = /^(\d{1,15}(?:\.\d{1,15})?)([KMGT])?(?:i?B)?$/i.exec(text);
  if (match === null) return undefined;
  const power = match[2] === undefined ? 0 : UNITS.indexOf(match[2].toUpperCase()) + 1;
  const bytes = Math.round(Number(match[1]) * 1024 ** power);
  return Number.isSafeInteger(bytes) ? bytes : undefined;
}

/** Milliseconds of `90s`, `10m`, `1h`, `500ms`; a plain number is seconds; undefined for anything else. */
export function timeInMilliseconds(text: string): number | undefined {
  const milliseconds = /^(\d{1,12})ms$/.exec(text);
  if (milliseconds !== null) return Number(milliseconds[1]);
  const fraction = /^(\d*\.\d+)s?$/.exec(text);
  if (fraction !== null) return Math.round(Number(fraction[1]) * 1000);
  const seconds = parseDuration(text);
  return seconds === undefined ? undefined : seconds * 1000;
}
