import { mkdirSync } from 'node:fs';
import { KilnError } from '../../errors.ts';
import type { SandboxSpecification } from '../policy/specification.ts';
import type { PrepareOperation } from '../wire/table.ts';
import type { SandboxLabels } from './labels.ts';
import { refuseSystemDirectory, relabelTree } from './relabel.ts';
import { fileContext } from './selinux.ts';

/**
 * The label that a sandbox gets on a host with SELinux or AppArmor, as in virt-sandbox. In addition: - `auto`:
 * `dynamic` where the host has either, otherwise none; - `none`: the label that libvirt's domains have by
 * default.
 */
export type LabelRequest =
  | { readonly kind: 'auto' | 'inherit' | 'none' }
  /** SELinux: kiln's types, or those of `label`, with a pair of categories that no other sandbox has. */
  | { readonly kind: 'dynamic'; readonly label?: string }
  /** This context or profile for commands. */
  | { readonly kind: 'static'; readonly label: string };

/** A context or the name of a profile, without blanks and line ends. */
const LABEL = /^[\x21-\x7e]{1,1000}$/;

/** Reads `auto`, `dynamic[:LABEL]`, `static:LABEL`, `inherit`, `none`. Throws E_ARGUMENT. */
export function parseLabelRequest(text: string): LabelRequest {
  if (text === 'auto' || text === 'inherit' || text === 'none') return { kind: text };
  if (text === 'dynamic') return { kind: 'dynamic' };
  const [, kind, label = ''] = /^(dynamic|static):(.*)$/.exec(text) ?? [];
  if ((kind === 'dynamic' || kind === 'static') && LABEL.test(label)) return { kind, label };
  throw new KilnError('E_ARGUMENT', `not a label: ${JSON.stringify(text)}`, {
    hint: 'give auto, dynamic, dynamic:LABEL, static:LABEL, inherit or none',
  });
}

/**
 * SELinux: gives files of the host that the sandbox may write to the context of the sandbox's own files, and
 * binds with z or Z the context asked for. Throws E_RELABEL.
 */
export async function relabelSources(
  specification: Pick<SandboxSpecification, 'binds' | 'scratch' | 'volumes'>,
  labels: SandboxLabels | undefined,
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

/** The label operation for the init; none without labels. */
export function labelOperation(labels: SandboxLabels | undefined): PrepareOperation[] {
  if (labels === undefined) return [];
  const { module, init, command, files = '' } = labels;
  return [{ op: 'label', module, init, command, files }];
}
