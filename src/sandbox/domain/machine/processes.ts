/** The processes of a sandbox, as its machine lists them: src/guest/machine/look.c. Hostile bytes. */
import type { ProcessInside } from '../ground.ts';

/** Bytes of a list: a sandbox may have some ten thousand processes. */
export const LIST_MAX = 32 << 20;

/** Of one process. */
const STAT_MAX = 2048;
const COMMAND_MAX = 4096;

/** Arguments of a command line. */
const WORDS = 64;

/** Ticks of proc_pid_stat(5) in a second: USER_HZ. */
const TICKS = 100;
const PAGE = 4096;

/** `PID (NAME) STATE …`: a name may have any byte but NUL. */
const STAT = /^(\d{1,10}) \(([^\0]*)\) ([A-Za-z])((?: -?\d{1,20}){19,})\n?$/s;

/** Undefined for what is no list. */
export function readProcesses(bytes: Buffer): ProcessInside[] | undefined {
  const found: ProcessInside[] = [];
  for (let at = 0; at < bytes.length; ) {
    const stat = piece(bytes, at, STAT_MAX);
    if (stat === undefined) return undefined;
    at += 4 + stat.length;
    if (at + 4 > bytes.length) return undefined;
    const uid = bytes.readUInt32LE(at);
    at += 4;
    const line = piece(bytes, at, COMMAND_MAX);
    if (line === undefined) return undefined;
    at += 4 + line.length;
    const read = processOf(stat.toString('latin1'), uid, line.toString('utf8'));
    if (read === undefined) return undefined;
    found.push(read);
  }
  return found;
}

function piece(bytes: Buffer, at: number, most: number): Buffer | undefined {
  if (at + 4 > bytes.length) return undefined;
  const length = bytes.readUInt32LE(at);
  if (length > most || at + 4 + length > bytes.length) return undefined;
  return bytes.subarray(at + 4, at + 4 + length);
}

function processOf(stat: string, uid: number, line: string): ProcessInside | undefined {
  const [, pid, name = '', state = '', rest = ''] = STAT.exec(stat) ?? [];
  // From the field ppid on, which is the fourth of the manual page.
  const fields = rest.trim().split(' ').map(Number);
  const [parent, , session] = fields;
  const [user, system, pages] = [fields[10], fields[11], fields[20]];
  if (pid === undefined || parent === undefined || session === undefined) return undefined;
  const words = line.replace(/\0+$/, '').split('\0').slice(0, WORDS);
  return {
    ...{ pid: Number(pid), parent, session, state, uid },
    cpuMilliseconds: (((user ?? 0) + (system ?? 0)) * 1000) / TICKS,
    residentBytes: (pages ?? 0) * PAGE,
    command: words[0] ? words : [`[${name}]`],
  };
}
