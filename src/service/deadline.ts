import { KilnError } from '../errors.ts';
import { deferred } from '../promise.ts';

/** The outcome of `work`, or E_UNIT_TIMEOUT after so many milliseconds. */
export async function within<Result>(work: Promise<Result>, milliseconds: number): Promise<Result> {
  if (milliseconds === Number.POSITIVE_INFINITY) return await work;
  const over = deferred<never>();
  const timer = setTimeout(() => {
    over.reject(outOfTime(milliseconds));
  }, milliseconds);
  try {
    // What comes after the time is over is nobody's any more: a race listens to all.
    return await Promise.race([work, over.promise]);
  } finally {
    clearTimeout(timer);
  }
}

/** The error of what took longer than so many milliseconds: E_UNIT_TIMEOUT. */
export function outOfTime(milliseconds: number): KilnError {
  return new KilnError('E_UNIT_TIMEOUT', `out of time after ${milliseconds / 1000} s`);
}
