import { KilnError } from '../errors.ts';
import { hasProc } from '../host/process/process.ts';
import {
  type Check,
  type CheckContext,
  type CheckResult,
  type Finding,
  fail,
  reason,
} from './check.ts';
import { cgroups } from './checks/cgroups.ts';
import { emulation } from './checks/emulation.ts';
import { hostImage } from './checks/host-image.ts';
import { images } from './checks/images.ts';
import * as installation from './checks/installation.ts';
import * as kernel from './checks/kernel.ts';
import { machines } from './checks/machines.ts';
import { libvirt, sandbox } from './checks/sandbox.ts';
import * as state from './checks/state.ts';

/** In the order for readers: an earlier fault explains later ones. */
const CHECKS: readonly Check[] = [
  installation.privileges,
  installation.users,
  installation.packages,
  installation.guestInit,
  kernel.kernel,
  kernel.landlock,
  kernel.namespaces,
  kernel.systemCalls,
  kernel.procAndSys,
  kernel.devices,
  state.openat2Call,
  installation.signatures,
  state.stateDirectory,
  state.stateFiles,
  state.idMappedMounts,
  state.overlay,
  installation.idRanges,
  cgroups,
  kernel.securityModules,
  state.runDirectory,
  libvirt,
  sandbox,
  hostImage,
  images,
  emulation,
  machines,
];

export function checkNames(): string[] {
  return CHECKS.map(({ name }) => name);
}

export async function runChecks(
  context: CheckContext,
  names: readonly string[] = [],
): Promise<CheckResult[]> {
  const unknown = names.find((name) => !CHECKS.some((check) => check.name === name));
  if (unknown !== undefined) {
    throw new KilnError('E_NO_CHECK', `there is no check named ${unknown}`, {
      hint: `the checks are ${checkNames().join(', ')}`,
    });
  }
  const chosen = CHECKS.filter(({ name }) => names.length === 0 || names.includes(name));
  const results = chosen.map((check) => runCheck(check, context, names.length > 0));
  return explained(await Promise.all(results));
}

/** Names the earlier fault where one is its consequence: a want of namespaces, or what else asks for the doctor. */
function explained(results: readonly CheckResult[]): CheckResult[] {
  const faults = results.filter(({ status }) => status === 'fail').map(({ name }) => name);
  const lacksNamespaces = faults.includes('namespaces');
  return results.map((result) => {
    const { name, status, found, mend } = result;
    const asks = status === 'fail' && mend?.includes('kiln doctor') === true;
    const cause = lacksNamespaces && /namespace/.test(found) ? 'namespaces' : asks && faults[0];
    if (status === 'ok' || !cause || cause === name) return result;
    return { ...result, mend: `mend what the check \`${cause}\` names` };
  });
}

/** Without root most checks fail for that reason alone. */
function judged(check: Check, finding: Finding): Finding {
  if (finding.status === 'ok' || check.isForAnybody === true || process.geteuid?.() === 0)
    return finding;
  const mend = 'run `kiln doctor` as root';
  return { ...finding, status: 'warn', problem: 'this cannot be judged without root', mend };
}

async function runCheck(
  check: Check,
  context: CheckContext,
  isNamed: boolean,
): Promise<CheckResult> {
  const { name, isForAnybody = false } = check;
  if (!isForAnybody && !hasProc()) {
    const problem = 'this cannot be judged without /proc';
    return { name, ...fail('/proc is not mounted', problem, installation.MOUNT_PROC) };
  }
  const finding = await check
    .run(context, isNamed)
    .catch((error: unknown) =>
      fail(
        `the check itself failed: ${reason(error)}`,
        'this host could not be looked at, or the check has a fault',
        'report it, with the output of kiln doctor --json',
      ),
    );
  return { name, ...judged(check, finding) };
}
