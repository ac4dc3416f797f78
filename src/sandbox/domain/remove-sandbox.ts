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

/** Where a system libvirtd writes a log for each domain, which it never deletes. */
const SYSTEM_DOMAIN_LOGS = '/var/log/libvirt/lxc';

/** Where its controllers have a socket each, and folders to mount on, which are never removed. */
const SYSTEM_DOMAIN_RUN = '/run/libvirt/lxc';

/** Of a domain, in libvirt's folder on /run: empty, mounted on only in its controller's namespace. */
const DOMAIN_FOLDERS = ['dev', 'devpts', 'fuse'];

/** Folders of sandboxes on their way out; what is found here belongs to nobody. */
export function removedDirectory(paths: StatePaths): string {
  return join(paths.run, 'removed');
}

/** Removes what libvirt leaves of a domain that is gone. */
export function removeDomainFiles(paths: StatePaths, domain: string): void {
  const { domainLogs, domainRun } = embeddedFiles(paths);
  for (const logs of [domainLogs, SYSTEM_DOMAIN_LOGS]) {
    rmSync(join(logs, `${domain}.log`), { force: true });
  }
  for (const run of [domainRun, SYSTEM_DOMAIN_RUN]) {
    for (const kind of DOMAIN_FOLDERS) removeFolder(join(run, `${domain}.${kind}`));
    // Of a controller that was killed.
    rmSync(join(run, `${domain}.sock`), { force: true });
  }
}

/** An empty one, or none. */
function removeFolder(path: string): void {
  // To look is far cheaper than an error.
  if (!existsSync(path)) return;
  try {
    rmdirSync(path);
  } catch (error) {
    if (!hasErrno(error, 'ENOENT', 'ENOTEMPTY', 'ENOTDIR')) throw error;
  }
}

/** Gives back what a sandbox had whose processes are all dead. */
export async function removeSandbox(
  paths: StatePaths,
  directory: string,
  record: SandboxRecord | undefined,
): Promise<void> {
  // They are named by the sandbox's id, as its folder is.
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
  // Out of sight first: a sweep that looks for its lock must not make one in a half-removed folder.
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
 * Asks libvirt to kill a domain; one that is gone already is fine. systemd-machined, where it runs,
 * may take a domain's cgroup away in the middle of libvirt's own work, which then fails, although
 * the domain is gone soon: that is waited for.
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
