/** What a machine takes of the host's memory beside that of the sandbox in it. Bytes. */
import { totalmem } from 'node:os';
import { KilnError } from '../../../errors.ts';

/** Of the guest's kernel, stage 0 and the init. */
export const GUEST_MEMORY = 96 << 20;

/** Of qemu beside the guest's, with the code that emulation keeps. */
export const QEMU_MEMORY = 768 << 20;

/** Of relay and virtiofsd, with what virtiofsd reads from disks: the kernel counts its pages for them. */
export const HELPERS_MEMORY = 2 ** 30;

const BESIDE = GUEST_MEMORY + QEMU_MEMORY + HELPERS_MEMORY;

/** Of a sandbox without a limit of its own, or a share of the host's memory. */
const MEMORY = 2 ** 31;
const MEMORY_SHARE = 0.5;

export function ownMemory(): number {
  return Math.min(MEMORY, Math.floor((totalmem() * MEMORY_SHARE) / 2 ** 20) * 2 ** 20);
}

/** Less is not worth a machine. */
const LEAST = 64 << 20;

/** What a share of the host's memory leaves for the sandbox in a machine. */
export function mostWithin(share: number): number {
  return share - BESIDE;
}

/**
 * The memory of a sandbox whose machine as a whole does not exceed a share of the host's.
 * @param wanted what its caller asks for @throws KilnError E_LIMIT
 */
export function memoryWithin(share: number, wanted: number | undefined): number {
  const most = mostWithin(share);
  if (most >= Math.max(LEAST, wanted ?? 0)) return wanted ?? Math.min(most, ownMemory());
  const asked = wanted === undefined ? '' : ` with ${shown(wanted)} for its sandbox`;
  const room = most < LEAST ? 'too little is left' : `${shown(most)} are left`;
  throw new KilnError(
    'E_LIMIT',
    `a machine${asked} exceeds your share of memory: it takes ${shown(BESIDE)} of ${shown(share)} for itself, ${room}`,
    { hint: 'give a smaller --memory, or leave out --isolation vm; root sets users.limits' },
  );
}

function shown(bytes: number): string {
  return `${Math.floor(bytes / 2 ** 20)}M`;
}
