import { get } from 'node:http';
import { Socket } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import { reasonOf } from '../../errors.ts';
import type { ServiceDefinition } from '../definition/definition.ts';
import { endText } from '../failure.ts';
import type { ServiceHealth } from '../status.ts';
import { ROOT_POLICY, type UnitHost } from './unit-host.ts';

/** How many bytes of a failed check's output are shown. */
const SHOWN = 400;

type HealthCheck = NonNullable<ServiceDefinition['health']>;

/** @returns what is wrong */
async function checkHealth(host: UnitHost, check: HealthCheck): Promise<string | undefined> {
  const { command, http = ':80/', timeout } = check;
  try {
    if (command !== undefined) return await checkCommand(host, command, timeout);
    return await checkHttp(host, http, timeout);
  } catch (error) {
    return reasonOf(error);
  }
}

async function checkCommand(host: UnitHost, argv: readonly string[], timeout: number) {
  const plan = { argv, env: host.environment, workdir: '/', policy: ROOT_POLICY } as const;
  const end = await host.sandbox.execute(
    { ...plan, time: { timeout }, leftovers: 'left' },
    { keep: SHOWN },
  );
  if (end.timeLimit !== null) return `no answer in ${timeout / 1000} s`;
  return end.exitCode === 0 ? undefined : `${endText(end)} ${end.output.text().trim()}`.trim();
}

async function checkHttp(host: UnitHost, where: string, timeout: number) {
  const [, port = '80', path = '/'] = /^:(\d+)(\/\S*)?$/.exec(where) ?? [];
  const fd = await host.sandbox.ground.connect(Number(port));
  const socket = new Socket({ fd, readable: true, writable: true });
  try {
    const status = await new Promise<number>((resolve, reject) => {
      const signal = AbortSignal.timeout(timeout);
      const own = { createConnection: () => socket, host: 'localhost', maxHeaderSize: 65536 };
      const request = get({ ...own, path, signal }, (response) => {
        response.resume();
        resolve(response.statusCode ?? 0);
      });
      request.once('error', (error) =>
        reject(signal.aborted ? new Error(`no answer in ${timeout / 1000} s`) : error),
      );
    });
    return status >= 200 && status < 400 ? undefined : `HTTP status ${status}`;
  } finally {
    socket.destroy();
  }
}

export class HealthWatch {
  readonly #stopped = new AbortController();
  health: ServiceHealth = { state: 'unknown', text: '' };

  constructor(host: UnitHost, check: HealthCheck, restart: () => Promise<void>) {
    this.#watch(host, check, restart).catch(() => undefined);
  }

  stop(): void {
    this.#stopped.abort();
  }

  async #watch(host: UnitHost, check: HealthCheck, restart: () => Promise<void>): Promise<void> {
    const { signal } = this.#stopped;
    for (let failures = 0; !signal.aborted; ) {
      const problem = await checkHealth(host, check);
      if (signal.aborted) return;
      failures = problem === undefined ? 0 : failures + 1;
      if (problem === undefined) this.health = { state: 'healthy', text: '' };
      else if (failures >= check.retries) {
        this.health = { state: 'unhealthy', text: problem };
        host.log.write('kiln', `unhealthy: ${problem}`);
        if (check.restart) {
          await restart().catch(() => undefined);
          failures = 0;
        }
      }
      await sleep(check.interval, undefined, { signal });
    }
  }
}
