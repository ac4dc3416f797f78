/** A machine in which a command runs: files out of it, and its end. */
import { mkdir, readFile, stat } from 'node:fs/promises';
import { join } from 'node:path';
import anyTest from 'ava';
import { type BusyboxState, busyboxState, IMAGE, PATIENCE } from '../support/busybox-state.ts';

const test = anyTest.serial;

let state: BusyboxState;
test.before(async () => {
  state = await busyboxState();
});
test.after.always(() => state[Symbol.asyncDispose]());

const SCRIPT = `mkdir -p /tmp/d/e; echo one > /tmp/d/one; chmod() { busybox chmod "$@"; }; chmod 750 /tmp/d/e
head -c 3000000 /dev/zero > /tmp/d/e/big; (trap 'echo child >> /tmp/told; exit' TERM; while :; do sleep 0.1; done) &
trap 'wait; cat /tmp/told; exit 7' TERM; echo ready; while :; do sleep 0.1; done`;

test('files are copied out of a machine whose command runs, and it is asked to end', async (t) => {
  t.timeout(600_000 * PATIENCE);
  const vm = ['--isolation', 'vm', '--allow-missing', 'kvm', '-r', IMAGE, '--name', 'work'];
  const running = state.kiln(['run', ...vm, '--', 'sh', '-c', SCRIPT], {
    timeout: 300_000 * PATIENCE,
  });
  await new Promise<void>((resolve, reject) => {
    running.stdout?.on('data', (text) => String(text).includes('ready') && resolve());
    running.then(({ stderr }) => reject(new Error(String(stderr))));
  });
  const out = join(state.beside, 'out');
  await mkdir(out);
  const copied = await state.kiln(['cp', 'work:/tmp/d', out]);
  t.is(copied.exitCode, 0, String(copied.stderr));
  t.is(await readFile(join(out, 'd/one'), 'utf8'), 'one\n');
  t.is((await stat(join(out, 'd/e/big'))).size, 3_000_000);
  t.is((await stat(join(out, 'd/e'))).mode & 0o777, 0o750);
  const missing = await state.kiln(['cp', 'work:/tmp/nothing', out]);
  t.is(missing.exitCode, 125);

  const stopped = await state.kiln(['stop', '--time', '60s', 'work']);
  t.is(stopped.exitCode, 0, String(stopped.stderr));
  t.regex(String(stopped.stderr), /sandbox work ended/);
  const { exitCode, stdout, stderr } = await running;
  t.is(exitCode, 7, String(stderr));
  t.is(String(stdout), 'ready\nchild');
  t.is(String((await state.kiln(['ps', '-q'])).stdout), '');
});
