import { cp, mkdir, mkdtemp, rm, symlink, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test from 'ava';
import { execa } from 'execa';
import { PATIENCE } from '../support/busybox-state.ts';

const top = join(import.meta.dirname, '../..');

/** What `scripts/test` does with a checkout that has these test files and nothing else to check. */
async function runIn(
  files: Readonly<Record<string, string>>,
  skips: Record<string, string> = {},
  env: Readonly<Record<string, string>> = {},
) {
  const checkout = await mkdtemp(join(tmpdir(), 'kiln-runner-'));
  try {
    const checks = ['types', 'lint', 'promises', 'dead', 'commits'];
    const scripts = Object.fromEntries(checks.map((name) => [`check:${name}`, 'true']));
    await mkdir(join(checkout, 'test'));
    await cp(join(top, 'scripts/testing'), join(checkout, 'scripts/testing'), { recursive: true });
    await cp(join(top, 'ava.config.js'), join(checkout, 'ava.config.js'));
    await symlink(join(top, 'node_modules'), join(checkout, 'node_modules'));
    await writeFile(join(checkout, 'scripts/build.ts'), '');
    await mkdir(join(checkout, 'fixtures/debian-rpms'), { recursive: true });
    await writeFile(join(checkout, 'fixtures/debian-rpms/main.ts'), '');
    await writeFile(
      join(checkout, 'package.json'),
      JSON.stringify({ type: 'module', private: true, scripts }),
    );
    await writeFile(join(checkout, 'test/skip-list.json'), JSON.stringify(skips));
    for (const [name, text] of Object.entries(files)) {
      await writeFile(join(checkout, 'test', name), `import test from 'ava';\n${text}\n`);
    }
    const result = await execa(process.execPath, ['scripts/testing/run.ts'], {
      cwd: checkout,
      reject: false,
      env: { NODE_ENV: undefined, ...env },
    });
    return {
      exitCode: result.exitCode,
      out: result.stdout,
      last: result.stdout.split('\n').at(-1),
    };
  } finally {
    await rm(checkout, { recursive: true, force: true });
  }
}

const passes = "test('passes', (t) => t.pass());";

// Written so that this file itself does not look like one that skips.
const skips = "test['skip']('later', (t) => t.pass());";

test('passing tests and a listed skip give status 0, and are counted in the last line', async (t) => {
  const files = { 'a.test.ts': passes + skips, 'b.test.ts': passes };
  const run = await runIn(files, { 'a › later': 'needs a machine with wings' });
  t.is(run.last, '2 passed, 0 failed', run.out);
  t.is(run.exitCode, 0);
  t.true(run.out.includes('skipped: a › later (needs a machine with wings)'), run.out);
  t.regex(run.out, /Slowest of 2 test files:\n +[\d.]+ s {2}test\/[ab]\.test\.ts/);
});

test('an error without a stack fails its test, and not the run', async (t) => {
  const throws = `test('throws', async () => {
      throw Object.assign(new Error('no such luck'), { stack: 'Error: no such luck', cause: undefined });
    });`;
  const run = await runIn({ 'throws.test.ts': throws + passes });
  t.regex(run.out, /^not ok \d+ - throws$[\s\S]*no such luck/m);
  t.is(run.last, '1 passed, 1 failed', run.out);
});

test('a run without any test fails', async (t) => {
  const run = await runIn({});
  t.regex(run.last ?? '', /^0 passed, [1-9]\d* failed$/, run.out);
  t.is(run.exitCode, 1);
});

test('every problem of a test run counts as a failure and is listed', async (t) => {
  const leaves = `import { spawn } from 'node:child_process';
    import { writeFileSync } from 'node:fs';
    test('leaves', (t) => {
      // Still there when the runner has waited long enough.
      spawn('sleep', ['240'], { detached: true, stdio: 'ignore' }).unref();
      writeFileSync(process.env.TMPDIR + '/forgotten', '');
      t.pass();
    });`;
  const run = await runIn({
    'fails.test.ts': "test('fails', (t) => t.is(1, 2, 'one is not two'));",
    'crashes.test.ts': "throw new Error('no such luck');",
    'empty.test.ts': 'export const ava = test;',
    'skips.test.ts': passes + skips,
    'leaves.test.ts': leaves,
  });
  for (const named of [
    /^not ok \d+ - fails › fails$/m,
    /one is not two/,
    /^not ok \d+ - Error: no such luck$/m,
    /^not ok \d+ - test\/crashes\.test\.ts exited with a non-zero exit code: 1$/m,
    /^not ok \d+ - No tests found in test\/empty\.test\.ts$/m,
    /skipped, but not on test\/skip-list\.json: skips › later/,
    /left behind: process \d+: sleep 240/,
    /left behind: temporary file .*forgotten/,
  ]) {
    t.regex(run.out, named);
  }
  t.is(run.last, '2 passed, 7 failed', run.out);
  t.is(run.exitCode, 1);
  process.kill(Number(/left behind: process (\d+): sleep 240/.exec(run.out)?.[1]));
});

test('a hanging test ends the run, and the report names it', async (t) => {
  const hangs = `import { spawn } from 'node:child_process';
    test('hangs', async (t) => {
      t.timeout(3600_000);
      spawn('sleep', ['4711']);
      process.on('SIGTERM', () => {});
      await new Promise((resolve) => setTimeout(resolve, 3600_000));
    });`;
  // Longer than ava takes to start them.
  const stall = 10 * PATIENCE;
  const run = await runIn(
    { 'hangs.test.ts': hangs, 'passes.test.ts': passes },
    {},
    { KILN_TEST_STALL: String(stall) },
  );
  t.regex(run.out, new RegExp(`no test has ended for ${stall} s; what ran then:\\n`));
  t.regex(run.out, /what ran then:\n.*\n* .*ava test\/hangs\.test\.ts/);
  t.regex(run.out, /\d+ S \S+ sleep 4711/);
  t.is(run.exitCode, 1);
  t.regex(run.last ?? '', /^1 passed, [1-9]\d* failed$/, run.out);
});
