import { fc, testProp } from '@fast-check/ava';
import test from 'ava';
import { decodeName, encodeName, showName } from '../../src/packages/rpm/filename.ts';

/** Bytes of which many begin or continue a UTF-8 sequence, in and out of place. */
const nearlyUtf8 = fc
  .array(
    fc.oneof(
      fc.constantFrom(0x00, 0x41, 0x7f, 0x80, 0xbf, 0xc0, 0xc3, 0xa4, 0xe2, 0x82, 0xac),
      fc.constantFrom(0xed, 0xa0, 0xb0, 0xef, 0xbb, 0xf0, 0x9f, 0x98, 0x80, 0xf4, 0x90, 0xff),
    ),
    { maxLength: 12 },
  )
  .map((bytes) => Buffer.from(bytes));

testProp('any bytes survive as a name, also through JSON', [nearlyUtf8], (t, bytes) => {
  const text = JSON.parse(JSON.stringify(decodeName(bytes))) as string;
  t.is(encodeName(text).toString('hex'), bytes.toString('hex'));
});

testProp('different bytes give different names', [nearlyUtf8, nearlyUtf8], (t, a, b) => {
  t.is(decodeName(a) === decodeName(b), a.equals(b));
});

test('a name that is UTF-8 is its own text', (t) => {
  t.is(decodeName(Buffer.from('für €')), 'für €');
});

test('a name that is shown cannot drive a terminal', (t) => {
  t.is(showName(decodeName(Buffer.from('a\u001b[31m\n\u00ff', 'latin1'))), 'a\\x1b[31m\\x0a\\xff');
});
