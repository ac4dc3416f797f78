import { existsSync } from 'node:fs';
import { readdir, rm, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { removeTree } from '../../host/files/remove-tree.ts';
import type { Connection } from '../../host/libvirt/connection.ts';
import { removeDomainGroups } from '../../host/libvirt/embedded/cgroups.ts';
import { sweepEndedDaemons } from '../../host/libvirt/embedded/daemon.ts';
import { embeddedFiles } from '../../host/libvirt/embedded/files.ts';
import { homeOf } from '../../host/libvirt/embedded/launch.ts';
import type { Connect } from '../../host/libvirt/sandbox-host.ts';
import type { StatePaths } from '../../host/state/paths.ts';
import {
  destroySandbox,
  endDomain,
  removeDomainFiles,
  removedDirectory,
  SYSTEM_MACHINE_LOGS,
} from './destroy.ts';
import { isEnding } from './ending.ts';
import { domainPrefix, isKept, type SandboxRecord, sandboxFolders } from './sandbox-record.ts';
import { newDirectory } from './start-domain.ts';
import { sweepWritten } from './written.ts';

/** Longer than a maker needs to lock its folder, milliseconds. */
const MAKING = 60_000;

/**
 * Destroys sandboxes whose owner died, and kept ones whose time is over or that are older than `keptMaxAge`
 * (milliseconds). Returns their ids. Safe to run at any time, by several processes.
 */
export async function sweepSandboxes(
  paths: StatePaths,
  connect: Connect,
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
  await removeMachineFiles(paths);
  await sweepWritten(paths);
  // One that does not end keeps nobody waiting.
  const stays = (record: SandboxRecord | undefined) =>
    record !== undefined &&
    (isEnding(record.init) || (isKept(record, now) && record.created >= keptSince));
  return await sandboxFolders.sweep(paths.sandboxes, stays, (folder, record) =>
    destroySandbox(paths, folder, record, connect),
  );
}

/** Whether a domain is of a sandbox that has no folder any more. */
function orphanTest(paths: StatePaths): (domain: string) => boolean {
  const prefix = domainPrefix(paths);
  return (name) =>
    name.startsWith(prefix) && !existsSync(join(paths.sandboxes, name.slice(prefix.length)));
}

async function sweepNew(paths: StatePaths, now: number): Promise<void> {
  for (const id of await readdir(newDirectory(paths)).catch(() => [])) {
    const folder = join(newDirectory(paths), id);
    const made = await stat(folder).catch(() => undefined);
    if (made !== undefined && now - made.ctimeMs > MAKING) await removeTree(folder);
  }
}

/** virDomainDefGetShortName() cuts a domain's name so, behind the number that it has for libvirt. */
const SHORT_NAME = /^(?:domain-)?\d+-(.{1,20})$/;

/** What libvirt has left of machines; it writes to the log of one after its end. */
async function removeMachineFiles(paths: StatePaths): Promise<void> {
  const isOrphan = orphanTest(paths);
  const { machineLogs, machineFolders } = embeddedFiles(paths);
  const list = (folder: string) => readdir(folder).catch(() => []);
  for (const folder of [machineLogs, SYSTEM_MACHINE_LOGS]) {
    for (const name of await list(folder)) {
      if (isOrphan(name.replace(/\.log$/, ''))) await rm(join(folder, name), { force: true });
    }
  }
  const prefix = domainPrefix(paths);
  const found: [string, string][] = [];
  for (const folder of machineFolders) {
    for (const name of await list(folder)) {
      const [, short = ''] = SHORT_NAME.exec(name) ?? [];
      if (short.startsWith(prefix)) found.push([short, join(folder, name)]);
    }
  }
  // Afterwards: a machine that starts meanwhile has a folder by then.
  const ids = await list(paths.sandboxes);
  for (const [short, path] of found) {
    if (!ids.some((id) => `${prefix}${id}`.startsWith(short))) await removeTree(path);
  }
}

/**
 * Destroys domains whose sandbox's folder was deleted by hand. Removes cgroups of domains that are gone, and of
 * ended libvirtds of other state directories.
 */
export async function sweepDomains(paths: StatePaths, connection: Connection): Promise<string[]> {
  const isOrphan = orphanTest(paths);
  const destroyed = (await connection.domainNames()).filter(isOrphan);
  for (const name of destroyed) {
    await endDomain(paths, name, undefined, async () => connection);
  }
  const files = await readdir(embeddedFiles(paths).domainRun).catch(() => []);
  const domains = new Set(files.map((name) => name.replace(/\.[a-z]+$/, '')));
  for (const domain of domains) if (isOrphan(domain)) await removeDomainFiles(paths, domain);
  await removeMachineFiles(paths);
  await removeDomainGroups(await homeOf(embeddedFiles(paths)), isOrphan);
  await sweepEndedDaemons(paths);
  return destroyed;
}
