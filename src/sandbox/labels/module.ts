import { readFileSync } from 'node:fs';
import { layerMissing } from '../policy/layers.ts';
import type { SandboxLabels } from './labels.ts';

/** The security modules that kiln gives labels for. */
export type SecurityModule = 'selinux' | 'apparmor';

const SELINUX = '/sys/fs/selinux';
const APPARMOR_ENABLED = '/sys/module/apparmor/parameters/enabled';

function read(path: string): string | undefined {
  try {
    return readFileSync(path, 'latin1').replace(/[\0\n]+$/, '');
  } catch {
    return undefined;
  }
}

let active: { readonly module: SecurityModule | undefined } | undefined;

/**
 * Which of them this host has; SELinux with a policy loaded, enforcing or not. Looked up once: it
 * stays as long as the host runs.
 */
export function securityModule(): SecurityModule | undefined {
  active ??= { module: activeModule() };
  return active.module;
}

function activeModule(): SecurityModule | undefined {
  if (read(`${SELINUX}/enforce`) !== undefined) return 'selinux';
  return read(APPARMOR_ENABLED) === 'Y' ? 'apparmor' : undefined;
}

/** Whether SELinux refuses what its policy does not allow; else it only logs. */
export function selinuxEnforces(): boolean {
  return read(`${SELINUX}/enforce`) === '1';
}

/** This process's own label, as a command of `inherit` has it. */
export function ownLabel(module: SecurityModule): string | undefined {
  const label =
    (module === 'apparmor' ? read('/proc/self/attr/apparmor/current') : undefined) ??
    read('/proc/self/attr/current');
  // AppArmor: `NAME (MODE)`.
  return module === 'apparmor' ? label?.replace(/ \(\w+\)$/, '') : label;
}

/** A label as the kernel told it of a process in the sandbox. */
export interface MeasuredLabel {
  readonly module: SecurityModule;
  /** A context of SELinux, or the name of an AppArmor profile. */
  readonly label: string;
  /** False: what it does not allow is only logged. */
  readonly enforcing: boolean;
}

export function plannedLabel(labels: SandboxLabels | undefined, whose: 'init' | 'command') {
  return labels && { module: labels.module, label: labels[whose] };
}

/**
 * Reads what /proc/self/attr/current said in the sandbox; null on a host without either module. Throws
 * E_LAYER_MISSING when it is not the label that was to be in force.
 */
export function measuredLabel(
  text: string | undefined,
  expected: { readonly module: SecurityModule; readonly label: string } | undefined,
): MeasuredLabel | null {
  const module = expected?.module ?? securityModule();
  const found = module === undefined || text === undefined ? null : parsedLabel(module, text);
  if (expected === undefined) return found;
  if (found?.label !== expected.label) {
    throw layerMissing(expected.module, `${found?.label ?? 'no label'}, not ${expected.label}`);
  }
  // SELinux as a whole may be permissive, which is the administrator's to decide; a profile is not.
  if (expected.module === 'apparmor' && !found.enforcing && found.label !== 'unconfined') {
    throw layerMissing('apparmor', `the profile ${found.label} is not enforced`);
  }
  return found;
}

function parsedLabel(module: SecurityModule, text: string): MeasuredLabel {
  if (module === 'selinux') return { module, label: text, enforcing: selinuxEnforces() };
  const [, label = text, mode = ''] = /^(.*) \((\w+)\)$/.exec(text) ?? [];
  return { module, label, enforcing: mode === 'enforce' };
}
