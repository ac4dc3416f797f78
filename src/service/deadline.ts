import { KilnError } from '../errors.ts';

/** The outcome of `work`, or E_UNIT_TIMEOUT after so many milliseconds. */
export async function within<Result>(work: Promise<Result>, milliseconds: number): Promise<Result> {
  if (milliseconds === Number.POSITIVE_INFINITY) return await work;
  let timer: NodeJS.Timeout | undefined;
  const over = new Promise<never>((_, reject) => {
    timer = setTimeout(
      () => reject(new KilnError('E_UNIT_TIMEOUT', `out of time after ${milliseconds / 1000} s`)),
      milliseconds,
    );
  });
  // What comes after the time is over is nobody's any more.
  work.catch(() => undefined);
  try {
    return await Promise.race([work, over]);
  } finally {
    clearTimeout(timer);
  }
}
