import { layerMissing } from '../layers.ts';
import type { BoxLabels } from './labels.ts';
import { type SecurityModule, securityModule, selinuxEnforces } from './module.ts';

/** A label as the kernel told it of a process in the box. */
export interface MeasuredLabel {
  readonly module: SecurityModule;
  /** A context of SELinux, or the name of an AppArmor profile. */
  readonly label: string;
  /** False: what it does not allow is only logged. */
  readonly enforcing: boolean;
}

/** The label that the init of a box, or a command in it, is to have. */
export function plannedLabel(labels: BoxLabels | undefined, whose: 'init' | 'command') {
  return labels && { module: labels.module, label: labels[whose] };
}

/**
 * Reads what /proc/self/attr/current said in the box; null on a host without either module. Throws
 * E_LAYER_MISSING when it is not the label that was to be in force.
 */
export function measuredLabel(
  text: string | undefined,
  expected: { readonly module: SecurityModule; readonly label: string } | undefined,
): MeasuredLabel | null {
  const module = expected?.module ?? securityModule();
  const found = module === undefined || text === undefined ? null : read(module, text);
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

function read(module: SecurityModule, text: string): MeasuredLabel {
  if (module === 'selinux') return { module, label: text, enforcing: selinuxEnforces() };
  const [, label = text, mode = ''] = /^(.*) \((\w+)\)$/.exec(text) ?? [];
  return { module, label, enforcing: mode === 'enforce' };
}
