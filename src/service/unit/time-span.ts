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
