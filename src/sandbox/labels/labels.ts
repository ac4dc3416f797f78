import type { StatePaths } from '../../host/state/paths.ts';
import { type Owner, releaseReservation } from '../../host/state/reservation.ts';
import type { LabelRequest } from '../policy/label-request.ts';
import type { PrepareOperation } from '../wire/table.ts';
import { apparmorLabels } from './apparmor.ts';
import {
  labelMissingError,
  type SandboxLabels,
  securityModule,
  selinuxEnforces,
} from './module.ts';
import { pairDirectory, selinuxLabels } from './selinux.ts';

/** Reserves the categories for `owner`. Throws E_LAYER_MISSING when the wanted label cannot be in force, E_NO_MCS. */
export async function reserveLabels(
  paths: StatePaths,
  request: LabelRequest,
  owner: Owner,
): Promise<SandboxLabels | undefined> {
  if (request.kind === 'none') return undefined;
  const module = securityModule();
  if (module === undefined) {
    if (request.kind === 'auto') return undefined;
    throw labelMissingError(
      `--label ${request.kind}: this host has neither SELinux nor AppArmor`,
      'leave the option away to have what the host has; `kiln doctor` tells what that is',
    );
  }
  if (module === 'apparmor') return await apparmorLabels(request);
  if (request.kind !== 'auto' && !selinuxEnforces()) {
    throw labelMissingError(
      `--label ${request.kind}: SELinux only logs on this host`,
      'setenforce 1, or leave the option away to have labels that hold nobody back',
    );
  }
  return await selinuxLabels(paths, request, owner);
}

export function labelsInside(labels: SandboxLabels, nested: boolean): SandboxLabels {
  return nested ? { ...labels, command: labels.nested } : labels;
}

/** None of its processes may be left. */
export async function releaseLabels(
  paths: StatePaths,
  labels: Pick<SandboxLabels, 'pair'> | undefined,
  owner: Owner,
): Promise<void> {
  if (labels?.pair === undefined) return;
  await releaseReservation(pairDirectory(paths), labels.pair, owner);
}

export function labelOperation(labels: SandboxLabels | undefined): PrepareOperation[] {
  if (labels === undefined) return [];
  const { module, init, command, files = '' } = labels;
  return [{ op: 'label', module, init, command, files }];
}
