import { readFileSync } from 'node:fs';

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
