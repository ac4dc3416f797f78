/** Looks from the host at the control groups of whatever probe runs. */
import { readdirSync, readFileSync } from 'node:fs';
import { constants } from 'node:os';
import { dirname, join } from 'node:path';
import { cgroupHierarchies } from '../../src/host/cgroup/cgroup.ts';
import type { Outside } from './judge.ts';

const FILES = {
  memory: ['memory.max', 'memory.limit_in_bytes'],
  processes: ['pids.max'],
} as const;

/** A limit that cgroup v1 shows where there is none: the greatest multiple of a page in 63 bits. */
const V1_NONE = 2 ** 62;

/** The text of a file; nothing where it is gone. */
function read(path: string): string {
  try {
    return readFileSync(path, 'utf8');
  } catch {
    return '';
  }
}

/** Whether the signal is the probe's to take already, and does not kill it: SigCgt of proc_pid_status(5). */
function takesSignal(pid: string): boolean {
  const mask = /^SigCgt:\s*([0-9a-f]+)$/m.exec(read(`/proc/${pid}/status`))?.[1] ?? '0';
  return (BigInt(`0x${mask}`) & (1n << BigInt(constants.signals.SIGUSR1 - 1))) !== 0n;
}

/** Tells a probe that it has been seen; one that has ended was killed by somebody else. */
function letGo(pid: number): void {
  try {
    process.kill(pid, 'SIGUSR1');
  } catch {
    // The test of its door says that it has said nothing.
  }
}

/** Whatever probes run until it is disposed of, by door. */
export class OutsideWatch implements Disposable {
  readonly seen = new Map<string, Outside>();
  readonly #mark: string;
  readonly #timer = setInterval(() => this.#look(), 50);

  /** @param mark what the words of its probes have; other runs of the test have probes of their own */
  constructor(mark: string) {
    this.#mark = mark;
  }

  /** Without a pause: a process that was listed may be gone after one. */
  #look(): void {
    for (const pid of readdirSync('/proc')) {
      if (!/^\d+$/.test(pid)) continue;
      const words = read(`/proc/${pid}/cmdline`).split('\0');
      // An emulator has the path of its program before them.
      const [program, door, mark] = [words[0], words.at(-5), words.at(-4)];
      if (!program?.endsWith('/kiln-probe') || door === undefined || mark !== this.#mark) continue;
      const groups = read(`/proc/${pid}/cgroup`);
      if (groups === '' || !takesSignal(pid)) continue;
      if (!this.seen.has(door)) this.seen.set(door, limitsOf(groups));
      letGo(Number(pid));
    }
  }

  [Symbol.dispose](): void {
    clearInterval(this.#timer);
  }
}

/** The tightest limits of the groups in a /proc/PID/cgroup, and of those above them. */
export function limitsOf(groups: string): Outside {
  const found = { memory: Number.POSITIVE_INFINITY, processes: Number.POSITIVE_INFINITY };
  for (const line of groups.trim().split('\n')) {
    const [, controllers = '', group = '/'] = /^\d+:([^:]*):(.*)$/.exec(line) ?? [];
    const mounted = cgroupHierarchies().find(({ version, controllers: all }) =>
      controllers === ''
        ? version === 2
        : version === 1 && all.includes(controllers.split(',')[0] ?? ''),
    );
    for (let at = group; mounted !== undefined; at = dirname(at)) {
      for (const kind of ['memory', 'processes'] as const) {
        for (const name of FILES[kind]) {
          const value = Number.parseInt(read(join(mounted.path, at, name)), 10);
          if (value < V1_NONE) found[kind] = Math.min(found[kind], value);
        }
      }
      if (at === '/' || at === '.') break;
    }
  }
  return found;
}
