import { join } from 'node:path';
import test from 'ava';
import { execa } from 'execa';
import { PATIENCE } from '../support/busybox-state.ts';

const FUZZ = join(import.meta.dirname, '../../scripts/fuzzing/main.ts');

test('no mutated package crashes, hangs or escapes, and many reach their payload', async (t) => {
  t.timeout(180_000 * PATIENCE);
  const first = String(Math.floor(Math.random() * 2 ** 30));
  const { exitCode, stdout } = await execa(
    process.execPath,
    [FUZZ, '--count', '1500', '--first', first],
    { reject: false },
  );
  t.is(exitCode, 0, stdout);
  const count = (stage: string) =>
    Number(new RegExp(`^ +${stage} +(\\d+)`, 'm').exec(stdout)?.[1] ?? 0);
  t.regex(stdout, /^1500 mutants in \d+ s, 750 of them resealed$/m);
  // A fifth of them, give or take: each run has other seeds.
  t.true(count('archive') + count('whole') > 200, stdout);
  t.true(count('digests') > 100, stdout);
});
