import { chmod, cp, mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test from 'ava';
import { execa } from 'execa';

const top = join(import.meta.dirname, '../..');

/** What `.ci/run` does in a checkout whose tests, and whose smoke of hosts, are these lines for sh. */
async function runWith(tests: string, hosts: string) {
  const checkout = await mkdtemp(join(tmpdir(), 'kiln-ci-'));
  try {
    await cp(join(top, '.ci'), join(checkout, '.ci'), { recursive: true });
    await mkdir(join(checkout, 'scripts'));
    for (const [name, lines] of Object.entries({ test: tests, 'test-hosts': hosts })) {
      const script = join(checkout, 'scripts', name);
      await writeFile(script, `#!/bin/sh\necho "$0 $*"\n${lines}\n`);
      await chmod(script, 0o755);
    }
    const { exitCode, stdout } = await execa(join(checkout, '.ci/run'), {
      reject: false,
      // This very test may run for a CI that has another time.
      env: { KILN_CI_MINUTES: undefined },
    });
    return { exitCode, stdout, last: stdout.split('\n').at(-1) };
  } finally {
    await rm(checkout, { recursive: true });
  }
}

test('the tests run, then the smoke of hosts, and the last line counts both', async (t) => {
  const good = await runWith('echo "12 passed, 0 failed"', 'echo "3 passed, 0 failed"');
  t.is(good.last, '15 passed, 0 failed');
  t.is(good.exitCode, 0);
  t.regex(good.stdout, /scripts\/test \n.*scripts\/test-hosts --smoke --minutes 24\n/s);
});

test('failures of either are in the last line and in the status', async (t) => {
  const fails = (count: number) => `echo "1 passed, ${count} failed"; exit 1`;
  for (const [tests, hosts, last] of [
    [fails(2), 'echo "3 passed, 0 failed"', '4 passed, 2 failed'],
    ['echo "3 passed, 0 failed"', fails(1), '4 passed, 1 failed'],
    [fails(2), fails(1), '2 passed, 3 failed'],
    ['echo "3 passed, 0 failed"; exit 1', 'echo "1 passed, 0 failed"', '4 passed, 1 failed'],
    ['echo "3 passed, 0 failed"', 'kill -9 $$', '3 passed, 1 failed'],
    ['echo it did not come far; exit 1', 'echo "1 passed, 0 failed"', '1 passed, 1 failed'],
  ] as const) {
    const run = await runWith(tests, hosts);
    t.is(run.last, last, run.stdout);
    t.is(run.exitCode, 1, run.stdout);
  }
});

test('the end of the log repeats the tests that failed', async (t) => {
  const first = 'echo "ok 1 - a"; echo "not ok 2 - b"; echo "1 passed, 1 failed"; exit 1';
  const { stdout } = await runWith(first, 'echo "not ok 1 - c"; echo "0 passed, 1 failed"; exit 1');
  t.deepEqual(stdout.split('\n').slice(-3), ['not ok 2 - b', 'not ok 1 - c', '1 passed, 2 failed']);
});
