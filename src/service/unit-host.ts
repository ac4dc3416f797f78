import { readFileSync } from 'node:fs';
import { type Capability, parseCapability, ROOT_CAPABILITIES } from '../sandbox/capabilities.ts';
import type { BoxControl } from '../sandbox/control.ts';
import type { PlannedSandbox } from '../sandbox/door/planned-sandbox.ts';
import type { PolicyRequest } from '../sandbox/policy.ts';
import type { SandboxProcess } from '../sandbox/process.ts';
import type { ResourceLimit } from '../sandbox/wire/exec.ts';
import type { LogFile } from './log-file.ts';
import type { Tree } from './tree.ts';
import type { ServiceUnit } from './unit/service-unit.ts';

/** The box that units run in, and what all of them share. */
export interface UnitHost {
  readonly sandbox: PlannedSandbox;
  readonly control: BoxControl;
  /** The box's root directory. */
  readonly tree: Tree;
  readonly log: LogFile;
  /** Of the image and of the service. */
  readonly environment: Readonly<Record<string, string>>;
  /** Beyond what container root has. */
  readonly capabilities: readonly Capability[];
}

/** Rights of the commands of kiln's own in a service: its root's. */
export const ROOT_POLICY: PolicyRequest = {
  user: '0:0',
  capabilities: ROOT_CAPABILITIES,
  seccomp: 'default',
};

/** How a process ended. */
export interface ProcessEnd {
  readonly exitCode: number | null;
  readonly signal: NodeJS.Signals | null;
}

/** The end of a command, once it has come; a box that is gone counts as a kill. */
export function endOf(command: SandboxProcess): Promise<ProcessEnd> {
  return new Promise((resolve) => {
    command.on('error', () => undefined);
    command.once('exit', (exitCode, signal) => resolve({ exitCode, signal }));
  });
}

/** Who a command of a unit runs as, and what it may do: never more than the service has. */
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

/** Capabilities that a service file names. Throws E_ARGUMENT. */
export function namedCapabilities(names: readonly string[]): Capability[] {
  return names.map(parseCapability);
}

/**
 * A unit's limits, none above the box's own hard ones, which only the host's root could raise: a
 * process of the box that asked for more would not start at all.
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
