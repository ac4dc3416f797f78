import { KilnError } from '../../errors.ts';

/** As in virt-sandbox; `auto` is `dynamic` where the host has labels, `none` what libvirt's domains have. */
export type LabelRequest =
  | { readonly kind: 'auto' | 'inherit' | 'none' }
  /** SELinux: kiln's types, or those of `label`, with a pair of categories that no other sandbox has. */
  | { readonly kind: 'dynamic'; readonly label?: string }
  | { readonly kind: 'static'; readonly label: string };

/** As {@link parseLabelRequest} reads it. */
export function formatLabel(request: LabelRequest): string {
  return 'label' in request ? `${request.kind}:${request.label}` : request.kind;
}

const LABEL = /^[\x21-\x7e]{1,1000}$/;

export function parseLabelRequest(text: string): LabelRequest {
  if (text === 'auto' || text === 'inherit' || text === 'none') return { kind: text };
  if (text === 'dynamic') return { kind: 'dynamic' };
  const [, kind, label = ''] = /^(dynamic|static):(.*)$/.exec(text) ?? [];
  if ((kind === 'dynamic' || kind === 'static') && LABEL.test(label)) return { kind, label };
  throw new KilnError('E_ARGUMENT', `not a label: ${JSON.stringify(text)}`, {
    hint: 'give auto, dynamic, dynamic:LABEL, static:LABEL, inherit or none',
  });
}
