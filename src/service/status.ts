import { defined } from '../defined.ts';
import { isDiskFull } from '../host/calls/system-error.ts';
import { readRecordOrSetAside, withFields, writeRecord } from '../host/state/checked-file.ts';
import type { PublishedPort } from '../sandbox/policy/network.ts';
import type { InstanceFiles } from './lifecycle/store.ts';

export const UNIT_STATES = [
  ...(['inactive', 'activating', 'active', 'reloading'] as const),
  ...(['deactivating', 'restarting', 'failed'] as const),
];
export type UnitState = (typeof UNIT_STATES)[number];

export interface UnitStatus {
  readonly name: string;
  readonly description: string;
  readonly state: UnitState;
  readonly mainPid: number | null;
  readonly since: number;
  readonly restarts: number;
  readonly reason: string;
  readonly text: string;
  readonly warnings: readonly string[];
}

export type ServiceState = 'starting' | 'running' | 'degraded' | 'stopping' | 'failed';

export interface ServiceHealth {
  readonly state: 'unknown' | 'healthy' | 'unhealthy';
  readonly text: string;
}

export interface ServiceStatus {
  readonly name: string;
  readonly state: ServiceState;
  readonly image: string;
  readonly sandbox: string;
  readonly domain: string;
  readonly supervisorPid: number;
  readonly initPid: number;
  readonly started: number;
  readonly restarts: number;
  readonly health: ServiceHealth | null;
  readonly units: readonly UnitStatus[];
  readonly publish: readonly PublishedPort[];
  readonly address: string | null;
  readonly usage: ServiceUsage;
}

interface ServiceUsage {
  readonly cpuMicroseconds?: number;
  readonly memoryBytes?: number;
  readonly peakMemoryBytes?: number;
  readonly oomKills?: number;
  readonly pids?: number;
}

export interface Outcome {
  /** `stopped`: by a person. `finished`: its units are done. `failed`: its units cannot go on. */
  readonly state: 'stopped' | 'finished' | 'failed';
  readonly reason: string;
  readonly hint?: string;
  /** Milliseconds since 1970. */
  readonly time: number;
}

export function writeOutcome(
  files: InstanceFiles,
  state: Outcome['state'],
  reason: string,
  hint?: string,
): void {
  const outcome = { state, reason, ...defined({ hint }), time: Date.now() };
  try {
    writeRecord(files.outcome, outcome satisfies Outcome, { flush: true });
  } catch (error) {
    if (!isDiskFull(error)) throw error;
    writeRecord(files.volatileOutcome, outcome);
  }
}

const takeOutcome = withFields<Outcome>({ state: 'string', reason: 'string', time: 'number' });

export function readOutcome(files: InstanceFiles): Outcome | undefined {
  const written = [files.outcome, files.volatileOutcome].flatMap(
    (path) => readRecordOrSetAside(path, takeOutcome) ?? [],
  );
  return written.sort((a, b) => a.time - b.time).at(-1);
}
