import test, { type Implementation } from 'ava';

/**
 * A test that takes too long to be run for every change: `scripts/test --long` runs these as well.
 * Each has a shorter relation beside it that always runs.
 */
export const long: (title: string, implementation: Implementation<[]>) => void =
  process.env.KILN_TEST_LONG === '1' ? test.serial : () => undefined;
