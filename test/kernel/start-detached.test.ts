import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import test from 'ava';
import { startDetached } from '../../src/host/process/child-process.ts';
import { PATIENCE } from '../support/busybox-state.ts';

test('a detached program has its own session, signals and stdio', async (t) => {
  const directory = await mkdtemp(join(tmpdir(), 'kiln-test-'));
  t.teardown(() => rm(directory, { recursive: true, force: true }));
  const [half, whole] = [join(directory, 'half'), join(directory, 'whole')];
  process.env.KILN_SPAWN_TEST = 'passed on';
  const script = `links=$(readlink /proc/$$/fd/0 /proc/$$/fd/1 /proc/$$/fd/2)
    { grep SigIgn /proc/$$/status; cut -d' ' -f1,6 /proc/$$/stat
    echo "$links"; echo "$KILN_SPAWN_TEST $1"; } > ${half}
    mv ${half} ${whole}`;
  startDetached(['/bin/sh', '-c', script, 'sh', 'an argument']);
  let said = '';
  for (let i = 0; i < 1000 * PATIENCE && said === ''; i++) {
    await sleep(10);
    said = await readFile(whole, 'utf8').catch(() => '');
  }
  const [ignored, ids = '', ...rest] = said.trim().split('\n');
  t.is(ignored, 'SigIgn:\t0000000000000000');
  const [pid, session] = ids.split(' ');
  t.is(session, pid);
  const nothing = Array.from({ length: 3 }, () => '/dev/null');
  t.deepEqual(rest, [...nothing, 'passed on an argument']);
});

test('a missing program does not end the process that starts it', async (t) => {
  startDetached(['/nonexistent']);
  await sleep(50);
  t.pass();
});
