import { defined } from '../defined.ts';
import { isKilnCode, KilnError } from '../errors.ts';
import { isDiskFull } from '../host/calls/system-error.ts';
import { readRecordOrSetAside, withFields, writeRecord } from '../host/state/checked-file.ts';
import type { StatePaths } from '../host/state/paths.ts';
import type { PublishedPort } from './definition/definition.ts';
import {
  type InstanceFiles,
  instanceFiles,
  readService,
  type StoredService,
  serviceNames,
} from './lifecycle/store.ts';
import { askSupervisor } from './supervisor/supervisor-client.ts';

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

interface Outcome {
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

export interface ListedService {
  readonly name: string;
  readonly service: StoredService | undefined;
  readonly problem: KilnError | undefined;
  readonly status: ServiceStatus | undefined;
  readonly outcome: Outcome | undefined;
}

export function serviceState({ service, status, outcome, problem }: ListedService): string {
  if (status !== undefined)
    return status.health?.state === 'unhealthy' ? 'unhealthy' : status.state;
  if (service === undefined || service.image === undefined) return 'broken';
  return problem === undefined ? (outcome?.state ?? 'created') : 'silent';
}

export async function listServices(
  paths: StatePaths,
  names?: readonly string[],
): Promise<ListedService[]> {
  const all = names === undefined || names.length === 0;
  const wanted = all ? await serviceNames(paths) : names;
  const listed = await Promise.all(
    wanted.map(async (name) => {
      const files = instanceFiles(paths, name);
      const found = await readOrComplain(paths, name).catch((error: unknown) => {
        // It was deleted meanwhile.
        if (!all || !isKilnCode(error, 'E_NO_SERVICE')) throw error;
      });
      if (found === undefined) return [];
      const { service, problem } = found;
      let silence: KilnError | undefined;
      const asked = askSupervisor<ServiceStatus>(files, { do: 'status' });
      const status = await asked.catch((error: unknown) => {
        // A supervisor that ends meanwhile counts as not running.
        if (isKilnCode(error, 'E_SERVICE_SILENT')) silence = error;
        return undefined;
      });
      const outcome = readOutcome(files);
      return [{ name, service, problem: problem ?? silence, status, outcome }];
    }),
  );
  return listed.flat();
}

async function readOrComplain(paths: StatePaths, name: string) {
  try {
    const service = await readService(paths, name);
    return { service, problem: service.imageProblem };
  } catch (error) {
    if (!(error instanceof KilnError) || error.code === 'E_NO_SERVICE') throw error;
    return { service: undefined, problem: error };
  }
}
