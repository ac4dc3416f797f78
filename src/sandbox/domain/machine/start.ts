/** A sandbox that is a virtual machine: what stands on the host around its domain. */
import { chmodSync, mkdirSync, statSync } from 'node:fs';
import { availableParallelism } from 'node:os';
import { KilnError } from '../../../errors.ts';
import type { RecordedProcess } from '../../../host/process/recorded-process.ts';
import type { StatePaths } from '../../../host/state/paths.ts';
import type { IdRange } from '../../../host/state/reservation.ts';
import { layerMissingError } from '../../policy/layers.ts';
import type { DomainOptions } from '../domain-xml.ts';
import type { BootFiles, WantedKernel } from './boot-files.ts';
import { whyNoKvm } from './kvm.ts';
import {
  type Accelerator,
  type MachineHardware,
  type MachineIdentity,
  machineXml,
} from './machine-xml.ts';
import { GUEST_MEMORY, ownMemory } from './memory.ts';
import { machinePrograms } from './programs.ts';
import type { MachineRecord } from './record.ts';
import { machineFiles, type RelayMode, startRelay } from './relay.ts';
import { copySaved, type NamelessFile, savedPath } from './saved.ts';

export interface MachineWish {
  readonly limits: { readonly memory?: number | undefined; readonly cpus?: number | undefined };
  readonly kernel?: WantedKernel | undefined;
  /** Whether KVM may be missing. */
  readonly mayBeEmulated: boolean;
}

/** Whether it may be restored of a saved one, boots, or boots to be saved before there is a sandbox in it. */
export type MachineStart = 'restored' | RelayMode;

export interface StartedMachine {
  readonly relay: RecordedProcess;
  readonly record: MachineRecord;
  readonly xml: string;
  /** What it is restored of, closed by whoever has done so; it boots where there is none. */
  readonly saved: NamelessFile | undefined;
  /** Where a machine like this one is saved. */
  readonly savedPath: string | undefined;
  /** Resolves when the init listens; of one that is to be saved, when its stage 0 runs. */
  readonly open: Promise<void>;
}

export async function startMachine(
  place: {
    readonly paths: StatePaths;
    readonly directory: string;
    readonly range: IdRange;
    readonly boot: BootFiles;
    readonly network: DomainOptions['network'];
  } & Pick<MachineIdentity, 'name' | 'uuid' | 'context'>,
  wish: MachineWish,
  how: MachineStart,
): Promise<StartedMachine> {
  const { paths, directory, range, boot, network, name, uuid, context } = place;
  const { virtiofsd, ...hardware } = await hardwareOf(paths, boot, wish, network);
  const { accelerator, memory } = hardware;
  const folder = machineFiles.folder(directory);
  mkdirSync(folder, { mode: 0o700 });
  // qemu passes it, to its sockets.
  chmodSync(folder, 0o711);
  // The last id of the sandbox's own: nobody else has it, on the host or in the guest.
  const user = range.base + range.count - 1;
  const group = accelerator === 'kvm' ? statSync('/dev/kvm').gid : user;
  const identity = { name, uuid, folder, user, group, context };
  const path = savedPath(paths, hardware, virtiofsd);
  const saved =
    how === 'restored' && path !== undefined ? await copySaved(paths, path, identity) : undefined;
  const mode = how === 'restored' && saved === undefined ? 'boots' : how;
  try {
    const place = { directory, group: name, range, user };
    const { process: relay, open } = await startRelay(virtiofsd, place, mode);
    const sandboxMemory = memory - GUEST_MEMORY;
    const record = { relay, user, accelerator, release: boot.release, memory, sandboxMemory };
    const xml = machineXml({ ...hardware, ...identity, isSaved: how === 'saved' });
    return { relay, record, xml, saved, savedPath: path, open };
  } catch (error) {
    saved?.[Symbol.dispose]();
    throw error;
  }
}

/** @throws KilnError E_MACHINE_MISSING, E_ARGUMENT, E_LAYER_MISSING */
export async function hardwareOf(
  paths: StatePaths,
  boot: BootFiles,
  { limits, mayBeEmulated }: MachineWish,
  network: DomainOptions['network'] = 'private',
): Promise<MachineHardware & { readonly virtiofsd: string }> {
  if (network === 'host') {
    throw new KilnError('E_ARGUMENT', 'a machine cannot have the host’s network', {
      hint: '--egress HOST lets a command reach that host; --network NAME is a network of libvirt’s',
    });
  }
  const { qemu: emulator, virtiofsd } = machinePrograms();
  const accelerator = await chooseAccelerator(paths, boot, mayBeEmulated);
  const processors = Math.min(
    Math.ceil(limits.cpus ?? Number.POSITIVE_INFINITY),
    availableParallelism(),
  );
  const memory = (limits.memory ?? ownMemory()) + GUEST_MEMORY;
  return { boot, emulator, virtiofsd, accelerator, memory, processors, network };
}

/** Emulation is slow, and no boundary that qemu’s makers vouch for. @throws KilnError E_LAYER_MISSING */
async function chooseAccelerator(
  paths: StatePaths,
  boot: BootFiles,
  mayBeEmulated: boolean,
): Promise<Accelerator> {
  const why = await whyNoKvm(paths, boot);
  if (why === undefined) return 'kvm';
  if (mayBeEmulated) return 'tcg';
  throw layerMissingError('kvm', why);
}
