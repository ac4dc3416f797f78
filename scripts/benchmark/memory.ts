/** Memory of processes, from /proc. */
import { spawn } from 'node:child_process';
import { readdirSync, readFileSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';

const MB = 1e6;
/** Between two looks, milliseconds. */
const PAUSE = 20;

/** The text of a file of a process; empty when the process is gone. */
function read(pid: number, file: string): string {
  try {
    return readFileSync(`/proc/${pid}/${file}`, 'utf8');
  } catch {
    return '';
  }
}

/** Every process there is whose command line has `part` in it. */
export function processesWith(part: string): number[] {
  const pids = readdirSync('/proc').map(Number).filter(Number.isInteger);
  return pids.filter((pid) => read(pid, 'cmdline').includes(part));
}

/** What descends from a process, without itself. */
export function descendants(pid: number): number[] {
  const children = read(pid, `task/${pid}/children`).split(' ').filter(Boolean).map(Number);
  return children.flatMap((child) => [child, ...descendants(child)]);
}

/** MB of memory of these processes; what they share with others counts in part (PSS). */
export function memoryOf(pids: readonly number[]): number {
  return pids.reduce((sum, pid) => sum + field(pid, 'Pss'), 0);
}

/** MB that are a process's own: without the pages of files, whose share depends on who else runs. */
export function ownMemory(pid: number): number {
  return field(pid, 'Pss_Anon');
}

/** A line of smaps_rollup (proc_pid_smaps(5)), MB. */
function field(pid: number, name: string): number {
  const line = new RegExp(`^${name}: +(\\d+) kB`, 'm').exec(read(pid, 'smaps_rollup'));
  return (Number(line?.[1] ?? 0) * 1024) / MB;
}

/** Runs a program and returns the most memory that it and its descendants had at a time, MB. */
export async function peakMemory(argv: readonly string[], env: NodeJS.ProcessEnv): Promise<number> {
  const [program = '', ...args] = argv;
  const child = spawn(program, args, { env, stdio: 'ignore' });
  const ended = new Promise<number | null>((resolve, reject) => {
    child.once('error', reject);
    child.once('exit', resolve);
  });
  let peak = 0;
  for (let running = true; running; ) {
    const pid = child.pid ?? 0;
    peak = Math.max(peak, memoryOf([pid, ...descendants(pid)]));
    running = await Promise.race([ended.then(() => false), sleep(PAUSE, true)]);
  }
  const status = await ended;
  if (status !== 0) throw new Error(`${argv.join(' ')}: exit status ${status}`);
  return peak;
}
