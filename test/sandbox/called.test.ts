import test from 'ava';
import { onlyOne } from '../../src/host/state/long-lived.ts';

test('a prefix of an id means the only id that begins so', (t) => {
  const ids = ['3fa9', '3fb0', '7c11'].map((id) => ({ id }));
  const called = (word: string) => onlyOne('sandbox', word, ids).id;
  t.is(called('3fa'), '3fa9');
  t.is(called('7'), '7c11');
  const code = 'E_NO_SANDBOX';
  t.throws(() => called('3f'), { code, message: 'sandbox 3f: 2 ids begin so' });
  t.throws(() => called('ffff'), { code, message: 'there is no sandbox ffff' });
  t.throws(() => called(''), { code, message: 'there is no sandbox ""' });
  t.throws(() => onlyOne('job', 'nightly', []), {
    code: 'E_NO_JOB',
    message: 'there is no job nightly',
  });
});
