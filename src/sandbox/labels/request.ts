import { KilnError } from '../../errors.ts';

/**
 * Which label a box gets, on a host with SELinux or AppArmor. As virt-sandbox had them, and:
 * - `auto`: `dynamic` where the host has either, else none;
 * - `none`: whatever libvirt's domains have without one.
 */
export type LabelRequest =
  | { readonly kind: 'auto' | 'inherit' | 'none' }
  /** SELinux: kiln's types, or those of `label`, and a pair of categories that nobody else has. */
  | { readonly kind: 'dynamic'; readonly label?: string }
  /** This context or profile, for the commands. */
  | { readonly kind: 'static'; readonly label: string };

/** A context or a profile's name: no space, nothing that ends a line. */
const LABEL = /^[\x21-\x7e]{1,1000}$/;

/** Reads `auto`, `dynamic[:LABEL]`, `static:LABEL`, `inherit`, `none`. Throws E_ARGUMENT. */
export function parseLabelRequest(text: string): LabelRequest {
  if (text === 'auto' || text === 'inherit' || text === 'none') return { kind: text };
  if (text === 'dynamic') return { kind: 'dynamic' };
  const [, kind, label = ''] = /^(dynamic|static):(.*)$/.exec(text) ?? [];
  if ((kind === 'dynamic' || kind === 'static') && LABEL.test(label)) return { kind, label };
  throw new KilnError('E_ARGUMENT', `not a label: ${JSON.stringify(text)}`, {
    hint: 'auto, dynamic, dynamic:LABEL, static:LABEL, inherit or none',
  });
}
