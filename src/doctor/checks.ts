import type { Check, CheckContext, CheckResult } from './check.ts';
import { reason } from './check.ts';
import { cgroups } from './checks/cgroups.ts';
import { guestInit } from './checks/guest-init.ts';
import { idMappedMounts } from './checks/id-mapped-mounts.ts';
import { idRanges } from './checks/id-ranges.ts';
import { kernel } from './checks/kernel.ts';
import { libvirt } from './checks/libvirt.ts';
import { namespaces } from './checks/namespaces.ts';
import { openat2Call } from './checks/openat2.ts';
import { overlay } from './checks/overlay.ts';
import { packages } from './checks/packages.ts';
import { privileges } from './checks/privileges.ts';
import { runDirectory } from './checks/run-directory.ts';
import { securityModules } from './checks/security-modules.ts';
import { stateDirectory } from './checks/state-directory.ts';

/** Every check, in the order a person reads them: a fault further up explains those below. */
const CHECKS: readonly Check[] = [
  privileges,
  packages,
  guestInit,
  kernel,
  namespaces,
  openat2Call,
  stateDirectory,
  idMappedMounts,
  overlay,
  idRanges,
  cgroups,
  securityModules,
  runDirectory,
  libvirt,
];

/** Runs every check, at once where they do not disturb each other: none does. */
export function runChecks(context: CheckContext): Promise<CheckResult[]> {
  return Promise.all(CHECKS.map((check) => runCheck(check, context)));
}

async function runCheck(check: Check, context: CheckContext): Promise<CheckResult> {
  try {
    return { name: check.name, ...(await check.run(context)) };
  } catch (error) {
    return {
      name: check.name,
      status: 'fail',
      found: `the check itself failed: ${reason(error)}`,
      problem: 'this host could not be looked at, or the check has a fault',
      mend: 'report it, with the output of kiln doctor --json',
    };
  }
}
