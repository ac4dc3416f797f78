import { readdirSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { Turns } from '../../src/daemon/parked.ts';
import type { ParkedWish } from '../../src/host/libvirt/sandbox-host.ts';
import type { StatePaths } from '../../src/host/state/paths.ts';
import type { MachineWish } from '../../src/sandbox/domain/machine/start.ts';
import { ParkingLot } from '../../src/sandbox/domain/parking.ts';
import { domainPrefix, readSandboxRecord } from '../../src/sandbox/domain/sandbox-record.ts';
import { sweepSandboxes } from '../../src/sandbox/domain/sweep.ts';
import { PATIENCE } from './busybox-state.ts';
import type { Kiln } from './kiln.ts';

/** Sandboxes parked in this process, as they are in a daemon. */
export class Parked {
  readonly lot: ParkingLot;
  /** The engine that takes from them. */
  readonly engine: Kiln['engine'];

  constructor({ engine }: Pick<Kiln, 'engine'>, machine?: MachineWish) {
    this.lot = new ParkingLot(engine, () => machine);
    const giver = {
      take: async (wish: ParkedWish) => this.lot.take(wish),
      noteClaim: () => undefined,
    };
    const turns = new Turns({ container: giver, vm: giver });
    this.engine = { ...engine, takeTurn: (wanted) => turns.take(wanted) };
  }

  /** Sees to it that one waits, and gives its folder. */
  async one(lifetime?: number): Promise<string> {
    await this.lot.fill(() => 1, lifetime);
    return this.lot.parked[0]?.directory ?? '';
  }

  /** Ends those that wait, and sweeps, as the daemon does when it is quiet. */
  async none(): Promise<void> {
    await this.lot.clear();
    await sweepSandboxes(this.engine.paths, this.engine.connect);
  }
}

/** The ids of those that wait, in whatever process. */
export function parkedIds({ sandboxes }: StatePaths): string[] {
  try {
    return readdirSync(sandboxes).filter(
      (id) => readSandboxRecord(join(sandboxes, id))?.parked === true,
    );
  } catch {
    return [];
  }
}

/** Those of this state, as libvirt sees them: the system's libvirt has others. */
export async function domainNames({ engine }: Kiln): Promise<string[]> {
  const connection = await engine.connect();
  const names = await connection.domainNames();
  return names.filter((name) => name.startsWith(domainPrefix(engine.paths)));
}

/** Those that have not ended by themselves after 20 s. */
export async function domainsLeft(kiln: Kiln): Promise<string[]> {
  const until = Date.now() + 20_000 * PATIENCE;
  for (;;) {
    const names = await domainNames(kiln);
    if (names.length === 0 || Date.now() > until) return names;
    await sleep(100);
  }
}
