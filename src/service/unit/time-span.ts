/** Microseconds of each unit of systemd.time(7). */
const UNITS = new Map(
  Object.entries({
    'usec us µs': 1,
    'msec ms': 1e3,
    'seconds second sec s': 1e6,
    'minutes minute min m': 60e6,
    'hours hour hr h': 3600e6,
    'days day d': 86_400e6,
    'weeks week w': 604_800e6,
    'months month M': 2_629_800e6,
    'years year y': 31_557_600e6,
  }).flatMap(([names, microseconds]) =>
    names.split(' ').map((name) => [name, microseconds] as const),
  ),
);

/**
 * Parses a time span of systemd.time(7) into milliseconds: `90`, `5min 20s`, `1.5h`, `infinity`; a number
 * without a unit is seconds. Undefined for anything else.
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
    const unit = match[2] === '' ? 1e6 : UNITS.get(match[2] ?? '');
    if (unit === undefined) return undefined;
    sum += Number(match[1]) * unit;
    at = part.lastIndex;
  }
  return at === 0 ? undefined : sum / 1e3;
}

/**
 * Names of resources after `Limit` in a unit, in the order of their RLIMIT_ numbers (asm-generic/resource.h).
 */
export const RESOURCE_NAMES = [
  ...['CPU', 'FSIZE', 'DATA', 'STACK', 'CORE', 'RSS', 'NPROC', 'NOFILE', 'MEMLOCK', 'AS'],
  ...['LOCKS', 'SIGPENDING', 'MSGQUEUE', 'NICE', 'RTPRIO', 'RTTIME'],
];
const TIMES = ['CPU', 'RTTIME'];
const COUNTS = ['NPROC', 'NOFILE', 'LOCKS', 'SIGPENDING', 'NICE', 'RTPRIO'];

const POWERS = 'KMGTPE';

/** Parses a limit of systemd.exec(5): `VALUE` or `SOFT:HARD`. Undefined for anything else. */
export function parseResourceLimit(
  name: string,
  value: string,
): { resource: number; soft: number; hard: number } | undefined {
  const resource = RESOURCE_NAMES.indexOf(name);
  if (resource < 0) return undefined;
  const [soft, hard = soft] = value.split(':').map((part) => amount(part.trim(), name));
  if (soft === undefined || hard === undefined) return undefined;
  return { resource, soft, hard };
}

function amount(text: string, name: string): number | undefined {
  if (text === 'infinity') return Number.POSITIVE_INFINITY;
  if (TIMES.includes(name)) {
    const span = parseTimeSpan(text);
    return span === undefined ? undefined : Math.ceil(span / 1000);
  }
  const match = /^(\d{1,18})([KMGTPE])?$/.exec(text);
  if (match === null || (match[2] !== undefined && COUNTS.includes(name))) return undefined;
  return Number(match[1]) * (match[2] === undefined ? 1 : 1024 ** (POWERS.indexOf(match[2]) + 1));
}
