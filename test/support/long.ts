import test, { type Implementation, type TestFn } from 'ava';

/** Whether `scripts/test --long` runs. */
export const isLong = process.env.KILN_TEST_LONG === '1';

/**
 * A test that takes too long to be run for every change: `scripts/test --long` runs these as well.
 * Each has a shorter relation beside it that always runs.
 */
export function long<Context>(title: string, implementation: Implementation<[], Context>): void {
  if (isLong) (test as TestFn<Context>).serial(title, implementation);
}
