/** What a state directory, its libvirtd, its kilnd and this process take, seen with other eyes than kiln's. */
import { lstatSync, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { execa } from 'execa';
import { embeddedFiles } from '../../src/host/libvirt/embedded/files.ts';
import type { StatePaths } from '../../src/host/state/paths.ts';
import { domainPrefix } from '../../src/sandbox/domain/sandbox-record.ts';
import { daemonPid } from '../../test/support/daemon.ts';
import { processes } from '../crash/processes.ts';

/** What is counted; each must be what it was. Bytes where the name says so. */
export interface Counts {
  readonly domains: number;
  readonly processes: number;
  readonly cgroups: number;
  readonly mounts: number;
  readonly 'id ranges': number;
  readonly 'files in /run': number;
  readonly 'files on disk': number;
  readonly 'bytes on disk': number;
  readonly 'temporary files': number;
  readonly 'descriptors here': number;
  readonly 'descriptors of libvirtd': number;
  readonly 'threads of libvirtd': number;
  readonly 'descriptors of kilnd': number;
  /** Resident and not shared, bytes. */
  readonly 'memory here': number;
  readonly 'memory of libvirtd': number;
  readonly 'memory of kilnd': number;
}

/** Takes stock; `temporary` is the folder for temporary files of everything measured. */
export async function measure(paths: StatePaths, temporary: string): Promise<Counts> {
  globalThis.gc?.();
  const files = embeddedFiles(paths);
  const prefix = domainPrefix(paths);
  const daemon = readText(files.pid).trim();
  const kilnd = String(daemonPid(paths.root) ?? '');
  const { stdout } = await execa('virsh', ['-q', '-c', files.uri, 'list', '--all', '--name'], {
    reject: false,
    timeout: 60_000,
  });
  const run = tree(paths.run);
  const state = tree(paths.root);
  return {
    domains: String(stdout)
      .split('\n')
      .filter((name) => name.startsWith(prefix)).length,
    processes: processes().filter(
      ({ pid, environment, command, cgroup }) =>
        pid !== process.pid &&
        !command.includes(files.config) &&
        (environment.includes(`KILN_STATE=${paths.root}\0`) ||
          command.includes(prefix) ||
          cgroup.includes(prefix)),
    ).length,
    cgroups: cgroups('/sys/fs/cgroup', prefix.slice(0, 12), 8),
    mounts: readText('/proc/self/mountinfo')
      .split('\n')
      .filter((line) => line.includes(paths.root) || line.includes(paths.run)).length,
    'id ranges': ranges(paths),
    'files in /run': run.files,
    'files on disk': state.files,
    'bytes on disk': state.bytes,
    'temporary files': readdirSync(temporary).length,
    'descriptors here': readdirSync('/proc/self/fd').length,
    'descriptors of libvirtd': list(`/proc/${daemon}/fd`).length,
    'threads of libvirtd': list(`/proc/${daemon}/task`).length,
    'descriptors of kilnd': list(`/proc/${kilnd}/fd`).length,
    'memory here': anonymous('self'),
    'memory of libvirtd': anonymous(daemon),
    'memory of kilnd': anonymous(kilnd),
  };
}

function readText(path: string): string {
  try {
    return readFileSync(path, 'utf8');
  } catch {
    return '';
  }
}

function list(directory: string): string[] {
  try {
    return readdirSync(directory);
  } catch {
    return [];
  }
}

/** Groups of sandboxes, in whatever hierarchy. Names are cut where libvirt makes them. */
function cgroups(directory: string, prefix: string, depth: number): number {
  if (depth === 0) return 0;
  let count = 0;
  for (const entry of entries(directory)) {
    if (!entry.isDirectory()) continue;
    if (entry.name.includes(prefix)) count++;
    count += cgroups(join(directory, entry.name), prefix, depth - 1);
  }
  return count;
}

function entries(directory: string) {
  try {
    return readdirSync(directory, { withFileTypes: true });
  } catch {
    return [];
  }
}

/** Reservations that name a sandbox of this state directory. */
function ranges(paths: StatePaths): number {
  const directory = join(paths.hostRun, 'ranges');
  return list(directory).filter((name) => readText(join(directory, name)).includes(`${paths.run}/`))
    .length;
}

/** Files and folders below, and the blocks they take. libvirtd's own log grows, and is left out. */
function tree(path: string): { files: number; bytes: number } {
  const sum = { files: 0, bytes: 0 };
  for (const entry of entries(path)) {
    const below = join(path, entry.name);
    if (entry.name.endsWith('.log')) continue;
    sum.files++;
    try {
      sum.bytes += lstatSync(below).blocks * 512;
    } catch {
      // It has just gone.
    }
    if (!entry.isDirectory()) continue;
    const inner = tree(below);
    sum.files += inner.files;
    sum.bytes += inner.bytes;
  }
  return sum;
}

function anonymous(pid: string): number {
  return Number(/^RssAnon:\s+(\d+)/m.exec(readText(`/proc/${pid}/status`))?.[1] ?? 0) * 1024;
}
