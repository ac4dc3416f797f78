import test from 'ava';
import { onlyOne } from '../../src/sandbox/domain/sandbox-record.ts';

test('a prefix of an id means the only id that begins so', (t) => {
  const called = (word: string) => onlyOne('sandbox', word, ['3fa9', '3fb0', '7c11'], (id) => id);
  t.is(called('3fa'), '3fa9');
  t.is(called('7'), '7c11');
  const code = 'E_NO_SANDBOX';
  t.throws(() => called('3f'), { code, message: 'sandbox 3f: 2 ids begin so' });
  t.throws(() => called('ffff'), { code, message: 'there is no sandbox ffff' });
  t.throws(() => called(''), { code, message: 'there is no sandbox ""' });
  t.throws(() => onlyOne('job', 'nightly', [], String), {
    code: 'E_NO_JOB',
    message: 'there is no job nightly',
  });
});
