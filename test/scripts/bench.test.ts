import { join } from 'node:path';
import test from 'ava';
import { execa } from 'execa';

const MAIN = join(import.meta.dirname, '../../scripts/benchmark/main.ts');

test('an unknown row is refused in one line, which names the rows that exist', async (t) => {
  const { stdout } = await execa(process.execPath, [MAIN, '--list']);
  const rows = stdout.split('\n');
  t.true(rows.length > 10);
  const options = ['--quick', '--only', `${rows[0]},no-such-row`];
  const refused = await execa(process.execPath, [MAIN, ...options], { reject: false });
  t.is(refused.exitCode, 2);
  t.is(refused.stdout, '');
  t.is(refused.stderr, `--only: no row is called no-such-row; the rows: ${rows.join(', ')}`);
});
