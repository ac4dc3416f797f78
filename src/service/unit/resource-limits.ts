import { parseTimeSpan } from './time-span.ts';

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
