export default {
  extensions: ['ts'],
  files: ['test/**/*.test.ts'],
  require: ['./scripts/testing/test-file.ts'],
  timeout: '5m',
  // Two cores: more files at once only make each other's time-outs fail.
  concurrency: 2,
  workerThreads: false,
};
