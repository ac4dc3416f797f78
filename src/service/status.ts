import { defined } from '../defined.ts';
import { KilnError } from '../errors.ts';
import { readRecordOrSetAside, withFields, writeRecord } from '../host/state/checked-file.ts';
import type { StatePaths } from '../host/state/paths.ts';
import type { PublishedPort } from './definition/definition.ts';
import { isKilnCode } from './failure.ts';
import { type InstanceFiles, instanceFiles } from './instance-files.ts';
import { readService, type StoredService, serviceNames } from './lifecycle/store.ts';
import { askSupervisor } from './supervisor/supervisor-client.ts';

export type UnitState =
  | 'inactive'
  | 'activating'
  | 'active'
  | 'reloading'
  | 'deactivating'
  | 'restarting'
  | 'failed';

/** A unit of a running service. Times are milliseconds since 1970. */
export interface UnitStatus {
  readonly name: string;
  readonly description: string;
  readonly state: UnitState;
  /** The pid in the sandbox. */
  readonly mainPid: number | null;
  readonly since: number;
  readonly restarts: number;
  /** Why the unit is not active, or how it last ended; empty if there is nothing to say. */
  readonly reason: string;
  /** The status that the unit sent by sd_notify(3). */
  readonly text: string;
  readonly warnings: readonly string[];
}

/** `starting`, `running` (all units are), `degraded` (some are), `stopping`, `failed`. */
export type ServiceState = 'starting' | 'running' | 'degraded' | 'stopping' | 'failed';

/** The result of the last health checks; `text` says what is wrong. */
export interface ServiceHealth {
  readonly state: 'unknown' | 'healthy' | 'unhealthy';
  readonly text: string;
}

/** A supervisor's report about its service. */
export interface ServiceStatus {
  readonly name: string;
  readonly state: ServiceState;
  readonly image: string;
  readonly sandbox: string;
  readonly domain: string;
  /** The pid on the host. */
  readonly supervisorPid: number;
  readonly initPid: number;
  readonly started: number;
  /** Restarts of all units, and of the sandbox as a whole. */
  readonly restarts: number;
  readonly health: ServiceHealth | null;
  readonly units: readonly UnitStatus[];
  readonly publish: readonly PublishedPort[];
  /** The address on its network, fixed or leased; null without a network. */
  readonly address: string | null;
  readonly usage: ServiceUsage;
}

/** Undefined where the kernel does not tell. */
interface ServiceUsage {
  readonly cpuMicroseconds?: number;
  readonly memoryBytes?: number;
  readonly peakMemoryBytes?: number;
  readonly pids?: number;
  readonly oomKills?: number;
}

/** How the last run of a service ended (outcome.json). */
interface Outcome {
  /** `stopped`: by a person. `finished`: its units are done. `failed`: its units cannot go on. */
  readonly state: 'stopped' | 'finished' | 'failed';
  readonly reason: string;
  /** What to do about it, if that is known. */
  readonly hint?: string;
  /** Milliseconds since 1970. */
  readonly time: number;
}

export async function writeOutcome(
  files: InstanceFiles,
  state: Outcome['state'],
  reason: string,
  hint?: string,
): Promise<void> {
  const outcome = { state, reason, ...defined({ hint }), time: Date.now() };
  writeRecord(files.outcome, outcome satisfies Outcome, { flush: true });
}

const takeOutcome = withFields<Outcome>({ state: 'string', reason: 'string', time: 'number' });

/** Undefined if the service has never ended, or if the record is damaged. */
export async function readOutcome(files: InstanceFiles): Promise<Outcome | undefined> {
  return readRecordOrSetAside(files.outcome, takeOutcome);
}

export interface ListedService {
  readonly name: string;
  /** Undefined if its service.yaml is broken: see `problem`. */
  readonly service: StoredService | undefined;
  /** Why the service cannot be shown: a broken file, or a supervisor that does not answer. */
  readonly problem: KilnError | undefined;
  readonly status: ServiceStatus | undefined;
  /** How it last ended. */
  readonly outcome: Outcome | undefined;
}

/** All services, or the named ones, sorted by name. Throws E_NO_SERVICE for an unknown name. */
export async function listServices(
  paths: StatePaths,
  names?: readonly string[],
): Promise<ListedService[]> {
  const wanted = names === undefined || names.length === 0 ? await serviceNames(paths) : names;
  return await Promise.all(
    wanted.map(async (name) => {
      const files = instanceFiles(paths, name);
      const { service, problem } = await readOrComplain(paths, name);
      let silence: KilnError | undefined;
      const [status, outcome] = await Promise.all([
        askSupervisor<ServiceStatus>(files, { do: 'status' }).catch((error: unknown) => {
          // A supervisor that ends meanwhile counts as not running.
          if (isKilnCode(error, 'E_SERVICE_SILENT')) silence = error;
          return undefined;
        }),
        readOutcome(files),
      ]);
      return { name, service, problem: problem ?? silence, status, outcome };
    }),
  );
}

async function readOrComplain(
  paths: StatePaths,
  name: string,
): Promise<Pick<ListedService, 'service' | 'problem'>> {
  try {
    const service = await readService(paths, name);
    return { service, problem: service.imageProblem };
  } catch (error) {
    if (!(error instanceof KilnError) || error.code === 'E_NO_SERVICE') throw error;
    return { service: undefined, problem: error };
  }
}
