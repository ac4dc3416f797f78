/** Calls whose failure is an answer. None of them waits for a promise. */
import { readFileSync } from 'node:fs';
import { hasErrno } from './libc.ts';

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

/** A small file, such as one of the kernel's; undefined if it cannot be read. */
export function readText(path: string, encoding: BufferEncoding = 'utf8'): string | undefined {
  return attempt(() => readFileSync(path, encoding));
}
