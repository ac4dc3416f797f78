import { delegateCgroup } from '../../host/cgroup/cgroup.ts';
import { type CgroupLimits, ProcessCgroups } from '../../host/cgroup/cgroup-files.ts';
import type { CgroupUsage } from '../../host/cgroup/cgroup-usage.ts';
import { shareOpenFiles } from '../../host/process/process.ts';

/** What a sandbox stands on: its processes as this host's kernel and libvirt's lxc driver have them. */
export class Container {
  readonly #initPid: number;
  readonly #group: string;
  #cgroups: ProcessCgroups | undefined;

  /** @param group the name of its domain, and of the cgroups that kiln makes for it */
  constructor(initPid: number, group: string) {
    this.#initPid = initPid;
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

  /** A limit that is left out stays as it is. @throws KilnError E_LIMIT */
  limit(limits: CgroupLimits): void {
    this.#found.limit(this.#initPid, this.#group, limits);
  }

  /** After the memory limit. @throws KilnError E_LIMIT */
  limitSockets(): void {
    this.#found.limitSockets();
  }

  limits(): CgroupLimits {
    return this.#found.limits(this.#group);
  }

  usage(): CgroupUsage {
    return this.#found.usage(this.#group);
  }

  /** Lets a system's pid 1, whose root is `owner` on this host, divide the control group. @throws KilnError E_NO_CGROUP2 */
  delegate(owner: number): void {
    delegateCgroup(this.#initPid, this.#group, owner);
  }

  get #found(): ProcessCgroups {
    this.#cgroups ??= ProcessCgroups.of(this.#initPid);
    return this.#cgroups;
  }
}
