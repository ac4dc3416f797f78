import { KilnError } from '../../errors.ts';
import { readText } from '../../host/calls/libc.ts';
import { layerMissingError } from '../policy/layers.ts';

export type SecurityModule = 'selinux' | 'apparmor';

export interface SandboxLabels {
  readonly module: SecurityModule;
  readonly init: string;
  readonly command: string;
  readonly nested: string;
  /** SELinux: the context of the sandbox's own files, and of binds with `Z`. */
  readonly files?: string;
  readonly pair?: string;
}

const SELINUX = '/sys/fs/selinux';
const APPARMOR_ENABLED = '/sys/module/apparmor/parameters/enabled';

function read(path: string): string | undefined {
  return readText(path, 'latin1')?.replace(/[\0\n]+$/, '');
}

let active: { readonly module: SecurityModule | undefined } | undefined;

/** SELinux counts if a policy is loaded, enforcing or not. It does not change while the host runs. */
export function securityModule(): SecurityModule | undefined {
  active ??= { module: activeModule() };
  return active.module;
}

function activeModule(): SecurityModule | undefined {
  if (read(`${SELINUX}/enforce`) !== undefined) return 'selinux';
  return read(APPARMOR_ENABLED) === 'Y' ? 'apparmor' : undefined;
}

export function selinuxEnforces(): boolean {
  return read(`${SELINUX}/enforce`) === '1';
}

function attributeOf(process: string, module: SecurityModule): string | undefined {
  const own = module === 'apparmor' ? read(`/proc/${process}/attr/apparmor/current`) : undefined;
  return own ?? read(`/proc/${process}/attr/current`);
}

export function ownLabel(module: SecurityModule): string | undefined {
  const label = attributeOf('self', module);
  // AppArmor: `NAME (MODE)`.
  return module === 'apparmor' ? label?.replace(/ \(\w+\)$/, '') : label;
}

export interface MeasuredLabel {
  readonly module: SecurityModule;
  readonly label: string;
  readonly enforcing: boolean;
}

/** Of a process of this host, as its kernel tells; null where there is no module, or no such process. */
export function labelOf(pid: number): MeasuredLabel | null {
  const module = securityModule();
  const text = module && attributeOf(`${pid}`, module);
  return text === undefined ? null : parsedLabel(module as SecurityModule, text);
}

export function plannedLabel(labels: SandboxLabels | undefined, whose: 'init' | 'command') {
  return labels && { module: labels.module, label: labels[whose] };
}

export function measuredLabel(
  text: string | undefined,
  expected: { readonly module: SecurityModule; readonly label: string } | undefined,
): MeasuredLabel | null {
  const module = expected?.module ?? securityModule();
  const found = module === undefined || text === undefined ? null : parsedLabel(module, text);
  if (expected === undefined) return found;
  if (found?.label !== expected.label) {
    throw layerMissingError(
      expected.module,
      `${found?.label ?? 'no label'}, not ${expected.label}`,
    );
  }
  // The administrator may make SELinux permissive as a whole. A permissive AppArmor profile is refused.
  if (expected.module === 'apparmor' && !found.enforcing && found.label !== 'unconfined') {
    throw layerMissingError('apparmor', `the profile ${found.label} is not enforced`);
  }
  return found;
}

function parsedLabel(module: SecurityModule, text: string): MeasuredLabel {
  if (module === 'selinux') return { module, label: text, enforcing: selinuxEnforces() };
  const [, label = text, mode = ''] = /^(.*) \((\w+)\)$/.exec(text) ?? [];
  return { module, label, enforcing: mode === 'enforce' };
}

/** Of a label that somebody has asked for. */
export function labelMissingError(what: string, hint: string): KilnError {
  return new KilnError('E_LAYER_MISSING', what, { hint, details: { layer: 'label' } });
}
