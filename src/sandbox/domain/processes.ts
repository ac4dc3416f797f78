/** The processes in a container, as this host's /proc and the sandbox's control group have them. What they say is hostile. */
import { readFile } from 'node:fs/promises';
import { setTimeout as sleep } from 'node:timers/promises';
import { closing } from '../../host/calls/descriptor.ts';
import { attempt, readText } from '../../host/calls/libc.ts';
import { tryCall } from '../../host/calls/system-call.ts';
import { ProcessCgroups } from '../../host/cgroup/cgroup-files.ts';
import { statOf } from '../../host/process/process.ts';
import { isRunning } from '../../host/process/recorded-process.ts';
import { signalNumber } from '../../host/process/signals.ts';
import type { KnownProcess } from './ground.ts';
import type { SandboxRecord } from './sandbox-record.ts';

export interface SandboxedProcess extends KnownProcess {
  readonly hostPid: number;
  /** In the sandbox; undefined for ids that it does not have. */
  readonly uid: number | undefined;
}

/** Ticks of proc_pid_stat(5) in a second: USER_HZ, the same on every architecture that kiln knows. */
const TICKS = 100;

/** Reading a command line waits for the process's memory, which can be a file that does not answer. Milliseconds. */
const PATIENCE = 300;

const WORDS = 64;
const LETTERS = 4096;

/** pid 1 of its pid namespace, or of one around it. */
const INIT = 1;

interface Found {
  readonly hostPid: number;
  /** In the sandbox. */
  readonly pid: number;
  readonly uid: number;
}

/** Those of commands: kiln's own inits, and libvirt's controller, are left out. */
function found({ init }: SandboxRecord): Found[] {
  if (init === undefined || !isRunning(init)) return [];
  const pids = attempt(() => ProcessCgroups.of(init.pid).processes()) ?? [];
  return pids.flatMap((hostPid) => look(hostPid) ?? []);
}

/** In libvirt's pid namespace is kiln's outer init, in the next one its inner init and the commands. */
function look(hostPid: number): Found | undefined {
  const status = readText(`/proc/${hostPid}/status`, 'latin1') ?? '';
  const numbers = (name: string) =>
    (new RegExp(`^${name}:\\t(.*)$`, 'm').exec(status)?.[1] ?? '').split('\t').map(Number);
  const [, , pid = INIT] = numbers('NSpid');
  const [uid = 0] = numbers('Uid');
  return pid === INIT ? undefined : { hostPid, pid, uid };
}

/** Oldest first, as the kernel numbers them. */
export async function sandboxProcesses(record: SandboxRecord): Promise<SandboxedProcess[]> {
  const { base, count } = record.range;
  const all = await Promise.all(
    found(record).map(async ({ hostPid, pid, uid }) => {
      const stat = statOf(hostPid);
      if (stat === undefined) return [];
      const parent = look(Number(stat[1]))?.pid ?? INIT;
      const isInside = uid >= base && uid < base + count;
      return [
        {
          ...{ hostPid, pid, parent, state: stat[0] ?? '' },
          uid: isInside ? uid - base : undefined,
          cpuMilliseconds: ((Number(stat[11]) + Number(stat[12])) * 1000) / TICKS,
          residentBytes: Number(stat[21]) * 4096,
          command: await commandOf(hostPid),
        },
      ];
    }),
  );
  return all.flat().sort((a, b) => a.pid - b.pid);
}

async function commandOf(pid: number): Promise<readonly string[]> {
  const given = new AbortController();
  const late = sleep(PATIENCE, undefined, { signal: given.signal }).catch(() => undefined);
  const read = readFile(`/proc/${pid}/cmdline`, 'utf8').catch(() => undefined);
  const text = (await Promise.race([read, late])) ?? '';
  given.abort();
  const words = text.slice(0, LETTERS).replace(/\0+$/, '').split('\0').slice(0, WORDS);
  if (words[0]) return words;
  const name = /\((.*)\)/s.exec(readText(`/proc/${pid}/stat`, 'latin1') ?? '')?.[1];
  return [`[${name ?? '?'}]`];
}

export function countProcesses(record: SandboxRecord): number {
  return found(record).length;
}

/** Signals all of them; whether there was one. */
export function signalProcesses(record: SandboxRecord, signal: NodeJS.Signals): boolean {
  const { base, count } = record.range;
  const all = found(record);
  for (const { hostPid } of all) {
    const fd = tryCall('pidfd_open', hostPid, 0);
    if (fd < 0) continue;
    using opened = closing(fd);
    // Its number may be another process's by now: what is open is still the sandbox's, or gets nothing.
    const uid = look(hostPid)?.uid ?? -1;
    if (uid < base || uid >= base + count) continue;
    tryCall('pidfd_send_signal', opened.fd, signalNumber(signal), null, 0);
  }
  return all.length > 0;
}
