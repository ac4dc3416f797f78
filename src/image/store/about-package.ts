import { KilnError } from '../../errors.ts';
import type { LockedPackage } from '../../packages/repository/lock/lock.ts';

/** The name of a locked package in messages. */
export function nameOf({ nevra, repository }: LockedPackage): string {
  return `${nevra} of repository ${repository}`;
}

/**
 * Names the package in an error about its file, because a path in the cache does not tell which package it is.
 * Other errors are returned as they are.
 */
export function aboutPackages(
  error: unknown,
  packages: readonly { readonly locked: LockedPackage; readonly file: string }[],
): unknown {
  if (!(error instanceof KilnError)) return error;
  const named = packages.filter(({ file }) => error.message.includes(file));
  if (named.length === 0) return error;
  const message = named.reduce(
    (text, { locked, file }) => text.replaceAll(file, nameOf(locked)),
    error.message,
  );
  return new KilnError(error.code, message, {
    cause: error.cause,
    hint: error.hint,
    details: { ...error.details, files: named.map(({ file }) => file) },
  });
}

/** The results of work on package files; errors name the packages. */
export async function* namingPackages<Result>(
  results: AsyncIterable<Result>,
  packages: Parameters<typeof aboutPackages>[1],
): AsyncGenerator<Result, void, undefined> {
  try {
    yield* results;
  } catch (error) {
    throw aboutPackages(error, packages);
  }
}

/** Runs `act`; its errors name the package. */
export function naming(locked: LockedPackage, act: () => void): void {
  try {
    act();
  } catch (error) {
    if (!(error instanceof KilnError)) throw error;
    throw new KilnError(error.code, `${nameOf(locked)}: ${error.message}`, {
      cause: error,
      hint: error.hint,
    });
  }
}
