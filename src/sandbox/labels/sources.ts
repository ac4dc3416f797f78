import { mkdirSync } from 'node:fs';
import type { SandboxSpecification } from '../specification.ts';
import type { PrepareOperation } from '../wire/table.ts';
import type { BoxLabels } from './labels.ts';
import { refuseSystemDirectory, relabelTree } from './relabel.ts';
import { fileContext } from './selinux.ts';

/**
 * SELinux: gives what a box may write to on the host the context of its own files, and binds the one
 * that was asked for. Throws E_RELABEL.
 */
export async function relabelSources(
  specification: Pick<SandboxSpecification, 'binds' | 'scratch' | 'volumes'>,
  labels: BoxLabels | undefined,
): Promise<void> {
  if (labels?.module !== 'selinux' || labels.files === undefined) return;
  const { binds, scratch, volumes } = specification;
  if (scratch !== undefined) {
    mkdirSync(scratch, { recursive: true });
    await relabelTree(scratch, labels.files);
  }
  for (const { source } of volumes) await relabelTree(source, labels.files);
  for (const { source, relabel } of binds) {
    if (relabel === undefined) continue;
    refuseSystemDirectory(source);
    await relabelTree(source, relabel === 'shared' ? fileContext('s0') : labels.files);
  }
}

/** What the init is told of labels; nothing when there are none. */
export function labelOperation(labels: BoxLabels | undefined): PrepareOperation[] {
  if (labels === undefined) return [];
  const { module, init, command, files = '' } = labels;
  return [{ op: 'label', module, init, command, files }];
}
