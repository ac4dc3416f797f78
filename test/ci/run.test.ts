/** `kiln run --ci`: what a command writes is read for the service, and is what it wrote all the same. */
import { execFileSync } from 'node:child_process';
import { existsSync, mkdirSync, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import anyTest, { type TestFn } from 'ava';
import { type BusyboxState, busyboxState, IMAGE } from '../support/busybox-state.ts';

const test = anyTest as TestFn<BusyboxState>;

test.before(async (t) => {
  t.context = await busyboxState();
});
test.after.always(async ({ context }) => {
  await context[Symbol.asyncDispose]();
});

const SCRIPT = `read word; echo "got $word"
echo "src/main.c:12:5: error: too few arguments" >&2
echo "src/main.c:9:1: warning: unused"
echo "PASS: one"; echo "FAIL: two"
echo own > junit.xml; echo own > made.txt
exit 2`;

test('a command that fails annotates its errors, and its results have junit.xml and code quality', async (t) => {
  const { kiln, beside } = t.context;
  const out = join(beside, 'out');
  mkdirSync(out);
  const words = ['run', '-r', IMAGE, '--workdir', '/tmp', '--artifact', '*.*', '--resultdir', out];
  const ran = await kiln([...words, '--ci', 'github', '--', 'sh', '-c', SCRIPT], {
    stdin: 'pipe',
    input: 'hello\n',
  });
  t.is(ran.exitCode, 2, String(ran.stderr));
  const [first, ...rest] = String(ran.stdout).split('\n');
  t.is(first, 'got hello');
  t.regex(String(ran.stderr), /^src\/main\.c:12:5: error: too few arguments$/m);
  t.true(rest.includes('::error title=sh%3A command::it exited with 2'));
  t.true(rest.includes('::error file=src/main.c,line=12,col=5::too few arguments'));
  t.true(rest.includes('::warning file=src/main.c,line=9,col=1::unused'));
  t.true(rest.some((line) => /^::error title=%25check::two failed$/.test(line)));

  const xml = readFileSync(join(out, 'junit.xml'), 'utf8');
  const schema = join(import.meta.dirname, '../report/junit.xsd');
  t.notThrows(() =>
    execFileSync('xmllint', ['--noout', '--schema', schema, '-'], { input: xml, stdio: 'pipe' }),
  );
  t.regex(xml, /<testcase classname="sh" name="command" [^>]*><failure message="it exited with 2"/);
  t.regex(xml, /<testcase classname="sh\.check" name="two"><failure/);
  const quality = JSON.parse(readFileSync(join(out, 'gl-code-quality-report.json'), 'utf8'));
  t.deepEqual(
    quality.map(({ location }: { location: { path: string } }) => location.path),
    ['src/main.c', 'src/main.c'],
  );
  // To kiln itself a command that fails is no failure.
  t.is(JSON.parse(readFileSync(join(out, 'result.json'), 'utf8')).failure, null);
  t.true(existsSync(join(out, 'made.txt')));
});

test('a command that succeeds has annotations of its warnings only, and needs no folder', async (t) => {
  const { kiln, env } = t.context;
  const script = 'echo "a.c:1: warning: odd"; printf unfinished';
  const words = ['run', '-r', IMAGE, '--ci', 'auto', '--', 'sh', '-c', script];
  const plain = await kiln(words);
  t.is(plain.stdout, 'a.c:1: warning: odd\nunfinished');
  const told = await kiln(words, { env: { ...env, GITHUB_ACTIONS: 'true' } });
  t.is(told.exitCode, 0, String(told.stderr));
  t.is(told.stdout, 'a.c:1: warning: odd\nunfinished\n::warning file=a.c,line=1::odd');
});

test('--ci is refused with --tty, and what it writes does not leave the machine', async (t) => {
  const { kiln } = t.context;
  const tty = await kiln(['run', '-r', IMAGE, '--ci', 'gitlab', '--tty', '--', 'true']);
  t.is(tty.exitCode, 125);
  t.regex(String(tty.stderr), /leave --tty out/);
  const far = await kiln(['--host', 'ssh://nobody@host.invalid', 'run', '--ci', 'gitlab', 'true']);
  t.regex(String(far.stderr), /--ci does not go to another machine/);
});

test('on GitLab a run writes junit.xml and code quality, and prints nothing more', async (t) => {
  const { kiln, beside } = t.context;
  const out = join(beside, 'gitlab');
  const words = ['run', '-r', IMAGE, '--ci', 'gitlab', '--resultdir', out, '--'];
  const ran = await kiln([...words, 'sh', '-c', 'echo "a.c:1: error: odd"']);
  t.is(ran.stdout, 'a.c:1: error: odd');
  t.deepEqual(readdirSync(out).sort(), [
    'gl-code-quality-report.json',
    'junit.xml',
    'report.html',
    'result.json',
  ]);
});
