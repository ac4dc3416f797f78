import type { RunningUnit, UnitManager } from './running-unit.ts';
import type { ServiceUnit } from './unit/service-unit.ts';
import type { UnitHost } from './unit-host.ts';
import { UnitRunner } from './unit-runner.ts';

/** The units of a service whose box has no systemd: kiln runs them, in the order given. */
export class KilnUnits implements UnitManager {
  readonly #host: UnitHost;
  readonly #runners: readonly UnitRunner[];
  readonly failure = undefined;
  readonly lost = new Promise<void>(() => undefined);
  #stopping = false;

  constructor(host: UnitHost, units: readonly ServiceUnit[]) {
    this.#host = host;
    for (const unit of units) {
      for (const warning of unit.warnings) host.log.write('kiln', `${unit.name}: ${warning}`);
    }
    this.#runners = units.map((unit) => new UnitRunner(host, unit, () => undefined));
  }

  get units(): readonly RunningUnit[] {
    return this.#runners;
  }

  get idle(): boolean {
    return this.#runners.every(({ state }) => state === 'failed' || state === 'inactive');
  }

  async start(): Promise<void> {
    const failures: unknown[] = [];
    for (const runner of this.#runners) {
      if (this.#stopping) return;
      await runner.start().catch((error) => failures.push(error));
    }
    if (failures.length > 0) throw failures[0];
  }

  async stop(): Promise<void> {
    this.#stopping = true;
    for (const runner of [...this.#runners].reverse()) {
      await runner.stop().catch((error) => this.#host.log.write('kiln', String(error)));
    }
  }

  async restart(): Promise<void> {
    for (const runner of [...this.#runners].reverse()) await runner.stop();
    for (const runner of this.#runners) await runner.start();
  }

  async refresh(): Promise<void> {}

  notified(pid: number, text: string): void {
    for (const runner of this.#runners) runner.notified(pid, text);
  }
}
