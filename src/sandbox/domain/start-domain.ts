import { randomBytes, randomUUID } from 'node:crypto';
import { chmodSync, chownSync, mkdirSync, renameSync } from 'node:fs';
import { join, relative } from 'node:path';
import { removeOwnCgroups } from '../../host/cgroup/cgroup.ts';
import { acquireLock, type HeldLock } from '../../host/files/flock.ts';
import { removeTree } from '../../host/files/remove-tree.ts';
import type { Connection, Domain } from '../../host/libvirt/connection.ts';
import { LibvirtError } from '../../host/libvirt/errors.ts';
import type { HeldSandbox } from '../../host/libvirt/sandbox-host.ts';
import { makeRunFolder, type StatePaths } from '../../host/state/paths.ts';
import { allocateRange, releaseRange } from '../../host/state/reservation.ts';
import { span } from '../../host/trace/trace.ts';
import { awaitedLater } from '../../promise.ts';
import { releaseLabels, reserveLabels } from '../labels/labels.ts';
import type { SandboxLabels } from '../labels/module.ts';
import { type QemuLabel, reserveQemuLabel } from '../labels/qemu.ts';
import { ensureStoreContext, labelFile, lowerOwnRange } from '../labels/relabel.ts';
import type { LabelRequest } from '../policy/label-request.ts';
import { type DomainOptions, domainXml } from './domain-xml.ts';
import { ensureBootFiles } from './machine/boot-files.ts';
import { endRelay } from './machine/relay.ts';
import {
  type MachineStart,
  type MachineWish,
  type StartedMachine,
  startMachine,
} from './machine/start.ts';
import {
  domainPrefix,
  type SandboxRecord,
  sandboxFiles,
  sandboxOwner,
  writeSandboxRecord,
} from './sandbox-record.ts';
import { ensureSkeleton } from './skeleton.ts';

function ensureSandboxDirectories(paths: StatePaths): void {
  makeRunFolder(paths);
  mkdirSync(paths.sandboxes, { recursive: true });
  chmodSync(paths.sandboxes, 0o711);
}

/** Folders of sandboxes that are being made, for a few system calls each. A sweep does not look there. */
export function newDirectory(paths: StatePaths): string {
  return join(paths.run, 'new');
}

/** It appears with its owner's lock held, because a folder whose lock is free counts as abandoned. */
async function makeFolder(paths: StatePaths, id: string): Promise<HeldLock> {
  const made = join(newDirectory(paths), id);
  mkdirSync(made, { recursive: true, mode: 0o700 });
  chmodSync(made, 0o711);
  const lock = await acquireLock(sandboxFiles.lock(made));
  renameSync(made, join(paths.sandboxes, id));
  return lock;
}

/** A sandbox that this process holds, with what is known of it. */
export interface KnownSandbox extends HeldSandbox {
  readonly record: SandboxRecord;
}

export interface StartedDomain extends KnownSandbox {
  /**
   * Resolves when libvirt has started the domain; its init runs before that. Rejects with LibvirtError; nothing
   * is left then except what {@link sweepSandboxes} removes.
   */
  readonly domain: Promise<Domain>;
  /** Whether it is a machine that was saved. */
  readonly isRestored: boolean;
  /** Where one like it is saved. */
  readonly savedPath: string | undefined;
}

export interface StartOptions {
  readonly network: DomainOptions['network'];
  readonly label: LabelRequest;
  /** It is a machine, and `connection` that of the driver of machines. */
  readonly machine?: MachineWish | undefined;
  /** How it starts; by itself as it is quickest. */
  readonly start?: MachineStart;
  /** It is to wait for a claim. */
  readonly parked?: true;
}

export async function startDomain(
  paths: StatePaths,
  connection: Connection,
  options: StartOptions,
): Promise<StartedDomain> {
  ensureSandboxDirectories(paths);
  // Before there are sockets of the relay's.
  lowerOwnRange();
  await ensureStoreContext(paths);
  const boot = options.machine && (await ensureBootFiles(paths, options.machine.kernel));
  const skeleton = boot?.folder ?? (await ensureSkeleton(paths));
  const id = randomBytes(5).toString('hex');
  const domain = `${domainPrefix(paths)}${id}`;
  const directory = join(paths.sandboxes, id);
  const lock = await makeFolder(paths, id);
  const owner = sandboxOwner(paths, id);
  const range = await allocateRange(paths, owner);
  let labels: SandboxLabels | undefined;
  let qemuLabel: QemuLabel | undefined;
  let machine: StartedMachine | undefined;
  const giveBack = async () => {
    endRelay(machine?.relay);
    await removeOwnCgroups(domain);
    await releaseRange(paths, range, owner);
    await releaseLabels(paths, labels ?? qemuLabel, owner);
    await lock.release();
    await removeTree(directory);
  };
  try {
    // Of a machine only its qemu has a label: in its guest no module of the host's has a say.
    if (boot === undefined) labels = await reserveLabels(paths, options.label, owner);
    else qemuLabel = await reserveQemuLabel(paths, owner);
    let record: SandboxRecord = {
      id,
      domain,
      range,
      created: Date.now(),
      skeleton,
      network: options.network,
      parked: options.parked,
      ...{ labels, qemuLabel },
    };
    writeSandboxRecord(directory, record);
    const socketDirectory = sandboxFiles.socketDirectory(directory);
    mkdirSync(socketDirectory, { mode: 0o700 });
    chownSync(socketDirectory, range.base, range.base);
    if (labels?.files !== undefined) labelFile(socketDirectory, labels.files);
    const names = { name: record.domain, uuid: randomUUID() };
    const { network } = options;
    if (boot !== undefined && options.machine !== undefined) {
      machine = await startMachine(
        { paths, directory, range, boot, network, context: qemuLabel?.context, ...names },
        options.machine,
        options.start ?? 'restored',
      );
      record = { ...record, machine: machine.record };
      writeSandboxRecord(directory, record);
    }
    const xml =
      machine?.xml ??
      domainXml({
        ...names,
        skeleton: join(paths.link, relative(paths.root, skeleton)),
        socketDirectory,
        range,
        network,
        ...(labels?.module === 'selinux' ? { context: labels.init } : {}),
      });
    const create = async () => {
      using _ = span('start a domain');
      try {
        using saved = machine?.saved;
        const created =
          saved === undefined
            ? await connection.createDomain(xml)
            : await connection.restoreDomain(saved.path, domain);
        await machine?.open;
        return created;
      } catch (error) {
        if (isRefusal(error)) await giveBack();
        // The domain may exist, or appear later: its folder tells the sweep about it.
        else await lock.release();
        throw error;
      }
    };
    const { saved, savedPath } = machine ?? {};
    const isRestored = saved !== undefined;
    return { directory, record, lock, domain: awaitedLater(create()), isRestored, savedPath };
  } catch (error) {
    await giveBack();
    throw error;
  }
}

function isRefusal(error: unknown): boolean {
  if (!(error instanceof LibvirtError)) return false;
  return error.libvirt !== undefined || error.code === 'E_LIBVIRT_CLOSED';
}
