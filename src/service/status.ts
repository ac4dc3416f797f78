import type { PublishedPort } from './definition.ts';

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
  /** In the box. */
  readonly mainPid: number | null;
  readonly since: number;
  readonly restarts: number;
  /** Why it is not active, or how it last ended; empty when there is nothing to say. */
  readonly reason: string;
  /** What it said of itself by sd_notify(3). */
  readonly text: string;
  readonly warnings: readonly string[];
}

/** `starting`, `running` (all units are), `degraded` (some are), `stopping`, `failed`. */
export type ServiceState = 'starting' | 'running' | 'degraded' | 'stopping' | 'failed';

/** What the last health checks came to; `text` says what is wrong. */
export interface ServiceHealth {
  readonly state: 'unknown' | 'healthy' | 'unhealthy';
  readonly text: string;
}

/** What a supervisor tells of its service. */
export interface ServiceStatus {
  readonly name: string;
  readonly state: ServiceState;
  readonly image: string;
  readonly box: string;
  readonly domain: string;
  /** On the host. */
  readonly supervisorPid: number;
  readonly initPid: number;
  readonly started: number;
  /** Restarts of all units, and of the box as a whole. */
  readonly restarts: number;
  readonly health: ServiceHealth | null;
  readonly units: readonly UnitStatus[];
  readonly publish: readonly PublishedPort[];
  /** On its network, fixed or given by it; null where it has none. */
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
