import { KilnError } from '../../errors.ts';
import { runsItself } from '../../host/process/architecture.ts';
import type { SandboxOptions } from '../../options/sandbox.ts';
import type { TakenImage } from '../../sandbox/door/plan.ts';

/** What of a request is not done for machines yet, as its words have it. */
const UNDONE: readonly (readonly [string, (request: SandboxOptions) => boolean])[] = [
  ['a bind with cow', ({ binds }) => binds.some(({ cow }) => cow === true)],
  ['--on-disk', ({ onDisk }) => onDisk === true],
];

/** @throws KilnError E_MACHINE */
export function refuseUndone(request: SandboxOptions, { manifest, layers }: TakenImage): void {
  if (request.isolation === 'container') return;
  if ((request.label?.kind ?? 'auto') !== 'auto') {
    throw new KilnError('E_MACHINE', 'a machine has no --label: no process of this host is in it', {
      hint: 'leave out --label, or --isolation vm',
    });
  }
  const { arch } = manifest;
  // The layers are those of a snapshot.
  const [asked] = UNDONE.find(([, asks]) => asks(request)) ?? (layers ? ['--from'] : []);
  const undone = runsItself(arch) ? asked : `an image for ${arch}`;
  if (undone === undefined) return;
  throw new KilnError('E_MACHINE', `${undone} is not done for machines yet`, {
    hint: `leave out ${undone}, or --isolation vm; docs/machines.md says what machines can do`,
  });
}
