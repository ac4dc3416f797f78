import type { ExecCommand } from './exec-line.ts';

/** Type=, of those that kiln runs. */
export const SERVICE_TYPES = [
  ...(['simple', 'exec', 'forking', 'oneshot', 'notify', 'notify-reload', 'idle'] as const),
];
export type ServiceType = (typeof SERVICE_TYPES)[number];

/** Restart=. */
export const RESTART_POLICIES = [
  ...(['no', 'always', 'on-success', 'on-failure'] as const),
  ...(['on-abnormal', 'on-abort', 'on-watchdog'] as const),
];
export type RestartPolicy = (typeof RESTART_POLICIES)[number];

/** When a command of a unit is run. */
export type ExecPhase =
  | 'condition'
  | 'startPre'
  | 'start'
  | 'startPost'
  | 'reload'
  | 'stop'
  | 'stopPost';

/** A directory that RuntimeDirectory= and its kin ask for. */
export interface UnitDirectory {
  /** Absolute in the sandbox. */
  readonly path: string;
  readonly mode: number;
  /** The variable that names it to commands, as `STATE_DIRECTORY`. */
  readonly variable: string;
  /** ConfigurationDirectory= is root's, the others are the user's. */
  readonly rootOwned: boolean;
}

/** A test on a path before the start; several without `|` must all hold. */
export interface UnitCondition {
  readonly kind: string;
  readonly path: string;
  readonly negated: boolean;
  /** Assert…: failing it is an error, failing a condition is not. */
  readonly assertion: boolean;
}

/** An exit status or signal of SuccessExitStatus= and its kin. */
export type ExitStatusSet = ReadonlySet<number | string>;

/** A service unit, understood. Times are milliseconds, Infinity for none. */
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
  /** Names without CAP_; undefined is what the service has anyway. */
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
  /** Output that goes nowhere. */
  readonly discardOutput: boolean;
  readonly conditions: readonly UnitCondition[];
  /** Units to be started before this one, if they are of the same service. */
  readonly after: readonly string[];
  readonly before: readonly string[];
  /** Units that must be started too. */
  readonly requires: readonly string[];
  readonly wants: readonly string[];
  /** What is not done although the unit asks for it, one sentence each. */
  readonly warnings: readonly string[];
  readonly files: readonly string[];
}
