import { availableParallelism } from 'node:os';
import { IN_MACHINES } from './scripts/testing/machines.ts';
import { outOfTurn } from './scripts/testing/turns.ts';

/** Tests that measure times; scripts/test runs them after the others (KILN_TEST_PART). */
const ALONE = 'test/**/*.alone.test.ts';

/**
 * Those that take longest, by turns: one that needs the processor, one that mostly waits. They are started before all
 * others, so that none goes on alone at the end. `scripts/test` prints the times.
 */
const LONGEST = [
  'service/servers',
  'mock/as-mock',
  'crash/crash',
  'docs/commands',
  'load/load',
  'users/build',
  'e2e/silent-libvirtd',
  'users/images',
  'sandbox/parked',
  'state/damage',
  'remote/remote',
  'mock/roots',
  'detached/jobs',
  'users/attempts',
  'e2e/run',
  'image/store',
  'service/silent',
  'build/core/build',
  'farm/round',
  'image/edge-packages',
  'service/life',
  'build/core/failures',
  'e2e/daemon',
  'mock/builds',
  'repository/local',
  'farm/step',
  'users/recipe',
  'image/debian-build',
  'mock/koji-copr',
  'build/chain',
  'build/recipe/sandbox',
  'doors/doors',
  'e2e/workers',
  'build/recipe/script',
  'service/boot',
  'build/core/faults',
  'caller/umask',
  'users/koji-copr',
  'scripts/run',
  'image/scriptlets',
  'libvirt/embedded',
  'image/trust',
  'cli/reference',
  'build/recipe/examples',
  'e2e/faults',
  'repository/processes',
  'rpm/keyring',
  'api/users',
  'scripts/package',
  'e2e/mistakes',
];

/** The place of a file in the order of starts. */
function place(file) {
  const at = LONGEST.findIndex((name) => file.endsWith(`/test/${name}.test.ts`));
  return at === -1 ? LONGEST.length : at;
}

/** scripts/test says whose turn it is. */
const others = outOfTurn(process.env.KILN_TEST_TURN).map((name) => `!test/${name}.test.ts`);

const files = {
  together: ['test/**/*.test.ts', `!${ALONE}`, ...others],
  alone: [ALONE],
  machines: Object.keys(IN_MACHINES).map((name) => `test/${name}.test.ts`),
};
const part = process.env.KILN_TEST_PART;
const notThere = Object.values(IN_MACHINES).flatMap((titles) => Object.keys(titles));

export default {
  extensions: ['ts'],
  files: files[part] ?? ['test/**/*.test.ts'],
  match: part === 'machines' ? notThere.map((title) => `!${title}`) : [],
  // Other processors have other files.
  nodeArguments: ['--single-threaded-gc', '--require', './scripts/testing/compile-cache.cjs'],
  require: ['./scripts/testing/test-file.ts'],
  // As long as nothing ends.
  timeout: `${5 * Number(process.env.KILN_TEST_PATIENCE || 1)}m`,
  // A file waits for two thirds of its time, for what it tests or for the disk.
  concurrency:
    part === 'alone' || part === 'machines' ? 1 : Math.min(3 * availableParallelism(), 12),
  sortTestFiles: (a, b) => place(a) - place(b) || a.localeCompare(b),
  workerThreads: false,
};
