import type { ExecCommand } from './exec-line.ts';

/** The values of Type= that kiln runs. */
export const SERVICE_TYPES = [
  ...(['simple', 'exec', 'forking', 'oneshot', 'notify', 'notify-reload', 'idle'] as const),
];
export type ServiceType = (typeof SERVICE_TYPES)[number];

/** The values of Restart=. */
export const RESTART_POLICIES = [
  ...(['no', 'always', 'on-success', 'on-failure'] as const),
  ...(['on-abnormal', 'on-abort', 'on-watchdog'] as const),
];
export type RestartPolicy = (typeof RESTART_POLICIES)[number];

/** The phase in which a command of a unit runs. */
export type ExecPhase =
  | 'condition'
  | 'startPre'
  | 'start'
  | 'startPost'
  | 'reload'
  | 'stop'
  | 'stopPost';

/** A directory of RuntimeDirectory= and the like. */
export interface UnitDirectory {
  /** Absolute path in the sandbox. */
  readonly path: string;
  readonly mode: number;
  /** The variable with its path for commands, such as `STATE_DIRECTORY`. */
  readonly variable: string;
  /** ConfigurationDirectory= is root's, the others are the user's. */
  readonly rootOwned: boolean;
}

/** A test of a path before the start. All tests without `|` must succeed. */
export interface UnitCondition {
  readonly kind: string;
  readonly path: string;
  readonly negated: boolean;
  /** True for Assert…: a failed assertion is an error, a failed condition is not. */
  readonly assertion: boolean;
}

/** Exit statuses and signals of SuccessExitStatus= and the like. */
export type ExitStatusSet = ReadonlySet<number | string>;

/** An interpreted service unit. Times are milliseconds, Infinity for none. */
export interface ServiceUnit {
  readonly name: string;
  readonly description: string;
  readonly type: ServiceType;
  readonly commands: Readonly<Record<ExecPhase, readonly ExecCommand[]>>;
  readonly user: string | undefined;
  readonly group: string | undefined;
  readonly environment: readonly (readonly [string, string])[];
  readonly environmentFiles: readonly { readonly path: string; readonly optional: boolean }[];
  readonly unsetEnvironment: readonly string[];
  readonly workingDirectory: { readonly path: string; readonly optional: boolean } | undefined;
  readonly umask: number;
  readonly directories: readonly UnitDirectory[];
  /** Limits of setrlimit(2): by RLIMIT_ number. */
  readonly limits: readonly {
    readonly resource: number;
    readonly soft: number;
    readonly hard: number;
  }[];
  /** Names without CAP_; undefined for the service's own set. */
  readonly boundingSet:
    | { readonly names: readonly string[]; readonly inverted: boolean }
    | undefined;
  readonly ambient: readonly string[];
  readonly pidFile: string | undefined;
  readonly notifyAccess: 'none' | 'main' | 'exec' | 'all';
  readonly remainAfterExit: boolean;
  readonly guessMainPid: boolean;
  readonly restart: RestartPolicy;
  readonly restartDelay: number;
  readonly startLimit: { readonly interval: number; readonly burst: number };
  readonly successExitStatus: ExitStatusSet;
  readonly restartPrevent: ExitStatusSet;
  readonly restartForce: ExitStatusSet;
  readonly startTimeout: number;
  readonly stopTimeout: number;
  readonly killMode: 'control-group' | 'mixed' | 'process' | 'none';
  readonly killSignal: NodeJS.Signals;
  readonly reloadSignal: NodeJS.Signals;
  readonly sendKill: boolean;
  readonly sendHangup: boolean;
  /** True if output is discarded. */
  readonly discardOutput: boolean;
  readonly conditions: readonly UnitCondition[];
  /** Units of the same service that start before this one. */
  readonly after: readonly string[];
  readonly before: readonly string[];
  /** Units that must start, too. */
  readonly requires: readonly string[];
  readonly wants: readonly string[];
  /** Unsupported settings of the unit, one sentence each. */
  readonly warnings: readonly string[];
  readonly files: readonly string[];
}
