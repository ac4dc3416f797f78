import { readFileSync } from 'node:fs';
import { constants } from 'node:os';
import { KilnError } from '../../errors.ts';

export class SyscallError extends KilnError {
  readonly errno: number;
  readonly call: string;
  readonly errnoName: string;

  constructor(call: string, errno: number, subject?: string) {
    const name = errnoName(errno);
    const on = subject === undefined ? '' : ` ${subject}`;
    super('E_SYSCALL', `${call}${on}: ${name}`, { details: { call, errno, name, subject } });
    this.errno = errno;
    this.call = call;
    this.errnoName = name;
  }
}

// Some errnos have two names; kiln never uses these.
const names = new Map<number, string>(
  Object.entries(constants.errno)
    .filter(([name]) => !['EWOULDBLOCK', 'EDEADLOCK', 'ENOTSUP'].includes(name))
    .map(([name, number]) => [number, name]),
);

export function errnoName(errno: number): string {
  return names.get(errno) ?? `errno ${errno}`;
}

export function hasErrno(error: unknown, ...names: readonly string[]): boolean {
  if (error instanceof SyscallError) return names.includes(error.errnoName);
  return error instanceof Error && names.includes((error as NodeJS.ErrnoException).code ?? '');
}

/** What `act` returns; undefined if it throws. */
export function attempt<Result>(act: () => Result): Result | undefined {
  try {
    return act();
  } catch {
    return undefined;
  }
}

/** What `act` returns; undefined if it fails with one of these errnos. @throws any other error */
export function unlessErrno<Result>(
  names: readonly string[],
  act: () => Result,
): Result | undefined {
  try {
    return act();
  } catch (error) {
    if (hasErrno(error, ...names)) return undefined;
    throw error;
  }
}

/** Whether `act` succeeds; false if it fails with one of these errnos. @throws any other error */
export function succeeds(names: readonly string[], act: () => void): boolean {
  const done = unlessErrno(names, () => {
    act();
    return true;
  });
  return done === true;
}

/** A small file, such as one of the kernel's; undefined if it cannot be read. */
export function readText(path: string, encoding: BufferEncoding = 'utf8'): string | undefined {
  return attempt(() => readFileSync(path, encoding));
}

/** A file name, as bytes or text, for C. @throws TypeError for a NUL inside: in C it would name another file */
export function cString(name: Buffer | string): Buffer | string {
  if (name.includes('\0')) throw new TypeError('a file name holds a NUL byte');
  if (typeof name === 'string') return name;
  const terminated = Buffer.allocUnsafe(name.length + 1);
  terminated.set(name);
  terminated[name.length] = 0;
  return terminated;
}
