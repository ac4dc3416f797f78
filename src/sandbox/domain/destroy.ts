import { existsSync, mkdirSync, renameSync, rmSync } from 'node:fs';
import { rmdir } from 'node:fs/promises';
import { basename, join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { KilnError } from '../../errors.ts';
import { attempt, hasErrno, unlessErrno } from '../../host/calls/libc.ts';
import { removeOwnCgroups } from '../../host/cgroup/cgroup.ts';
import { ProcessCgroups } from '../../host/cgroup/cgroup-files.ts';
import { removeTreeNow } from '../../host/files/remove-tree.ts';
import type { Connection } from '../../host/libvirt/connection.ts';
import { controllerPid, isWatchedNow } from '../../host/libvirt/controllers.ts';
import { daemonPid, embeddedFiles } from '../../host/libvirt/embedded/files.ts';
import { LibvirtError } from '../../host/libvirt/errors.ts';
import type { Connect } from '../../host/libvirt/sandbox-host.ts';
import { childrenOf, waitForDeath } from '../../host/process/process.ts';
import type { RecordedProcess } from '../../host/process/recorded-process.ts';
import type { StatePaths } from '../../host/state/paths.ts';
import {
  rangeDirectory,
  releaseRange,
  releaseReservationsOf,
} from '../../host/state/reservation.ts';
import { span } from '../../host/trace/trace.ts';
import { releaseLabels } from '../labels/labels.ts';
import { pairDirectory } from '../labels/selinux.ts';
import {
  controllerOf,
  endlessProcesses,
  hasProcesses,
  SYSTEM_DOMAIN_RUN,
  whyEndless,
} from './ending.ts';
import { endRelay, machineFiles } from './machine/relay.ts';
import {
  domainOf,
  driverOf,
  findSandboxRecord,
  type SandboxRecord,
  sandboxOwner,
} from './sandbox-record.ts';
import { removeWritten } from './written.ts';

/** How long libvirt may fail to end a domain, ms. */
const DESTROY_DEADLINE = 6000;

/** How long an init may take to die, after it was told to and after it was killed, ms. */
const DEATH_DEADLINE = 3000;

/** How often more that long one may take that waits for nothing: the kernel forgets each file of its mounts. */
const DEATH_PATIENCE = 20;

/** Where a system libvirtd writes a log for each domain. It never deletes them. */
export const SYSTEM_MACHINE_LOGS = '/var/log/libvirt/qemu';
const SYSTEM_DOMAIN_LOGS = ['/var/log/libvirt/lxc', SYSTEM_MACHINE_LOGS];

/** Of a domain in libvirt's folder on /run. They are empty: mounts exist only in the controller's namespace. */
const DOMAIN_FOLDERS = ['dev', 'devpts', 'fuse'];

export async function destroySandbox(
  paths: StatePaths,
  directory: string,
  record: SandboxRecord | undefined,
  connect: Connect,
): Promise<void> {
  const domain = record?.domain ?? domainOf(paths, directory);
  // A folder without sandbox.json never had a domain, unless the record was damaged.
  if (record !== undefined || findSandboxRecord(directory).damage !== undefined) {
    endRelay(record?.machine?.relay);
    // Of a machine whose record is damaged its folder is left.
    const isMachine = record === undefined && existsSync(machineFiles.folder(directory));
    const driver = isMachine ? 'qemu' : driverOf(record);
    await endDomain(paths, domain, record?.init, () => connect(driver));
  }
  await removeSandbox(paths, directory, record);
}

/**
 * Ends what runs in a sandbox, then has libvirt end the domain. While a process is left in the domain's group, libvirtd
 * waits for it and answers nobody (virCgroupKillPainfully()): for seconds for one that the kernel cannot end, and for a
 * fifth of a second for its own controller, which is moved out before.
 * @param tell the init to end; without this it is killed
 * @param qemu its process, which ends with the init of a machine
 * @throws KilnError E_DESTROY
 */
export async function endDomain(
  paths: StatePaths,
  domain: string,
  init: RecordedProcess | undefined,
  connect: () => Promise<Connection>,
  tell?: () => Promise<void>,
  qemu?: number,
): Promise<void> {
  // Must be asked while the controller lives.
  const watched = isWatchedNow(domain);
  const controller = controllerOf(paths, domain);
  const pids = new Set(controller === undefined ? [] : childrenOf(controller));
  if (init !== undefined && hasProcesses(init)) pids.add(init.pid);
  if (qemu !== undefined) pids.add(qemu);
  await releaseController(paths, domain).catch(() => undefined);
  const areDead = async () => {
    using _ = span('wait for the init’s death');
    const ends = await Promise.all([...pids].map((pid) => waitForDeath(pid, DEATH_DEADLINE)));
    return !ends.includes(false);
  };
  await tell?.();
  let ended = tell !== undefined && (await areDead());
  if (!ended) {
    for (const pid of pids) attempt(() => process.kill(pid, 'SIGKILL'));
    ended = await areDead();
  }
  const endless = () => [...pids].find((pid) => endlessProcesses(pid).length > 0);
  for (let more = 0; !ended && more < DEATH_PATIENCE; more++) {
    if (endless() !== undefined) break;
    ended = await areDead();
  }
  if (!ended) {
    throw new KilnError('E_DESTROY', `domain ${domain} cannot end: ${whyEndless(endless())}`, {
      hint: 'it is removed once they have ended; docs/administration.md says how root ends such a file system',
    });
  }
  // libvirt, which sees its controller or qemu end, does the rest. With qemu it waits until somebody has collected that.
  if (qemu !== undefined || (pids.size > 0 && watched)) return;
  const connection = await connect();
  using _ = span('have libvirt end the domain');
  await destroyDomain(connection, domain);
}

/** Moves a domain's controller to the group of the embedded libvirtd. What a system's has is systemd's affair. */
async function releaseController(paths: StatePaths, domain: string): Promise<void> {
  const files = embeddedFiles(paths);
  const [daemon, controller] = [daemonPid(files), controllerPid(files.domainRun, domain)];
  if (daemon === undefined || controller === undefined) return;
  await ProcessCgroups.of(daemon).adopt(controller);
}

export function removedDirectory(paths: StatePaths): string {
  return join(paths.run, 'removed');
}

export async function removeDomainFiles(paths: StatePaths, domain: string): Promise<void> {
  const { domainLogs, domainRun, machineLogs } = embeddedFiles(paths);
  for (const logs of [domainLogs, machineLogs, ...SYSTEM_DOMAIN_LOGS]) {
    rmSync(join(logs, `${domain}.log`), { force: true });
  }
  for (const run of [domainRun, SYSTEM_DOMAIN_RUN]) {
    for (const kind of DOMAIN_FOLDERS) await removeFolder(join(run, `${domain}.${kind}`));
    rmSync(join(run, `${domain}.sock`), { force: true });
  }
}

/** Not in this thread: the kernel first takes off what the ending controller has mounted there, half a millisecond each. */
async function removeFolder(path: string): Promise<void> {
  // Looking is far cheaper than an error.
  if (!existsSync(path)) return;
  await rmdir(path).catch((error) => {
    if (!hasErrno(error, 'ENOENT', 'ENOTEMPTY', 'ENOTDIR')) throw error;
  });
}

/** Gives back ids, labels and folders of a sandbox whose processes are all dead. */
export async function removeSandbox(
  paths: StatePaths,
  directory: string,
  record: SandboxRecord | undefined,
): Promise<void> {
  const domain = domainOf(paths, directory);
  await removeOwnCgroups(domain);
  await removeDomainFiles(paths, domain);
  const owner = sandboxOwner(paths, basename(directory));
  if (record === undefined) {
    for (const directory of [rangeDirectory(paths), pairDirectory(paths)]) {
      await releaseReservationsOf(directory, owner);
    }
  } else {
    await releaseRange(paths, record.range, owner);
    await releaseLabels(paths, record.labels ?? record.qemuLabel, owner);
  }
  // Rename first: a sweep must not make a lock file in a half-removed folder.
  const removed = join(removedDirectory(paths), basename(directory));
  mkdirSync(removedDirectory(paths), { recursive: true, mode: 0o700 });
  unlessErrno(['ENOENT'], () => renameSync(directory, removed));
  removeTreeNow(removed);
  await removeWritten(paths, basename(directory));
}

/**
 * A domain that is gone is fine. systemd-machined may remove a domain's cgroup while libvirt works: then libvirt's
 * call fails although the domain ends soon, and kiln waits for that.
 */
async function destroyDomain(connection: Connection, name: string): Promise<void> {
  for (const end = Date.now() + DESTROY_DEADLINE; ; await sleep(100)) {
    try {
      await (await connection.lookupByName(name)).destroy();
      return;
    } catch (error) {
      if (error instanceof LibvirtError) {
        if (error.code === 'E_LIBVIRT_NO_DOMAIN') return;
        if (error.libvirt !== undefined && Date.now() < end) continue;
      }
      throw new KilnError('E_DESTROY', `cannot destroy domain ${name}`, {
        cause: error,
        hint: '`kiln gc` tries again; `kiln doctor` tells whether libvirt works',
      });
    }
  }
}
