import { existsSync, mkdirSync, renameSync, rmSync } from 'node:fs';
import { readdir, rmdir, stat } from 'node:fs/promises';
import { basename, join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { KilnError } from '../../errors.ts';
import { hasErrno, unlessErrno } from '../../host/calls/libc.ts';
import { removeOwnCgroups } from '../../host/cgroup/cgroup.ts';
import { tryLock } from '../../host/files/flock.ts';
import { removeTree, removeTreeNow } from '../../host/files/remove-tree.ts';
import type { Connection } from '../../host/libvirt/connection.ts';
import { removeDomainGroups } from '../../host/libvirt/embedded/cgroups.ts';
import { sweepEndedDaemons } from '../../host/libvirt/embedded/daemon.ts';
import { embeddedFiles } from '../../host/libvirt/embedded/files.ts';
import { homeOf } from '../../host/libvirt/embedded/launch.ts';
import { LibvirtError } from '../../host/libvirt/errors.ts';
import type { StatePaths } from '../../host/state/paths.ts';
import { releaseLabels } from '../labels/labels.ts';
import { pairDirectory } from '../labels/selinux.ts';
import { rangeDirectory, releaseRange, releaseReservationsOf } from './reservation.ts';
import {
  domainOf,
  domainPrefix,
  findSandboxRecord,
  isKept,
  readSandboxRecord,
  type SandboxRecord,
  SYSTEM_DOMAIN_RUN,
  sandboxFiles,
  sandboxOwner,
} from './sandbox-record.ts';
import { newDirectory } from './start-domain.ts';

/** Longer than a maker needs to lock its folder, milliseconds. */
const MAKING = 60_000;

/**
 * Destroys sandboxes whose owner died, and kept ones whose time is over or that are older than `keptMaxAge`
 * (milliseconds). Returns their ids. Safe to run at any time, by several processes.
 */
export async function sweepSandboxes(
  paths: StatePaths,
  connect: () => Promise<Connection>,
  options: { readonly keptMaxAge?: number } = {},
): Promise<string[]> {
  const now = Date.now();
  const keptSince = now - (options.keptMaxAge ?? Number.POSITIVE_INFINITY);
  const removed = removedDirectory(paths);
  // Ignore errors here: they must not keep the sweep from the sandboxes.
  for (const id of await readdir(removed).catch(() => [])) {
    await removeTree(join(removed, id)).catch(() => undefined);
  }
  await sweepNew(paths, now);
  const swept: string[] = [];
  for (const id of await readdir(paths.sandboxes).catch(() => [])) {
    if (await sweepSandbox(paths, id, connect, now, keptSince)) swept.push(id);
  }
  return swept;
}

async function sweepNew(paths: StatePaths, now: number): Promise<void> {
  for (const id of await readdir(newDirectory(paths)).catch(() => [])) {
    const folder = join(newDirectory(paths), id);
    const made = await stat(folder).catch(() => undefined);
    if (made !== undefined && now - made.ctimeMs > MAKING) await removeTree(folder);
  }
}

async function sweepSandbox(
  paths: StatePaths,
  id: string,
  connect: () => Promise<Connection>,
  now: number,
  keptSince: number,
): Promise<boolean> {
  const directory = join(paths.sandboxes, id);
  const stays = (record: SandboxRecord | undefined) =>
    record !== undefined && isKept(record, now) && record.created >= keptSince;
  // Not looked at under the lock: whoever lists sandboxes would take a kept one for one that runs.
  if (stays(findSandboxRecord(directory).value)) return false;
  const lock = await tryLock(sandboxFiles.lock(directory)).catch(() => undefined);
  if (lock === undefined) return false;
  await using _lock = lock;
  const record = readSandboxRecord(directory);
  if (stays(record)) return false;
  await destroySandbox(paths, directory, record, connect);
  return true;
}

export async function destroySandbox(
  paths: StatePaths,
  directory: string,
  record: SandboxRecord | undefined,
  connect: () => Promise<Connection>,
): Promise<void> {
  const domain = record?.domain ?? domainOf(paths, directory);
  // A folder without sandbox.json never had a domain, unless the record was damaged.
  if (record !== undefined || findSandboxRecord(directory).damage !== undefined) {
    await destroyDomain(await connect(), domain);
  }
  await removeSandbox(paths, directory, record);
}

/**
 * Destroys domains whose sandbox's folder was deleted by hand. Removes cgroups of domains that are gone, and of
 * ended libvirtds of other state directories.
 */
export async function sweepDomains(paths: StatePaths, connection: Connection): Promise<string[]> {
  const prefix = domainPrefix(paths);
  const isOrphan = (name: string) =>
    name.startsWith(prefix) && !existsSync(join(paths.sandboxes, name.slice(prefix.length)));
  const destroyed = (await connection.domainNames()).filter(isOrphan);
  for (const name of destroyed) await destroyDomain(connection, name);
  const files = await readdir(embeddedFiles(paths).domainRun).catch(() => []);
  const domains = new Set(files.map((name) => name.replace(/\.[a-z]+$/, '')));
  for (const domain of domains) if (isOrphan(domain)) await removeDomainFiles(paths, domain);
  await removeDomainGroups(await homeOf(embeddedFiles(paths)), isOrphan);
  await sweepEndedDaemons(paths);
  return destroyed;
}

/** How long libvirt may fail to end a domain, ms. */
const DESTROY_DEADLINE = 6000;

/** Where a system libvirtd writes a log for each domain. It never deletes them. */
const SYSTEM_DOMAIN_LOGS = '/var/log/libvirt/lxc';

/** Of a domain in libvirt's folder on /run. They are empty: mounts exist only in the controller's namespace. */
const DOMAIN_FOLDERS = ['dev', 'devpts', 'fuse'];

function removedDirectory(paths: StatePaths): string {
  return join(paths.run, 'removed');
}

async function removeDomainFiles(paths: StatePaths, domain: string): Promise<void> {
  const { domainLogs, domainRun } = embeddedFiles(paths);
  for (const logs of [domainLogs, SYSTEM_DOMAIN_LOGS]) {
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
    await releaseLabels(paths, record.labels, owner);
  }
  // Rename first: a sweep must not make a lock file in a half-removed folder.
  const removed = join(removedDirectory(paths), basename(directory));
  mkdirSync(removedDirectory(paths), { recursive: true, mode: 0o700 });
  unlessErrno(['ENOENT'], () => renameSync(directory, removed));
  removeTreeNow(removed);
}

/**
 * A domain that is gone is fine. systemd-machined may remove a domain's cgroup while libvirt works: then libvirt's
 * call fails although the domain ends soon, and kiln waits for that.
 */
export async function destroyDomain(connection: Connection, name: string): Promise<void> {
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
