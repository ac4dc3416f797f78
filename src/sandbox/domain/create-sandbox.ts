/** Starts a sandbox up to its init: a container, or a machine that is restored where one like it was saved. */
import { existsSync } from 'node:fs';
import { freemem } from 'node:os';
import { setTimeout as sleep } from 'node:timers/promises';
import { KilnError } from '../../errors.ts';
import type { Connection } from '../../host/libvirt/connection.ts';
import type { Connect } from '../../host/libvirt/sandbox-host.ts';
import type { StatePaths } from '../../host/state/paths.ts';
import { awaitedLater } from '../../promise.ts';
import { destroySandbox } from './destroy.ts';
import { ensureBootFiles } from './machine/boot-files.ts';
import { MACHINE_DEADLINE } from './machine/machine.ts';
import { forgetSaved, keepSaved, savedPath } from './machine/saved.ts';
import { hardwareOf, type MachineWish } from './machine/start.ts';
import { SandboxDomain } from './sandbox-domain.ts';
import { type StartedDomain, type StartOptions, startDomain } from './start-domain.ts';

/** On failure the sandbox is left to the sweep. Throws what startDomain() and SandboxDomain.create() throw. */
export async function createSandbox(
  paths: StatePaths,
  connection: Connection,
  options: StartOptions,
  connect: Connect = async () => connection,
): Promise<{ readonly started: StartedDomain; readonly sandbox: SandboxDomain }> {
  const started = await startDomain(paths, connection, options);
  try {
    return { started, sandbox: await SandboxDomain.create(paths, started, connect) };
  } catch (error) {
    if (!started.isRestored) throw error;
    // A saved machine that is damaged must keep nobody from one that boots.
    if (started.savedPath !== undefined) forgetSaved(started.savedPath);
    return await createSandbox(paths, connection, { ...options, start: 'boots' }, connect);
  }
}

/** How often over the host must have the memory of one that is to be saved. */
const SPARE = 2;

/** Machines that cannot be saved on this host, as long as this process lives. */
const unsavable = new Set<string>();

const saving = new Map<string, Promise<void>>();

/** Sees to it that machines like this one are restored from now on: boots one, which takes long, and saves it. */
export async function ensureSaved(
  paths: StatePaths,
  connection: Connection,
  machine: MachineWish,
): Promise<void> {
  const { virtiofsd, ...hardware } = await hardwareOf(paths, await ensureBootFiles(paths), machine);
  const path = savedPath(paths, hardware, virtiofsd);
  if (path === undefined || existsSync(path) || unsavable.has(path)) return;
  // Until it is saved it takes all the memory that it is given.
  if (freemem() < SPARE * hardware.memory) return;
  const saved = saving.get(path) ?? awaitedLater(saveMachine(paths, connection, machine, path));
  saving.set(path, saved);
  try {
    await saved;
  } catch {
    // A libvirt that cannot do it, or a full disk: machines boot then.
    unsavable.add(path);
  } finally {
    saving.delete(path);
  }
}

/** Until it is saved it is a sandbox as others, and is swept as they are. */
async function saveMachine(
  paths: StatePaths,
  connection: Connection,
  machine: MachineWish,
  path: string,
): Promise<void> {
  const { directory, record, lock, domain } = await startDomain(paths, connection, {
    network: 'private',
    label: { kind: 'auto' },
    machine,
    start: 'saved',
    parked: true,
  });
  try {
    const booted = await Promise.race([domain, sleep(MACHINE_DEADLINE, undefined, { ref: false })]);
    if (booted === undefined) {
      throw new KilnError('E_MACHINE', 'the machine that is to be saved does not come up', {
        hint: '`kiln doctor machines` tells whether a guest starts',
      });
    }
    await keepSaved(paths, path, (to) => booted.suspendTo(to));
  } finally {
    await destroySandbox(paths, directory, record, async () => connection).finally(() =>
      lock.release(),
    );
  }
}
