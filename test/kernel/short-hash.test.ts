import test from 'ava';
import { shortHash } from '../../src/host/process/short-hash.ts';

test('the hash is FNV-1a, with the values of RFC 9923', (t) => {
  t.is(shortHash(''), '811c9dc5');
  t.is(shortHash('a'), 'e40c292c');
  t.is(shortHash('foobar'), 'bf9cf968');
});
