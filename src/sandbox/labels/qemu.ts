/** The label of a machine's qemu (sVirt): who breaks qemu is still held off the host and other machines. */
import type { StatePaths } from '../../host/state/paths.ts';
import type { Owner } from '../../host/state/reservation.ts';
import { type MeasuredLabel, securityModule } from './module.ts';
import { allocatePair, pairOf, processContext, requireContext } from './selinux.ts';

/** Of SELinux. */
export interface QemuLabel {
  readonly context: string;
  readonly pair: string;
}

/**
 * SELinux: a context for the domain. libvirt's own, `dynamic`, would have it label files that all machines share. With
 * AppArmor libvirt makes a profile for each domain, of the files in its XML. Throws E_NO_MCS, E_LAYER_MISSING.
 */
export async function reserveQemuLabel(
  paths: StatePaths,
  owner: Owner,
): Promise<QemuLabel | undefined> {
  if (securityModule() !== 'selinux') return undefined;
  requireContext(processContext('qemu', 'c100,c101'));
  const pair = await allocatePair(paths, owner);
  return { context: processContext('qemu', pair), pair };
}

/** What is wrong with a qemu's label on this host. One of no other process, on a host without a module, is right. */
export function whyNotOwn(label: MeasuredLabel | null): string | undefined {
  const module = securityModule();
  if (module === undefined) return undefined;
  if (label === null) return 'qemu has no label';
  const isOwn =
    module === 'selinux'
      ? pairOf(label.label) !== undefined
      : /^libvirt-[0-9a-f-]{36}$/.test(label.label) && label.enforcing;
  return isOwn ? undefined : `qemu has ${label.label}, which is not its own`;
}
