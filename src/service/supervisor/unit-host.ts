import { readFileSync } from 'node:fs';
import { KilnError } from '../../errors.ts';
import { deferred } from '../../promise.ts';
import type { SandboxControl } from '../../sandbox/command/control.ts';
import type { SandboxProcess } from '../../sandbox/command/process.ts';
import type { PlannedSandbox } from '../../sandbox/door/planned-sandbox.ts';
import {
  type Capability,
  parseCapability,
  ROOT_CAPABILITIES,
} from '../../sandbox/policy/capabilities.ts';
import type { PolicyRequest } from '../../sandbox/policy/policy.ts';
import type { ResourceLimit } from '../../sandbox/wire/exec.ts';
import type { Tree } from '../lifecycle/tree.ts';
import type { LogFile } from '../log-file.ts';
import type { UnitState, UnitStatus } from '../status.ts';
import type { ServiceUnit } from '../unit/service-unit.ts';

/** The sandbox of units, and what all units share. */
export interface UnitHost {
  readonly sandbox: PlannedSandbox;
  readonly control: SandboxControl;
  /** The sandbox's root directory. */
  readonly tree: Tree;
  readonly log: LogFile;
  /** The variables of the image and of the service. */
  readonly environment: Readonly<Record<string, string>>;
  /** Capabilities beside container root's. */
  readonly capabilities: readonly Capability[];
}

/** The rights of kiln's own commands in a service: those of container root. */
export const ROOT_POLICY: PolicyRequest = {
  user: '0:0',
  capabilities: ROOT_CAPABILITIES,
  seccomp: 'default',
};

export interface ProcessEnd {
  readonly exitCode: number | null;
  readonly signal: NodeJS.Signals | null;
}

/** Resolves with the end of the command; a sandbox that is gone counts as a kill. */
export function endOf(command: SandboxProcess): Promise<ProcessEnd> {
  return new Promise((resolve) => {
    command.on('error', () => undefined);
    command.once('exit', (exitCode, signal) => resolve({ exitCode, signal }));
  });
}

/** The user and rights of a unit's command: never more than the service's. */
export function unitPolicy(host: UnitHost, unit: ServiceUnit, privileged: boolean): PolicyRequest {
  const user = privileged ? '0:0' : userSpec(unit);
  const capabilities = privileged ? allowed(host) : unitCapabilities(host, unit, isRoot(user));
  return { user, capabilities, seccomp: 'default' };
}

function userSpec({ user = '0', group }: ServiceUnit): string {
  return group === undefined ? user : `${user}:${group}`;
}

function isRoot(spec: string): boolean {
  return /^(?:root|0)(?::|$)/.test(spec);
}

function allowed(host: UnitHost): Capability[] {
  return [...new Set([...ROOT_CAPABILITIES, ...host.capabilities])];
}

function unitCapabilities(host: UnitHost, unit: ServiceUnit, root: boolean): Capability[] {
  const { boundingSet } = unit;
  const bounded = allowed(host).filter(
    (name) =>
      boundingSet === undefined || boundingSet.names.includes(name) !== boundingSet.inverted,
  );
  return root ? bounded : bounded.filter((name) => unit.ambient.includes(name));
}

/** The capabilities in a service file. Throws E_ARGUMENT. */
export function namedCapabilities(names: readonly string[]): Capability[] {
  return names.map(parseCapability);
}

/**
 * A unit's limits, cut to the sandbox's hard limits, which only the host's root could raise: a process that
 * asked for more would not start.
 */
export function clampedLimits(host: UnitHost, unit: ServiceUnit): ResourceLimit[] {
  if (unit.limits.length === 0) return [];
  const hard = hardLimits(host.sandbox.initPid);
  return unit.limits.map((limit) => {
    const most = hard[limit.resource] ?? Number.POSITIVE_INFINITY;
    return {
      resource: limit.resource,
      soft: Math.min(limit.soft, limit.hard, most),
      hard: Math.min(limit.hard, most),
    };
  });
}

/** Hard limits by RLIMIT_ number: /proc/PID/limits lists them in that order. */
function hardLimits(pid: number): number[] {
  const [, ...lines] = readFileSync(`/proc/${pid}/limits`, 'utf8').trim().split('\n');
  return lines.map((line) => {
    const hard = line.slice(26).trim().split(/\s+/)[1];
    return hard === 'unlimited' ? Number.POSITIVE_INFINITY : Number(hard);
  });
}

/** A unit of a running service, run by kiln or by a systemd in the sandbox. */
export interface RunningUnit {
  readonly name: string;
  readonly state: UnitState;
  status(): UnitStatus;
  start(): Promise<void>;
  stop(): Promise<void>;
  /** Throws E_NO_RELOAD, E_UNIT_FAILED. */
  reload(): Promise<void>;
}

/** All units of a running service. */
export interface UnitManager {
  readonly units: readonly RunningUnit[];
  /** True if nothing runs and nothing will start by itself. */
  readonly idle: boolean;
  /** Why no unit runs, if the cause is not a unit's failure. */
  readonly failure: string | undefined;
  /** Resolves when the sandbox must be made anew, because its content has ended. */
  readonly lost: Promise<void>;
  /** Starts all units. A failed unit does not stop the others. Throws the first failure. */
  start(): Promise<void>;
  stop(): Promise<void>;
  /** Restarts all units. */
  restart(): Promise<void>;
  /** Updates the units' states. */
  refresh(): Promise<void>;
  /** Called when a process of the sandbox used sd_notify(3). */
  notified(pid: number, text: string): void;
}

/** The outcome of `work`, or E_UNIT_TIMEOUT after this time. */
export async function within<Result>(work: Promise<Result>, milliseconds: number): Promise<Result> {
  if (milliseconds === Number.POSITIVE_INFINITY) return await work;
  const over = deferred<never>();
  const timer = setTimeout(() => {
    over.reject(outOfTime(milliseconds));
  }, milliseconds);
  try {
    // A late outcome is ignored: a race listens to both.
    return await Promise.race([work, over.promise]);
  } finally {
    clearTimeout(timer);
  }
}

/** E_UNIT_TIMEOUT for work that took longer. */
export function outOfTime(milliseconds: number): KilnError {
  return new KilnError('E_UNIT_TIMEOUT', `out of time after ${milliseconds / 1000} s`, {
    hint: 'TimeoutStartSec= and TimeoutStopSec= of the unit allow more',
  });
}
