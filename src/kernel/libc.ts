import { getSystemErrorMessage, getSystemErrorName } from 'node:util';
import koffi from 'koffi';

/** The C library this process is linked with (`dlopen(NULL)`), whichever it is. */
export const libc = koffi.load(null);

/**
 * A failed system call, shaped like Node's own: `code` is the errno's name, `errno` negative.
 * It is a cause for a KilnError, not one itself.
 */
export interface SystemError extends Error {
  readonly code: string;
  readonly errno: number;
  readonly syscall: string;
}

/** Makes the error for `errno` (positive, as the C library has it) of `syscall`. */
export function systemError(syscall: string, errno: number, detail?: string): SystemError {
  const code = getSystemErrorName(-errno);
  const about = detail === undefined ? '' : ` '${detail}'`;
  return Object.assign(new Error(`${code}: ${getSystemErrorMessage(-errno)}, ${syscall}${about}`), {
    code,
    errno: -errno,
    syscall,
  });
}

/**
 * Passes on the result of a call that returns -1 for failure, else throws a {@link SystemError}
 * with this thread's errno: nothing else may run between the call and this.
 */
export function checked(result: number, syscall: string, detail?: string): number {
  if (result >= 0) return result;
  throw systemError(syscall, koffi.errno(), detail);
}

/** Whether `error` is a failed system call with one of these errno names. */
export function hasErrno(error: unknown, ...codes: readonly string[]): boolean {
  return error instanceof Error && codes.includes((error as Partial<SystemError>).code ?? '');
}

/**
 * A NUL-terminated copy of a file name for C. Names are bytes (invalid UTF-8 included); a name
 * with a NUL inside would silently be another name, so it is refused with a TypeError.
 */
export function cString(name: Buffer | string): Buffer {
  const bytes = typeof name === 'string' ? Buffer.from(name) : name;
  if (bytes.includes(0)) throw new TypeError('a file name holds a NUL byte');
  const terminated = Buffer.allocUnsafe(bytes.length + 1);
  bytes.copy(terminated);
  terminated[bytes.length] = 0;
  return terminated;
}
