/** The limits of a sandbox in a machine, and what it has used: stage 0 sets and counts them in the guest. */
import { defined } from '../../../defined.ts';
import { KilnError } from '../../../errors.ts';
import type { CgroupLimits } from '../../../host/cgroup/cgroup-files.ts';
import type { CgroupUsage } from '../../../host/cgroup/cgroup-usage.ts';
import type { Channel } from '../../command/channel.ts';
import type { Parts } from '../../wire/table.ts';
import { setLimits, type WiredLimits } from './orders.ts';

/** Microseconds in which a quota may be used up, as in the kernel's cpu.max. */
const PERIOD = 100_000;

export class MachineAccounts {
  readonly #channel: Channel;
  #usage: Parts<'machine-usage'> | undefined;
  #limits: CgroupLimits;

  /** @param usual limits where a job has none of its own */
  constructor(channel: Channel, usual: CgroupLimits) {
    this.#channel = channel;
    this.#limits = usual;
    channel.on('answer', (answer) => {
      if (answer.type === 'used') this.#usage = answer;
    });
  }

  /** As of the last second, or of the last command's end. */
  usage(): CgroupUsage {
    const { type: _, sharedBytes: _shared, ...counted } = { type: '', ...this.#usage };
    return defined(
      Object.fromEntries(
        Object.entries(counted).map(([name, value]) => [name, known(value as number)]),
      ),
    );
  }

  /** Those that stage 0 has found in force. */
  limits(): CgroupLimits {
    return this.#limits;
  }

  /** A limit that is left out stays as it is. @throws KilnError E_LIMIT, E_SETUP where one cannot be set */
  async limit(limits: CgroupLimits): Promise<void> {
    const { memory, pids, cpus } = { ...this.#limits, ...limits };
    const wanted: WiredLimits = {
      memory: memory ?? Infinity,
      pids: pids ?? Infinity,
      quota: cpus === undefined ? Infinity : Math.round(cpus * PERIOD),
    };
    const found = await setLimits(this.#channel, wanted);
    requireInForce(wanted, found);
    const cpuShare = known(found.quota);
    this.#limits = defined({
      memory: known(found.memory),
      pids: known(found.pids),
      cpus: cpuShare === undefined ? undefined : cpuShare / PERIOD,
    });
  }
}

function known(value: number): number | undefined {
  return Number.isFinite(value) ? value : undefined;
}

/** The kernel takes memory in pages. */
const PAGE = 4096;

function requireInForce(wanted: WiredLimits, found: WiredLimits): void {
  for (const name of ['memory', 'pids', 'quota'] as const) {
    if (found[name] <= wanted[name] && found[name] > wanted[name] - PAGE) continue;
    if (found[name] === wanted[name]) continue;
    throw new KilnError(
      'E_LIMIT',
      `${name} of the machine is ${found[name]}, not ${wanted[name]}`,
      {
        hint: 'the kernel takes another value: see the limits in docs/sandboxes.md',
      },
    );
  }
}
