import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, mkdtempSync, realpathSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test from 'ava';
import { statePaths } from '../../src/host/state/paths.ts';
import { until } from '../support/eventually.ts';

test('a unix socket in the run folder fits in sun_path, whatever KILN_STATE is', (t) => {
  const paths = statePaths({ KILN_STATE: `/very/${'long/'.repeat(60)}state` });
  t.true(`${paths.run}/parked/00000000-0000-0000-0000-000000000000/init.sock`.length < 108);
});

test('two state folders have two run folders', (t) => {
  t.not(statePaths({ KILN_STATE: '/a' }).run, statePaths({ KILN_STATE: '/b' }).run);
});

test('a state folder that is made meanwhile is not taken for a dangling link', async (t) => {
  const above = realpathSync(mkdtempSync(join(tmpdir(), 'kiln-paths-')));
  const state = join(above, 'state');
  const args = ['-e', 'while (1) { mkdir $ARGV[0]; rmdir $ARGV[0] }', state];
  const maker = spawn('perl', args, { stdio: 'ignore' });
  t.teardown(async () => {
    maker.kill('SIGKILL');
    await once(maker, 'exit');
    rmSync(above, { recursive: true });
  });
  t.true(await until(() => existsSync(state)));
  const roots = Array.from({ length: 30_000 }, () => statePaths({ KILN_STATE: state }).root);
  t.deepEqual([...new Set(roots)], [state]);
});
