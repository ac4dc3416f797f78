/** What goes with a sandbox: its domain, cgroups, ids, labels, and files. */
import { existsSync, mkdirSync, renameSync, rmdirSync, rmSync } from 'node:fs';
import { basename, join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { KilnError } from '../../errors.ts';
import { hasErrno } from '../../host/calls/libc.ts';
import { removeOwnCgroups } from '../../host/cgroup/own-cgroups.ts';
import { removeTreeNow } from '../../host/files/remove-tree.ts';
import type { Connection } from '../../host/libvirt/connection.ts';
import { embeddedFiles } from '../../host/libvirt/embedded/files.ts';
import { LibvirtError } from '../../host/libvirt/errors.ts';
import type { StatePaths } from '../../host/state/paths.ts';
import { releaseLabels } from '../labels/labels.ts';
import { releasePairsOf } from '../labels/selinux.ts';
import { releaseRange, releaseRangesOf } from './id-range.ts';
import { domainOf, type SandboxRecord, sandboxOwner } from './sandbox-record.ts';

/** How long libvirt may fail to end a domain, ms. */
const DESTROY_DEADLINE = 6000;

/** Where a system libvirtd writes a log for each domain. It never deletes them. */
const SYSTEM_DOMAIN_LOGS = '/var/log/libvirt/lxc';

/**
 * Where a system libvirtd's controllers have their sockets, and folders to mount on. They are never removed.
 */
const SYSTEM_DOMAIN_RUN = '/run/libvirt/lxc';

/**
 * Folders of a domain in libvirt's folder on /run. They are empty: mounts exist only in the controller's
 * namespace.
 */
const DOMAIN_FOLDERS = ['dev', 'devpts', 'fuse'];

/** Folders of destroyed sandboxes. Nobody owns what is in it. */
export function removedDirectory(paths: StatePaths): string {
  return join(paths.run, 'removed');
}

/** Removes files that libvirt leaves of a destroyed domain. */
export function removeDomainFiles(paths: StatePaths, domain: string): void {
  const { domainLogs, domainRun } = embeddedFiles(paths);
  for (const logs of [domainLogs, SYSTEM_DOMAIN_LOGS]) {
    rmSync(join(logs, `${domain}.log`), { force: true });
  }
  for (const run of [domainRun, SYSTEM_DOMAIN_RUN]) {
    for (const kind of DOMAIN_FOLDERS) removeFolder(join(run, `${domain}.${kind}`));
    // A killed controller leaves its socket.
    rmSync(join(run, `${domain}.sock`), { force: true });
  }
}

/** Removes an empty folder, if there is one. */
function removeFolder(path: string): void {
  // Looking is far cheaper than an error.
  if (!existsSync(path)) return;
  try {
    rmdirSync(path);
  } catch (error) {
    if (!hasErrno(error, 'ENOENT', 'ENOTEMPTY', 'ENOTDIR')) throw error;
  }
}

/** Gives back the claims and folders of a sandbox whose processes are all dead. */
export async function removeSandbox(
  paths: StatePaths,
  directory: string,
  record: SandboxRecord | undefined,
): Promise<void> {
  // The groups have the sandbox's id as name, as its folder has.
  await removeOwnCgroups(basename(directory));
  removeDomainFiles(paths, domainOf(paths, directory));
  const owner = sandboxOwner(paths, basename(directory));
  if (record === undefined) {
    await releaseRangesOf(paths, owner);
    await releasePairsOf(paths, owner);
  } else {
    await releaseRange(paths, record.range, owner);
    await releaseLabels(paths, record.labels, owner);
  }
  // Rename first: a sweep must not make a lock file in a half-removed folder.
  const removed = join(removedDirectory(paths), basename(directory));
  mkdirSync(removedDirectory(paths), { recursive: true, mode: 0o700 });
  try {
    renameSync(directory, removed);
  } catch (error) {
    if (!hasErrno(error, 'ENOENT')) throw error;
  }
  removeTreeNow(removed);
}

/**
 * Has libvirt kill a domain; a domain that is gone is fine. Where systemd-machined runs, it may remove a
 * domain's cgroup while libvirt works. Then libvirt's call fails although the domain ends soon, and kiln waits
 * for that.
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
