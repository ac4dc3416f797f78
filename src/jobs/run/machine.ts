import { KilnError } from '../../errors.ts';
import type { SandboxOptions } from '../../options/sandbox.ts';

/** What of a request is not done for machines yet, as its words have it. */
const UNDONE: readonly (readonly [string, (request: SandboxOptions) => boolean])[] = [
  ['--egress', ({ egress }) => egress.length > 0],
  ['--network', ({ network }) => network !== 'private' && network !== 'none'],
  ['--profile nested', ({ profile }) => profile === 'nested'],
  ['--label', ({ label }) => label !== undefined && label !== 'auto'],
];

/** @throws KilnError E_MACHINE */
export function refuseUndone(request: SandboxOptions): void {
  if (request.isolation === 'container') return;
  const [undone] = UNDONE.find(([, asks]) => asks(request)) ?? [];
  if (undone === undefined) return;
  throw new KilnError('E_MACHINE', `${undone} is not done for machines yet`, {
    hint: `leave out ${undone}, or --isolation vm; docs/machines.md says what machines can do`,
  });
}
