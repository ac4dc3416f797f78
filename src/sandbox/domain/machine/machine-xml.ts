import { join } from 'node:path';
import type { SandboxNetwork } from '../../policy/network.ts';
import { PORT } from '../../wire/port.ts';
import { escapeXml, interfaceXml, labelXml, MACHINE_CARD } from '../domain-xml.ts';
import type { BootFiles } from './boot-files.ts';

/** What each machine has of its own. */
export interface MachineIdentity {
  readonly name: string;
  readonly uuid: string;
  /** Of the relay's sockets. */
  readonly folder: string;
  /** Whom qemu runs as: ids of the sandbox's own range. */
  readonly user: number;
  readonly group: number;
  /** Of qemu, where the host has SELinux. */
  readonly context?: string | undefined;
}

/** What is fixed when a machine boots. */
export interface MachineHardware {
  readonly boot: BootFiles;
  /** The path of qemu. */
  readonly emulator: string;
  readonly accelerator: Accelerator;
  /** Bytes. */
  readonly memory: number;
  readonly processors: number;
  readonly network: Exclude<SandboxNetwork, 'host'>;
}

export type Accelerator = 'kvm' | 'tcg';

/**
 * `quiet`: each line takes the emulated serial port long. `reboot=t` and `panic=-1`: a kernel that panics ends the
 * machine, since a restart does. The rest leaves out checks that have no sense in a machine.
 */
const COMMAND_LINE =
  'console=ttyS0 quiet panic=-1 reboot=t no_timer_check cryptomgr.notests net.ifnames=0 random.trust_cpu=on';

/** How fast an emulated counter runs cannot be found out on a busy host: clocks went twice as fast as time. */
const COUNTER: Readonly<Record<Accelerator, string>> = { kvm: 'tsc=reliable', tcg: 'tsc=unstable' };

/** Of the guest's kernel. */
export function commandLine(accelerator: Accelerator): string {
  return `${COMMAND_LINE} ${COUNTER[accelerator]}`;
}

/**
 * The kernel writes zeros where it frees memory, in the place of doing so where it gives some, and so to all that is
 * free when it boots: qemu leaves pages of zeros out of what is saved, and out of what is restored.
 */
const OF_SAVED = ' init_on_free=1';

/** Code that emulation keeps. */
const EMULATOR = "<tcg><tb-cache unit='MiB'>256</tb-cache></tcg>";

/**
 * See libvirt's formatdomain page. kiln's own virtiofsd and relay listen in `folder`. libvirt gives no file to qemu's
 * user: kernel and initramfs are shared, and everybody may read them. Of the ports of virtio-serial the first is for a
 * console: each that might be takes the guest time and memory.
 */
export function machineXml(
  options: MachineIdentity & MachineHardware & { readonly isSaved?: boolean },
): string {
  const { boot, accelerator, user, group, network } = options;
  const socket = (name: string) => escapeXml(join(options.folder, name));
  const processor =
    accelerator === 'kvm'
      ? "<cpu mode='host-passthrough' check='none' migratable='off'/>"
      : "<cpu mode='maximum'/>";
  return `<domain type='${accelerator === 'kvm' ? 'kvm' : 'qemu'}'>
  <name>${escapeXml(options.name)}</name>
  <uuid>${escapeXml(options.uuid)}</uuid>
  <genid/>
  <memory unit='b'>${options.memory}</memory>
  <memoryBacking><source type='memfd'/><access mode='shared'/></memoryBacking>
  <vcpu>${options.processors}</vcpu>
  <os>
    <type arch='x86_64' machine='q35'>hvm</type>
    <kernel>${escapeXml(boot.kernel)}</kernel>
    <initrd>${escapeXml(boot.initramfs)}</initrd>
    <cmdline>${commandLine(accelerator)}${options.isSaved === true ? OF_SAVED : ''}</cmdline>
  </os>
  <features><acpi/>${accelerator === 'kvm' ? '' : EMULATOR}</features>
  ${processor}
  <clock offset='utc'/>
  <on_poweroff>destroy</on_poweroff><on_reboot>destroy</on_reboot><on_crash>destroy</on_crash>
  <devices>
    <emulator>${escapeXml(options.emulator)}</emulator>
    <filesystem type='mount'>
      <driver type='virtiofs' queue='1024'/><source socket='${socket('files.sock')}'/><target dir='${PORT.tag}'/>
    </filesystem>
    <controller type='usb' model='none'/>
    <controller type='virtio-serial' index='0' ports='2'/>
    <channel type='unix'><source mode='connect' path='${socket('port.sock')}'/><target type='virtio' name='${PORT.name}'/></channel>
    <serial type='unix'><source mode='connect' path='${socket('console.sock')}'/><target type='isa-serial' port='0'/></serial>
    ${network === 'private' ? '' : network.map((each) => interfaceXml(each, MACHINE_CARD)).join('')}
    <rng model='virtio'><backend model='random'>/dev/urandom</backend></rng>
    <memballoon model='none'/>
    <watchdog model='itco' action='none'/>
    <audio id='1' type='none'/>
  </devices>
  <seclabel type='static' model='dac' relabel='no'><label>+${user}:+${group}</label></seclabel>
  ${labelXml(options.context)}
</domain>`;
}
