/**
 * Limits of what processes read from and write to disks, as a cgroup's files have them. Sources: the
 * kernel's admin-guide/cgroup-v2 (io.max) and admin-guide/cgroup-v1/blkio-controller.
 */

/** What may be read from and written to one disk; undefined is no limit. Bytes per second. */
export interface IoLimit {
  /** `MAJOR:MINOR` of a whole disk. */
  readonly device: string;
  readonly read?: number;
  readonly write?: number;
}

/** A line for a file of a cgroup's. */
export interface CgroupLine {
  readonly file: string;
  readonly line: string;
}

/** v1's files and v2's keys of io.max. */
const V1_FILES = {
  read: 'blkio.throttle.read_bps_device',
  write: 'blkio.throttle.write_bps_device',
} as const;
const V2_FILE = 'io.max';
const V2_KEYS = { read: 'rbps', write: 'wbps' } as const;
const WAYS = ['read', 'write'] as const;

/** The file that tells whether a group can have such a limit. */
export function ioLimitFile(version: 1 | 2): string {
  return version === 2 ? V2_FILE : V1_FILES.write;
}

/** What is to be written for a limit. Each write is for one disk; what is not named stays. */
export function ioLimitLines(version: 1 | 2, limit: IoLimit): CgroupLine[] {
  const asked = WAYS.flatMap((way) => {
    const rate = limit[way];
    return rate === undefined ? [] : [{ way, rate }];
  });
  if (asked.length === 0) return [];
  if (version === 1) {
    return asked.map(({ way, rate }) => ({ file: V1_FILES[way], line: `${limit.device} ${rate}` }));
  }
  const keys = asked.map(({ way, rate }) => `${V2_KEYS[way]}=${rate}`);
  return [{ file: V2_FILE, line: [limit.device, ...keys].join(' ') }];
}

/** The limits in the text of a group's files; `read` gives that of one, undefined if there is none. */
export function parseIoLimits(
  version: 1 | 2,
  read: (file: string) => string | undefined,
): IoLimit[] {
  const found = new Map<string, IoLimit>();
  for (const way of WAYS) {
    const text = read(version === 2 ? V2_FILE : V1_FILES[way]) ?? '';
    const rate = version === 2 ? new RegExp(` ${V2_KEYS[way]}=(\\d+)( |$)`) : / (\d+)$/;
    for (const line of text.split('\n')) {
      const device = /^\d+:\d+(?= )/.exec(line)?.[0];
      const bytes = rate.exec(line)?.[1];
      if (device === undefined || bytes === undefined) continue;
      found.set(device, { ...(found.get(device) ?? { device }), [way]: Number(bytes) });
    }
  }
  return [...found.values()];
}
