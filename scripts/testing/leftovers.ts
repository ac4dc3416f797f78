import { existsSync, readdirSync, readFileSync, readlinkSync } from 'node:fs';
import { basename, dirname, join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { memorySource } from './memory.ts';
import { RUN, States } from './states.ts';

/** How long sandboxes and daemons that are being torn down may take to be gone. */
const GRACE_MS = 10_000;

const CGROUPS = '/sys/fs/cgroup';

/**
 * Id ranges and pairs of categories in use, a file each, which names the folder of its sandbox. A test that deletes
 * a state just when its daemon was ended has deleted what would have given back the reservations: whoever needs one
 * takes it then (src/host/state/reservation.ts).
 */
const RESERVATIONS = ['ranges', 'mcs'].map((name) => join(RUN, name));

/** Kilns of this host share them; `kvm` is what doctor found out about /dev/kvm since the host's boot. */
const SHARED = [...RESERVATIONS, ...['io.kiln', 'kvm'].map((name) => join(RUN, name))];

/** The folder of a run of the tests, ours or another. */
const FOLDER_OF_RUN = /\/kiln-test-\w{6}(?:\/|$)/;

/**
 * Finds what a run leaves behind. Other kilns of the machine may be busy meanwhile, and other runs: theirs is not
 * looked for. What nobody has a claim to is taken for the run's, if it was not there before and stays.
 */
export class Leftovers implements Disposable {
  readonly #folders: readonly string[];
  readonly #states: States;
  readonly #before: ReadonlySet<string>;

  /** Takes stock, before a run that keeps all its files in `folders` (without links in their paths). */
  constructor(folders: readonly string[]) {
    this.#folders = folders;
    this.#states = new States(folders);
    this.#before = new Set(this.#present());
  }

  /** What has been left behind, a line each. Waits until nothing is left, for at most `grace` milliseconds. */
  async find(grace = GRACE_MS): Promise<string[]> {
    const deadline = Date.now() + grace;
    let found = this.#added();
    while (found.length > 0 && Date.now() < deadline) {
      await sleep(250);
      const still = new Set(this.#added());
      found = found.filter((line) => still.has(line));
    }
    return found;
  }

  /** Processes that have to do with the folders, but for this one and those that it was started by. */
  ownProcesses(): number[] {
    const callers = new Set(callersOf(String(process.pid)));
    const found = pids().filter((pid) => !callers.has(pid) && this.#isOurs(pid));
    return found.map(Number);
  }

  /** Mounts, and control groups, of the folders and of states in them. */
  ownMounts(): string[] {
    return this.#mounts().filter((path) => this.#states.whose(path) === 'ours');
  }

  ownCgroups(): string[] {
    return this.#cgroups().filter((path) => this.#states.whose(basename(path)) === 'ours');
  }

  /** The states in the folders that are known to kiln. */
  ownStates(): string[] {
    return this.#states.own();
  }

  #added(): string[] {
    return this.#present().filter((line) => !this.#before.has(line));
  }

  #present(): string[] {
    this.#states.look();
    const named = (what: string, paths: readonly string[]) =>
      paths.map((path) => `${what} ${path}`);
    return [
      ...this.#processes(),
      ...named('mount', this.#mounts()),
      ...named('cgroup', this.#cgroups()),
      ...named('run directory', this.#runFolders()),
      ...named('reservation', this.#reservations()),
      ...named('temporary file', this.#folders.flatMap(entriesOf)),
    ];
  }

  #processes(): string[] {
    return pids()
      .filter((pid) => pid !== String(process.pid) && this.#isOurs(pid))
      .map((pid) => `process ${pid}: ${commandLine(pid).slice(0, 160)}`);
  }

  /** Whether a process has to do with the run's folders, or is in a cgroup of a state of the run. */
  #isOurs(pid: string): boolean {
    const links = ['cwd', 'root', 'exe'].map((name) => readLink(`/proc/${pid}/${name}`));
    const texts = [commandLine(pid), read(`/proc/${pid}/environ`), ...links];
    return (
      texts.some((text) => this.#folders.some((folder) => text.includes(folder))) ||
      this.#hasOurFiles(pid) ||
      read(`/proc/${pid}/cgroup`)
        .split('\n')
        .some((group) => this.#states.whose(group) === 'ours')
    );
  }

  /**
   * Whether a mount in a process's own table is of files of the run's: so are sandboxes', and libvirtd's. Where those
   * are mounted says nothing: a table begins as a copy of the host's, other kilns' too.
   */
  #hasOurFiles(pid: string): boolean {
    if (readLink(`/proc/${pid}/ns/mnt`) === readLink('/proc/self/ns/mnt')) return false;
    const names = this.#folders.map((folder) => `/${basename(folder)}/`);
    return read(`/proc/${pid}/mountinfo`)
      .split('\n')
      .some((line) => {
        const root = `${line.split(' ')[3] ?? '/'}/`;
        const isInMemory = root !== '//' && line.includes(` ${memorySource()} `);
        return isInMemory || names.some((name) => root.includes(name));
      });
  }

  #mounts(): string[] {
    return read('/proc/self/mountinfo')
      .split('\n')
      .map((line) => line.split(' ')[4] ?? '')
      .filter((path) => {
        const whose = this.#states.whose(path);
        if (whose !== 'unknown') return whose === 'ours';
        return path.includes('kiln') && !FOLDER_OF_RUN.test(path);
      });
  }

  /** Control groups that kiln or libvirt's LXC driver made, as paths, not their descendants. */
  #cgroups(folder = CGROUPS, depth = 6): string[] {
    if (depth === 0) return [];
    return foldersIn(folder).flatMap((name) => {
      const path = join(folder, name);
      // All states have their groups of sandboxes and of users in one of this name.
      const isShared = name === 'kiln' && foldersIn(path).length > 0;
      const isKilns = /kiln|libvirt-lxc|lxc-/.test(name) || basename(folder) === 'kiln';
      if (!isKilns || isShared) return this.#cgroups(path, depth - 1);
      return this.#isOthers(path) ? [] : [path];
    });
  }

  #isOthers(cgroup: string): boolean {
    const whose = this.#states.whose(basename(cgroup));
    if (whose !== 'unknown') return whose === 'others';
    const inside = processesIn(cgroup);
    return inside.length > 0 && !inside.some((pid) => this.#isOurs(pid));
  }

  #runFolders(): string[] {
    return entriesOf(RUN).filter(
      (path) => !SHARED.includes(path) && this.#states.whose(path) !== 'others',
    );
  }

  /** But those of a state whose folder on /run is gone. */
  #reservations(): string[] {
    return RESERVATIONS.flatMap(entriesOf).flatMap((path) => {
      const [sandbox = ''] = read(path).split('\n');
      const isOurs = this.#states.whose(sandbox) !== 'others';
      return isOurs && existsSync(dirname(dirname(sandbox))) ? [`${path} of ${sandbox}`] : [];
    });
  }

  [Symbol.dispose](): void {
    this.#states[Symbol.dispose]();
  }
}

/** A process, its parent, and so on. */
function callersOf(pid: string): string[] {
  const parent = /^PPid:\s+(\d+)$/m.exec(read(`/proc/${pid}/status`))?.[1] ?? '0';
  return parent === '0' ? [pid] : [pid, ...callersOf(parent)];
}

function pids(): string[] {
  return list('/proc').filter((name) => /^\d+$/.test(name));
}

function commandLine(pid: string): string {
  return read(`/proc/${pid}/cmdline`).replaceAll('\0', ' ').trim();
}

function processesIn(cgroup: string): string[] {
  const own = read(join(cgroup, 'cgroup.procs')).split('\n').filter(Boolean);
  return [...own, ...foldersIn(cgroup).flatMap((name) => processesIn(join(cgroup, name)))];
}

function foldersIn(folder: string): string[] {
  try {
    return readdirSync(folder, { withFileTypes: true })
      .filter((entry) => entry.isDirectory())
      .map((entry) => entry.name);
  } catch {
    return [];
  }
}

function entriesOf(folder: string): string[] {
  return list(folder).map((name) => join(folder, name));
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

function readLink(path: string): string {
  try {
    return readlinkSync(path);
  } catch {
    return '';
  }
}
