import type { UnitState, UnitStatus } from './status.ts';

/** A unit of a service that runs, whoever runs it: kiln, or a systemd in the box. */
export interface RunningUnit {
  readonly name: string;
  readonly state: UnitState;
  status(): UnitStatus;
  start(): Promise<void>;
  stop(): Promise<void>;
  /** Throws E_NO_RELOAD, E_UNIT_FAILED. */
  reload(): Promise<void>;
}

/** All units of a service that runs. */
export interface UnitManager {
  readonly units: readonly RunningUnit[];
  /** Nothing runs, and nothing will by itself. */
  readonly idle: boolean;
  /** Why no unit runs, where it is no unit's own failure. */
  readonly failure: string | undefined;
  /** Resolves when what runs in the box has ended so that the box is to be made anew. */
  readonly lost: Promise<void>;
  /** Starts all units. A unit that fails does not stop the others. Throws the first failure. */
  start(): Promise<void>;
  stop(): Promise<void>;
  /** Stops all of them and starts them again. */
  restart(): Promise<void>;
  /** Brings the units' states up to date. */
  refresh(): Promise<void>;
  /** A process of the box used sd_notify(3). */
  notified(pid: number, text: string): void;
}
