/** A sandbox that is a virtual machine: what stands on the host around its domain. */
import { chmodSync, mkdirSync, statSync } from 'node:fs';
import { availableParallelism } from 'node:os';
import { KilnError } from '../../../errors.ts';
import type { RecordedProcess } from '../../../host/process/recorded-process.ts';
import type { StatePaths } from '../../../host/state/paths.ts';
import type { IdRange } from '../../../host/state/reservation.ts';
import { layerMissingError } from '../../policy/layers.ts';
import type { DomainOptions } from '../domain-xml.ts';
import type { BootFiles } from './boot-files.ts';
import { whyNoKvm } from './kvm.ts';
import { type Accelerator, machineXml } from './machine-xml.ts';
import { GUEST_MEMORY, ownMemory } from './memory.ts';
import { machinePrograms } from './programs.ts';
import type { MachineRecord } from './record.ts';
import { machineFiles, startRelay } from './relay.ts';

export interface MachineWish {
  readonly limits: { readonly memory?: number | undefined; readonly cpus?: number | undefined };
  readonly kernel?: string | undefined;
  /** Whether KVM may be missing. */
  readonly mayBeEmulated: boolean;
}

export interface StartedMachine {
  readonly relay: RecordedProcess;
  readonly record: MachineRecord;
  readonly xml: string;
  /** Resolves when the init listens. */
  readonly open: Promise<void>;
}

export async function startMachine(
  place: {
    readonly paths: StatePaths;
    readonly directory: string;
    readonly range: IdRange;
    readonly boot: BootFiles;
    readonly network: DomainOptions['network'];
    readonly name: string;
    readonly uuid: string;
  },
  { limits, mayBeEmulated }: MachineWish,
): Promise<StartedMachine> {
  const { paths, directory, range, boot, network, name, uuid } = place;
  if (network === 'host') {
    throw new KilnError('E_ARGUMENT', 'a machine cannot have the host’s network', {
      hint: '--egress HOST lets a command reach that host; --network NAME is a network of libvirt’s',
    });
  }
  const { qemu: emulator, virtiofsd } = machinePrograms();
  const accelerator = await chooseAccelerator(paths, boot, mayBeEmulated);
  const folder = machineFiles.folder(directory);
  mkdirSync(folder, { mode: 0o700 });
  // qemu passes it, to its sockets.
  chmodSync(folder, 0o711);
  // The last id of the sandbox's own: nobody else has it, on the host or in the guest.
  const user = range.base + range.count - 1;
  const sandboxMemory = limits.memory ?? ownMemory();
  const memory = sandboxMemory + GUEST_MEMORY;
  const xml = machineXml({
    ...{ name, uuid, folder, boot, emulator, accelerator, user, memory },
    group: accelerator === 'kvm' ? statSync('/dev/kvm').gid : user,
    processors: Math.min(
      Math.ceil(limits.cpus ?? Number.POSITIVE_INFINITY),
      availableParallelism(),
    ),
    network,
  });
  const { process: relay, open } = await startRelay(virtiofsd, directory, name, range, user);
  const record = { relay, user, accelerator, release: boot.release, memory, sandboxMemory };
  return { relay, record, xml, open };
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
