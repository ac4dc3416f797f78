import { KilnError } from '../../../errors.ts';
import { readText } from '../../../host/calls/libc.ts';
import { sizeInWords } from '../../../host/calls/system-error.ts';
import { type CgroupLimits, ProcessCgroups } from '../../../host/cgroup/cgroup-files.ts';
import type { CgroupUsage } from '../../../host/cgroup/cgroup-usage.ts';
import type { Listener } from '../../../host/sockets/unix-socket.ts';
import type { IdRange } from '../../../host/state/reservation.ts';
import { awaitedLater } from '../../../promise.ts';
import { type Channel, INIT_DEADLINE } from '../../command/channel.ts';
import { labelOf } from '../../labels/module.ts';
import type { ImageMount } from '../../policy/filesystem.ts';
import { layerMissingError } from '../../policy/layers.ts';
import type { LibvirtNetwork } from '../../policy/network.ts';
import { PORT } from '../../wire/port.ts';
import type { FilesInside, Ground, MachineFacts } from '../ground.ts';
import { MachineAccounts } from './accounts.ts';
import { QEMU_MEMORY } from './memory.ts';
import {
  filesInside,
  forgetNames,
  listenInside,
  mountImage,
  namespacesAround,
  PortsInside,
  setAddresses,
} from './orders.ts';
import type { MachineRecord } from './record.ts';
import { endRelay, qemuOf } from './relay.ts';

/** An emulated machine on a busy host boots that long, ms. */
export const MACHINE_DEADLINE = 5 * INIT_DEADLINE;

/** A guest that breaks qemu gets what qemu has: looked at from outside, in proc_pid_status(5). */
function whyNotConfined(qemu: number, user: number): string | undefined {
  const status = readText(`/proc/${qemu}/status`) ?? '';
  const is = (name: string, value: RegExp) =>
    new RegExp(`^${name}:\\s+${value.source}$`, 'm').test(status);
  if (!is('Uid', new RegExp([user, user, user, user].join('\\s+')))) {
    return `qemu does not run as ${user}`;
  }
  if (!is('Seccomp', /2/)) return 'qemu has no filter of system calls';
  if (!is('NoNewPrivs', /1/)) return 'qemu may gain rights';
  const empty = ['CapPrm', 'CapEff', 'CapInh', 'CapAmb'].every((name) => is(name, /0+/));
  return empty ? undefined : 'qemu has capabilities';
}

/** What is between kiln and the init here is the relay: it is the peer of the channel. */
export class Machine implements Ground {
  readonly #accounts: MachineAccounts;
  readonly #directory: string;
  readonly #group: string;
  readonly #record: MachineRecord;
  readonly #channel: Channel;
  readonly #ports: PortsInside;
  #around: Promise<ReadonlyMap<string, string>> | undefined;

  get machine(): MachineFacts {
    const { release, accelerator } = this.#record;
    const qemu = qemuOf(this.#directory, this.#record.relay);
    const label = qemu === undefined ? null : labelOf(qemu);
    return { kernel: release, kvm: accelerator === 'kvm', label };
  }

  /** @param group the name of its domain, and of the cgroups that kiln makes for it */
  constructor(directory: string, group: string, record: MachineRecord, channel: Channel) {
    this.#directory = directory;
    this.#group = group;
    this.#record = record;
    this.#channel = channel;
    this.#ports = new PortsInside(channel);
    this.#accounts = new MachineAccounts(channel, { memory: record.sandboxMemory });
  }

  /** @throws KilnError E_LAYER_MISSING where qemu is not confined, E_LIMIT */
  async settle(): Promise<void> {
    const qemu = qemuOf(this.#directory, this.#record.relay);
    const why = qemu === undefined ? 'it has ended' : whyNotConfined(qemu, this.#record.user);
    if (why !== undefined) throw layerMissingError('qemu', why);
    this.#limitQemu({ memory: this.#record.memory + QEMU_MEMORY });
  }

  /** What is read and written on the host's disks is virtiofsd's there. */
  async limit({ io, ...inside }: CgroupLimits): Promise<void> {
    const { sandboxMemory } = this.#record;
    if (inside.memory !== undefined && inside.memory > sandboxMemory) {
      const has = sizeInWords(sandboxMemory);
      throw new KilnError(
        'E_LIMIT',
        `the machine was booted with ${has} of memory for its sandbox`,
        {
          hint: `give ${has} or less, or stop it first: the next machine has more`,
        },
      );
    }
    if (Object.keys(inside).length > 0) await this.#accounts.limit(inside);
    // The guest's kernel could use all processors that it has.
    if (inside.cpus !== undefined) this.#limitQemu({ cpus: inside.cpus });
    if (io === undefined) return;
    const { initPid } = this.#channel;
    ProcessCgroups.of(initPid).limit(initPid, this.#group, { io });
  }

  /** The guest's kernel counts sockets with all other memory, and the host's knows none of them. */
  limitSockets(): void {}

  limits(): CgroupLimits {
    return this.#accounts.limits();
  }

  usage(): CgroupUsage {
    return this.#accounts.usage();
  }

  #limitQemu(limits: CgroupLimits): void {
    const qemu = qemuOf(this.#directory, this.#record.relay);
    if (qemu === undefined) return;
    ProcessCgroups.of(qemu).limit(qemu, this.#group, limits);
  }

  async around(): Promise<ReadonlyMap<string, string>> {
    this.#around ??= awaitedLater(namespacesAround(this.#channel));
    return await this.#around;
  }

  ids(): IdRange {
    return PORT.ids;
  }

  get files(): FilesInside {
    return filesInside(this.#channel);
  }

  listen(port: number): Promise<Listener> {
    return listenInside(this.#channel, port);
  }

  connect(port: number): Promise<number> {
    return this.#ports.connect(port);
  }

  setAddresses(nth: number, network: LibvirtNetwork): Promise<void> {
    return setAddresses(this.#channel, nth, network);
  }

  mountImage(image: ImageMount): Promise<void> {
    return mountImage(this.#channel, image);
  }

  forgetNames(): Promise<void> {
    return forgetNames(this.#channel);
  }

  openRoot(): number {
    throw new KilnError('E_MACHINE', 'the files of a machine cannot be reached from the host', {
      hint: 'have a command write them to its standard output, or to a folder that is bound',
    });
  }

  delegate(): void {
    throw new KilnError('E_MACHINE', 'a machine cannot boot a system of its own yet', {
      hint: 'leave out --isolation vm',
    });
  }

  end(): void {
    endRelay(this.#record.relay);
  }
}
