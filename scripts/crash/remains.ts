/** What killed kilns have left of themselves, looked for with other eyes than kiln's own. */
import { globSync, readdirSync, readFileSync } from 'node:fs';
import { basename, join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { execa } from 'execa';
import { embeddedFiles } from '../../src/host/libvirt/embedded/files.ts';
import type { StatePaths } from '../../src/host/state/paths.ts';
import { domainPrefix } from '../../src/sandbox/domain/sandbox-record.ts';
import { processes } from './processes.ts';

/** How long things that are on their way out may take, ms. */
const GRACE = 15_000;

/** Those who may be there: ids of sandboxes and pids of their runners. */
export interface Living {
  readonly sandboxes: readonly string[];
  readonly runners: readonly number[];
}

/** Waits until nothing is left but the living; gives what is left after that, a line each. */
export async function remains(
  paths: StatePaths,
  living: Living,
  resultDirectories: readonly string[],
): Promise<string[]> {
  for (const end = Date.now() + GRACE; ; await sleep(300)) {
    const found = [
      ...sandboxDirectories(paths, living),
      ...(await domains(paths, living)),
      ...cgroups(paths, living),
      ...strayProcesses(paths, living),
      ...mounts(paths),
      ...ranges(paths, living),
      ...libvirtFiles(paths, living),
      ...halfMade(paths),
      ...staging(resultDirectories),
    ];
    if (found.length === 0 || Date.now() > end) return found;
  }
}

function list(directory: string): string[] {
  try {
    return readdirSync(directory);
  } catch {
    return [];
  }
}

function sandboxDirectories(paths: StatePaths, { sandboxes }: Living): string[] {
  const all = [
    ...list(paths.sandboxes),
    ...list(join(paths.run, 'removed')).map((id) => `removed ${id}`),
  ];
  return all.filter((id) => !sandboxes.includes(id)).map((id) => `directory of a sandbox: ${id}`);
}

async function domains(paths: StatePaths, { sandboxes }: Living): Promise<string[]> {
  const { uri, machineUri } = embeddedFiles(paths);
  const listed = [uri, machineUri].map(async (driver) => {
    const options = ['-q', '-c', driver, 'list', '--all', '--name'];
    const { stdout } = await execa('virsh', options, { reject: false, timeout: 10_000 });
    return (stdout ?? '').split('\n').filter((name) => name.trim() !== '');
  });
  const names = (await Promise.all(listed)).flat();
  const known = sandboxes.map((id) => `${domainPrefix(paths)}${id}`);
  return names.filter((name) => !known.includes(name)).map((name) => `domain ${name}`);
}

/**
 * Of sandboxes: `lxc-PID-NAME.libvirt-lxc`, `qemu-N-NAME.libvirt-qemu`, and kiln's own by their names, which those have
 * that serve a machine.
 */
function cgroups(paths: StatePaths, { sandboxes }: Living): string[] {
  const prefix = domainPrefix(paths);
  const names = [`*{lxc,qemu}-*${prefix.slice(0, 12)}*`, `${prefix}*`];
  return [...new Set(globSync(names.map((name) => `/sys/fs/cgroup/**/${name}`)))]
    .filter((path) => !sandboxes.some((id) => basename(path).includes(id.slice(0, 6))))
    .map((path) => `cgroup ${path}`);
}

/** Whatever was started with this state directory, is in a cgroup of its sandboxes or serves one of its machines. */
function strayProcesses(paths: StatePaths, { sandboxes, runners }: Living): string[] {
  const all = processes();
  const name = embeddedFiles(paths).name;
  const prefix = domainPrefix(paths);
  const kept = new Set([process.pid, ...runners]);
  // A runner's children are the runner's.
  for (const { pid, parent } of all) if (kept.has(parent)) kept.add(pid);
  return all
    .filter(({ cgroup, environment, command }) => {
      if (command.includes(embeddedFiles(paths).config)) return false;
      const inSandbox = cgroup.includes(`/${name}/`) && cgroup.includes('lxc-');
      const ours = environment.includes(`KILN_STATE=${paths.root}\0`);
      // qemu, the relay and virtiofsd have no environment of kiln's.
      const serves =
        cgroup.includes(prefix) || [prefix, paths.sandboxes].some((it) => command.includes(it));
      return (
        (inSandbox || ours || serves) &&
        !sandboxes.some((id) => cgroup.includes(id) || command.includes(id))
      );
    })
    .filter(({ pid, command }) => !kept.has(pid) && !/\/virsh|^virsh/.test(command))
    .map(({ pid, command }) => `process ${pid}: ${command.slice(0, 120)}`);
}

function mounts(paths: StatePaths): string[] {
  return readFileSync('/proc/self/mountinfo', 'utf8')
    .split('\n')
    .filter((line) => line.includes(paths.root) || line.includes(paths.run))
    .map((line) => `mount ${line}`);
}

/** Reservations of id ranges that name a sandbox of this state directory. */
function ranges(paths: StatePaths, { sandboxes }: Living): string[] {
  const directory = join(paths.hostRun, 'ranges');
  return list(directory).flatMap((name) => {
    let owner: string;
    try {
      owner = readFileSync(join(directory, name), 'utf8');
    } catch {
      return [];
    }
    if (!owner.includes(`${paths.run}/`)) return [];
    return sandboxes.some((id) => owner.includes(id))
      ? []
      : [`id range ${name}: ${owner.split('\n')[0]}`];
  });
}

/** Of machines, whose names libvirt cuts. */
function libvirtFiles(paths: StatePaths, { sandboxes }: Living): string[] {
  const { machineLogs, machineFolders } = embeddedFiles(paths);
  return [machineLogs, ...machineFolders].flatMap((folder) =>
    list(folder)
      .filter((name) => name.includes(domainPrefix(paths)))
      .filter((name) => !sandboxes.some((id) => name.includes(id.slice(0, 6))))
      .map((name) => `file of libvirt's: ${join(folder, name)}`),
  );
}

function halfMade(paths: StatePaths): string[] {
  return [
    ...list(join(paths.store, 'work')).map((name) => `half made in the store: ${name}`),
    ...list(paths.trash).map((name) => `store/trash/${name}`),
    ...list(join(paths.store, 'locks'))
      .filter((name) => name.startsWith('work-'))
      .map((name) => `store/locks/${name}`),
  ];
}

function staging(directories: readonly string[]): string[] {
  return directories.flatMap((directory) =>
    list(directory)
      .filter((name) => name.startsWith('.'))
      .map((name) => `${directory}/${name}`),
  );
}
