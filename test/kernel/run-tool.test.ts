/** Tools of the host, run for what they print. */
import test from 'ava';
import { runTool, type ToolOptions } from '../../src/host/process/child-process.ts';
import { PATIENCE } from '../support/busybox-state.ts';

const sh = (script: string, options?: ToolOptions) => runTool('sh', ['-c', script], options);

test('a tool gets its input, and its output comes without the last newline', async (t) => {
  t.deepEqual(await sh('cat; echo; echo warning >&2', { input: 'a\nb' }), {
    stdout: 'a\nb',
    stderr: 'warning',
  });
  // Nobody waits for a terminal, or for somebody who reads.
  t.is((await sh('cat')).stdout, '');
  t.is((await sh('exec true', { input: 'x'.repeat(1 << 22) })).failure, undefined);
});

test('a failed tool says why', async (t) => {
  t.is((await sh('echo out; echo no such thing >&2; exit 3')).failure, 'no such thing');
  t.is((await sh('echo out; exit 3')).failure, 'exit status 3');
  t.is((await sh('kill -9 $$')).failure, 'ended by SIGKILL');
  t.is((await runTool('no-such-tool', [])).failure, 'no-such-tool is not installed');
  t.regex((await sh('head -c 20000000 /dev/zero')).failure ?? '', /maxBuffer/);
});

test('a tool that takes too long is killed', async (t) => {
  const start = performance.now();
  const { stdout, failure } = await sh('echo $$; exec sleep 60', { timeout: 2000 * PATIENCE });
  t.is(failure, `no answer within ${2 * PATIENCE} s`);
  t.true(performance.now() - start < 30_000 * PATIENCE);
  t.throws(() => process.kill(Number(stdout), 0), { code: 'ESRCH' });
});

test('a tool gets the folder and the environment it is given', async (t) => {
  const { stdout } = await sh('pwd; env', { cwd: '/', env: { PATH: '/bin:/usr/bin', A: 'b' } });
  t.deepEqual(stdout.split('\n').slice(0, 1), ['/']);
  t.true(stdout.includes('\nA=b') && !stdout.includes('KILN_'));
});
