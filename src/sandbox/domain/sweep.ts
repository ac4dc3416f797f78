import { readdir, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { tryLock } from '../../host/files/flock.ts';
import { removeTree } from '../../host/files/remove-tree.ts';
import type { Connection } from '../../host/libvirt/connection.ts';
import { removeDomainGroups } from '../../host/libvirt/embedded/cgroups.ts';
import { sweepEndedDaemons } from '../../host/libvirt/embedded/daemon.ts';
import { embeddedFiles } from '../../host/libvirt/embedded/files.ts';
import { homeOf } from '../../host/libvirt/embedded/launch.ts';
import type { StatePaths } from '../../host/state/paths.ts';
import {
  destroyDomain,
  removeDomainFiles,
  removedDirectory,
  removeSandbox,
} from './remove-sandbox.ts';
import {
  domainOf,
  domainPrefix,
  findSandboxRecord,
  readSandboxRecord,
  type SandboxRecord,
  sandboxFiles,
} from './sandbox-record.ts';
import { newDirectory } from './start-domain.ts';

/** Longer than a maker needs to lock its folder, milliseconds. */
const MAKING = 60_000;

/**
 * Destroys sandboxes that nobody owns: those whose owner died, and kept ones whose time is over or that are
 * older than `keptMaxAge` (milliseconds). Returns their ids. Leaves used and parked sandboxes alone. Safe to
 * run at any time, by several processes.
 */
export async function sweepSandboxes(
  paths: StatePaths,
  connect: () => Promise<Connection>,
  options: { readonly keptMaxAge?: number } = {},
): Promise<string[]> {
  const now = Date.now();
  const keptSince = now - (options.keptMaxAge ?? Number.POSITIVE_INFINITY);
  // Ignore errors here: they must not keep the sweep from the sandboxes.
  await removeTree(removedDirectory(paths)).catch(() => undefined);
  await sweepNew(paths, now);
  const swept: string[] = [];
  for (const id of await readdir(paths.sandboxes).catch(() => [])) {
    if (await sweepSandbox(paths, id, connect, now, keptSince)) swept.push(id);
  }
  return swept;
}

/** Removes folders whose makers were killed before they locked them. */
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
  const lock = await tryLock(sandboxFiles.lock(directory)).catch(() => undefined);
  if (lock === undefined) return false;
  try {
    const record = readSandboxRecord(directory);
    if (record !== undefined && isKept(record, now) && record.created >= keptSince) return false;
    await destroySandbox(paths, directory, record, connect);
    return true;
  } finally {
    await lock.release();
  }
}

function isKept({ keepUntil }: SandboxRecord, now: number): boolean {
  return keepUntil !== undefined && keepUntil > now;
}

/** Kills a sandbox of another process through libvirt, and removes its claims and folders. */
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
 * Destroys domains of this state directory whose sandbox's folder was deleted by hand. Removes cgroups of
 * domains that are gone, and of ended libvirtds of other state directories.
 */
export async function sweepDomains(paths: StatePaths, connection: Connection): Promise<string[]> {
  const prefix = domainPrefix(paths);
  const hasSandbox = async (name: string) => {
    const id = name.slice(prefix.length);
    return (await stat(join(paths.sandboxes, id)).catch(() => undefined)) !== undefined;
  };
  const destroyed: string[] = [];
  for (const name of await connection.domainNames()) {
    if (!name.startsWith(prefix) || (await hasSandbox(name))) continue;
    await destroyDomain(connection, name);
    destroyed.push(name);
  }
  await sweepDomainFiles(paths, hasSandbox);
  const home = await homeOf(embeddedFiles(paths));
  await removeDomainGroups(
    home,
    async (name) => !name.startsWith(prefix) || (await hasSandbox(name)),
  );
  await sweepEndedDaemons(paths);
  return destroyed;
}

/** Removes files on /run that libvirt and its controllers left of domains that are gone. */
async function sweepDomainFiles(
  paths: StatePaths,
  hasSandbox: (domain: string) => Promise<boolean>,
): Promise<void> {
  const { domainRun } = embeddedFiles(paths);
  const prefix = domainPrefix(paths);
  const files = await readdir(domainRun).catch(() => []);
  const domains = new Set(files.map((name) => name.replace(/\.[a-z]+$/, '')));
  for (const domain of domains) {
    if (!domain.startsWith(prefix) || (await hasSandbox(domain))) continue;
    removeDomainFiles(paths, domain);
  }
}
