import { setTimeout as sleep } from 'node:timers/promises';
import { checkHealth, type HealthCheck } from './health.ts';
import type { ServiceHealth } from './status.ts';
import type { UnitHost } from './unit-host.ts';

/** Checks the health of a service again and again, and has it restarted when it is none. */
export class HealthWatch {
  readonly #host: UnitHost;
  readonly #check: HealthCheck;
  readonly #restart: () => Promise<void>;
  readonly #stopped = new AbortController();
  #health: ServiceHealth = { state: 'unknown', text: '' };

  constructor(host: UnitHost, check: HealthCheck, restart: () => Promise<void>) {
    this.#host = host;
    this.#check = check;
    this.#restart = restart;
    this.#watch().catch(() => undefined);
  }

  get health(): ServiceHealth {
    return this.#health;
  }

  stop(): void {
    this.#stopped.abort();
  }

  async #watch(): Promise<void> {
    const { signal } = this.#stopped;
    for (let failures = 0; !signal.aborted; ) {
      const problem = await checkHealth(this.#host, this.#check);
      if (signal.aborted) return;
      failures = problem === undefined ? 0 : failures + 1;
      if (problem === undefined) this.#health = { state: 'healthy', text: '' };
      else if (failures >= this.#check.retries) {
        this.#health = { state: 'unhealthy', text: problem };
        this.#host.log.write('kiln', `unhealthy: ${problem}`);
        if (this.#check.restart) {
          await this.#restart().catch(() => undefined);
          failures = 0;
        }
      }
      await sleep(this.#check.interval, undefined, { signal });
    }
  }
}
