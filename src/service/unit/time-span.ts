/** Microseconds of each unit of systemd.time(7). */
const UNITS: Readonly<Record<string, number>> = {
  usec: 1,
  us: 1,
  µs: 1,
  msec: 1e3,
  ms: 1e3,
  seconds: 1e6,
  second: 1e6,
  sec: 1e6,
  s: 1e6,
  minutes: 60e6,
  minute: 60e6,
  min: 60e6,
  m: 60e6,
  hours: 3600e6,
  hour: 3600e6,
  hr: 3600e6,
  h: 3600e6,
  days: 86_400e6,
  day: 86_400e6,
  d: 86_400e6,
  weeks: 604_800e6,
  week: 604_800e6,
  w: 604_800e6,
  months: 2_629_800e6,
  month: 2_629_800e6,
  M: 2_629_800e6,
  years: 31_557_600e6,
  year: 31_557_600e6,
  y: 31_557_600e6,
};

/**
 * Milliseconds of a time span as systemd.time(7) has it: `90`, `5min 20s`, `1.5h`, `infinity`; a
 * number without a unit is seconds. Undefined for anything else.
 */
export function parseTimeSpan(text: string): number | undefined {
  const trimmed = text.trim();
  if (trimmed === 'infinity') return Number.POSITIVE_INFINITY;
  const part = /(\d+(?:\.\d+)?)\s*([A-Za-zµ]*)\s*/y;
  let sum = 0;
  let at = 0;
  while (at < trimmed.length) {
    part.lastIndex = at;
    const match = part.exec(trimmed);
    if (match === null) return undefined;
    const unit = match[2] === '' ? 1e6 : UNITS[match[2] ?? ''];
    if (unit === undefined) return undefined;
    sum += Number(match[1]) * unit;
    at = part.lastIndex;
  }
  return at === 0 ? undefined : sum / 1e3;
}

/** RLIMIT_ numbers of asm-generic/resource.h, by the part after `Limit`. */
const RESOURCES: Readonly<Record<string, { number: number; unit: 'bytes' | 'time' | 'count' }>> = {
  CPU: { number: 0, unit: 'time' },
  FSIZE: { number: 1, unit: 'bytes' },
  DATA: { number: 2, unit: 'bytes' },
  STACK: { number: 3, unit: 'bytes' },
  CORE: { number: 4, unit: 'bytes' },
  RSS: { number: 5, unit: 'bytes' },
  NPROC: { number: 6, unit: 'count' },
  NOFILE: { number: 7, unit: 'count' },
  MEMLOCK: { number: 8, unit: 'bytes' },
  AS: { number: 9, unit: 'bytes' },
  LOCKS: { number: 10, unit: 'count' },
  SIGPENDING: { number: 11, unit: 'count' },
  MSGQUEUE: { number: 12, unit: 'bytes' },
  NICE: { number: 13, unit: 'count' },
  RTPRIO: { number: 14, unit: 'count' },
  RTTIME: { number: 15, unit: 'time' },
};

const POWERS = 'KMGTPE';

/** Names of resources, as after `Limit` in a unit and in /proc/PID/limits' order. */
export const RESOURCE_NAMES = Object.keys(RESOURCES);

/** A limit of systemd.exec(5): `VALUE` or `SOFT:HARD`. Undefined if it is neither. */
export function parseResourceLimit(
  name: string,
  value: string,
): { resource: number; soft: number; hard: number } | undefined {
  const resource = RESOURCES[name];
  if (resource === undefined) return undefined;
  const [soft, hard = soft] = value.split(':').map((part) => amount(part.trim(), resource.unit));
  if (soft === undefined || hard === undefined) return undefined;
  return { resource: resource.number, soft, hard };
}

function amount(text: string, unit: 'bytes' | 'time' | 'count'): number | undefined {
  if (text === 'infinity') return Number.POSITIVE_INFINITY;
  if (unit === 'time') {
    const span = parseTimeSpan(text);
    return span === undefined ? undefined : Math.ceil(span / 1000);
  }
  const match = /^(\d{1,18})([KMGTPE])?$/.exec(text);
  if (match === null || (match[2] !== undefined && unit === 'count')) return undefined;
  return Number(match[1]) * (match[2] === undefined ? 1 : 1024 ** (POWERS.indexOf(match[2]) + 1));
}
