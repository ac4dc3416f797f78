/** Tests that measure times; scripts/test runs them after the others (KILN_TEST_PART). */
const ALONE = 'test/**/*.alone.test.ts';

const files = {
  together: ['test/**/*.test.ts', `!${ALONE}`],
  alone: [ALONE],
};

export default {
  extensions: ['ts'],
  files: files[process.env.KILN_TEST_PART] ?? ['test/**/*.test.ts'],
  require: ['./scripts/testing/test-file.ts'],
  timeout: '5m',
  // Two cores: more files at once only make each other's time-outs fail.
  concurrency: process.env.KILN_TEST_PART === 'alone' ? 1 : 2,
  workerThreads: false,
};
