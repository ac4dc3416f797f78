import koffi from 'koffi';
import { KilnError } from '../errors.ts';

/** The C library, for what Node has no call for. The only place that loads it. */
export const libc = koffi.load('libc.so.6');

/** A system call failed. `details.errno` is the number, `code` is `E_SYSCALL`. */
export class SyscallError extends KilnError {
  readonly errno: number;
  /** The symbol of errno, as in errno(3): ENOENT, EPERM, … */
  readonly errnoName: string;

  constructor(call: string, errno: number, subject?: string) {
    const name = errnoName(errno);
    const on = subject === undefined ? '' : ` ${subject}`;
    super('E_SYSCALL', `${call}${on}: ${name}`, { details: { call, errno, name, subject } });
    this.errno = errno;
    this.errnoName = name;
  }
}

const names = new Map<number, string>(
  Object.entries(koffi.os.errno).map(([name, number]) => [number, name]),
);

/** The symbol of an errno of this platform. */
export function errnoName(errno: number): string {
  return names.get(errno) ?? `errno ${errno}`;
}

/** Gives the result back, or throws what errno says when it is negative. */
export function checked(call: string, result: number, subject?: string): number {
  if (result < 0) throw new SyscallError(call, koffi.errno(), subject);
  return result;
}
