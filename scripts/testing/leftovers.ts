import { existsSync, readdirSync, readFileSync, readlinkSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';

/** How long sandboxes and daemons that are being torn down may take to be gone. */
const GRACE_MS = 10_000;

/**
 * Id ranges and pairs of categories in use, a file each, which names the folder of its sandbox. A test that deletes
 * a state just when its daemon was ended has deleted what would have given back the reservations: whoever needs one
 * takes it then (src/sandbox/domain/reservation.ts).
 */
const RESERVATIONS = ['/run/kiln/ranges', '/run/kiln/mcs'];

/** What of kiln's is on a host and would be there still after its makers are gone. */
export interface HostThings {
  readonly mounts: ReadonlySet<string>;
  readonly cgroups: ReadonlySet<string>;
  readonly runDirectories: ReadonlySet<string>;
  readonly temporaryFiles: ReadonlySet<string>;
}

/** Takes stock of a host, before a run that keeps its temporary files in `folder`. */
export function hostThings(folder: string): HostThings {
  return {
    mounts: new Set(mountPoints().filter((path) => path.includes('kiln'))),
    cgroups: new Set(kilnCgroups('/sys/fs/cgroup', 6)),
    runDirectories: new Set([
      ...entriesOf('/run/kiln'),
      ...RESERVATIONS.flatMap(entriesOf).filter(hasState),
    ]),
    temporaryFiles: new Set(entriesOf(folder)),
  };
}

/**
 * What a run has left behind, a line each. A process belongs to the run if its command line, its
 * environment or its mounts name `folder`, the run's own temporary folder, so that other users of
 * the machine are not taken for leftovers. Waits until nothing is left, at most ten seconds.
 */
export async function leftovers(before: HostThings, folder: string): Promise<string[]> {
  const deadline = Date.now() + GRACE_MS;
  for (;;) {
    const found = findLeftovers(before, folder);
    if (found.length === 0 || Date.now() > deadline) return found;
    await sleep(250);
  }
}

function findLeftovers(before: HostThings, folder: string): string[] {
  const now = hostThings(folder);
  const added = (what: string, old: ReadonlySet<string>, present: ReadonlySet<string>) =>
    [...present].filter((path) => !old.has(path)).map((path) => `${what} ${path}`);
  return [
    ...processesOf(folder),
    ...added('mount', before.mounts, now.mounts),
    ...added('cgroup', before.cgroups, now.cgroups),
    ...added('run directory', before.runDirectories, now.runDirectories),
    ...added('temporary file', before.temporaryFiles, now.temporaryFiles),
  ];
}

/** Whether the run directory is there of the state that a reservation's sandbox is of. */
function hasState(reservation: string): boolean {
  const [sandbox = ''] = read(reservation).split('\n');
  return existsSync(dirname(dirname(sandbox)));
}

function processesOf(folder: string): string[] {
  const found: string[] = [];
  for (const pid of list('/proc').filter((name) => /^\d+$/.test(name))) {
    if (Number(pid) === process.pid) continue;
    const commandLine = read(`/proc/${pid}/cmdline`).replaceAll('\0', ' ').trim();
    const belongs =
      commandLine.includes(folder) ||
      read(`/proc/${pid}/environ`).includes(folder) ||
      // A sandbox outlives the daemon that started it; the daemon's private mounts are in its table.
      (!sharesOurMounts(pid) && read(`/proc/${pid}/mountinfo`).includes(folder));
    if (belongs) found.push(`process ${pid}: ${commandLine.slice(0, 160)}`);
  }
  return found;
}

function sharesOurMounts(pid: string): boolean {
  try {
    return readlinkSync(`/proc/${pid}/ns/mnt`) === readlinkSync('/proc/self/ns/mnt');
  } catch {
    return true;
  }
}

function mountPoints(): string[] {
  return read('/proc/self/mountinfo')
    .split('\n')
    .map((line) => line.split(' ')[4] ?? '');
}

/** Control groups that kiln or libvirt's LXC driver made, as paths, not their descendants. */
function kilnCgroups(folder: string, depth: number): string[] {
  if (depth === 0) return [];
  return readdirSafe(folder).flatMap((name) => {
    const path = join(folder, name);
    return /kiln|libvirt-lxc|lxc-/.test(name) ? [path] : kilnCgroups(path, depth - 1);
  });
}

function readdirSafe(folder: string): string[] {
  try {
    return readdirSync(folder, { withFileTypes: true })
      .filter((entry) => entry.isDirectory())
      .map((entry) => entry.name);
  } catch {
    return [];
  }
}

function entriesOf(folder: string): string[] {
  return list(folder)
    .map((name) => join(folder, name))
    .filter((path) => !RESERVATIONS.includes(path));
}

function list(folder: string): string[] {
  try {
    return readdirSync(folder);
  } catch {
    return [];
  }
}

/** The text of a file of /proc; empty where its process is gone meanwhile. */
function read(path: string): string {
  try {
    return readFileSync(path, 'utf8');
  } catch {
    return '';
  }
}
