import { closeDescriptor } from '../../host/calls/descriptor.ts';
import { delegateCgroup } from '../../host/cgroup/cgroup.ts';
import { type CgroupLimits, ProcessCgroups } from '../../host/cgroup/cgroup-files.ts';
import type { CgroupUsage } from '../../host/cgroup/cgroup-usage.ts';
import { shareOpenFiles } from '../../host/process/process.ts';
import { connectLoopback, type Listener, listenLoopback } from '../../host/sockets/unix-socket.ts';
import type { Channel } from '../command/channel.ts';
import { SandboxControl } from '../command/control.ts';
import type { Ground } from './ground.ts';

/** The processes of a sandbox as this host's kernel and libvirt's lxc driver have them. */
export class Container implements Ground {
  readonly machine = undefined;
  readonly files = undefined;
  readonly #channel: Channel;
  readonly #group: string;
  #cgroups: ProcessCgroups | undefined;

  /** @param group the name of its domain, and of the cgroups that kiln makes for it */
  constructor(channel: Channel, group: string) {
    this.#channel = channel;
    this.#group = group;
  }

  /** Moves the init into the cgroup for its limits, which takes the kernel long, while libvirt does the rest. */
  async settle(): Promise<void> {
    shareOpenFiles(this.#initPid);
    try {
      // Uses fresh cgroups, because the sandbox's own are looked up once and the process moves now.
      await ProcessCgroups.of(this.#initPid).prepare(this.#initPid, this.#group);
    } catch {
      // Setting the limits tries again.
    }
  }

  async limit(limits: CgroupLimits): Promise<void> {
    this.#found.limit(this.#initPid, this.#group, limits);
  }

  limitSockets(): void {
    this.#found.limitSockets();
  }

  limits(): CgroupLimits {
    return this.#found.limits(this.#group);
  }

  usage(): CgroupUsage {
    return this.#found.usage(this.#group);
  }

  delegate(owner: number): void {
    delegateCgroup(this.#initPid, this.#group, owner);
  }

  async around(): Promise<undefined> {
    return undefined;
  }

  openRoot(): number {
    return this.#channel.openRoot();
  }

  async listen(port: number): Promise<Listener> {
    const fd = await this.#socket((made) => listenLoopback(made, port));
    return { fd, [Symbol.dispose]: () => undefined };
  }

  connect(port: number): Promise<number> {
    return this.#socket((made) => connectLoopback(made, 'ipv4', port));
  }

  async #socket(use: (fd: number) => void): Promise<number> {
    const fd = await new SandboxControl(this.#channel).socket('ipv4');
    try {
      use(fd);
      return fd;
    } catch (error) {
      closeDescriptor(fd);
      throw error;
    }
  }

  /** The init closes what it has when its connection ends, and libvirt's controller ends with it. */
  end(): void {}

  get #initPid(): number {
    return this.#channel.initPid;
  }

  get #found(): ProcessCgroups {
    this.#cgroups ??= ProcessCgroups.of(this.#initPid);
    return this.#cgroups;
  }
}
