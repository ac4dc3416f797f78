import test from 'ava';
import { contentDifference } from '../../src/jobs/verify/compare.ts';

test('two files are compared by lines of text, words of programs, or the first byte', (t) => {
  const text = (...lines: string[]) => Buffer.from(`${lines.join('\n')}\n`);
  t.deepEqual(contentDifference(text('a', 'b', 'c'), text('a', 'x', 'c')), ['-b', '+x']);
  const program = (...parts: string[]) => Buffer.from(`\x7fELF\0${parts.join('\0')}\0`);
  t.deepEqual(
    contentDifference(program('same', '/builddir/one'), program('same', '/builddir/two')),
    ['-/builddir/one', '+/builddir/two'],
  );
  t.deepEqual(contentDifference(Buffer.from('\0\x01\x02'), Buffer.from('\0\x01\x03')), [
    'the first byte that differs is 2, of 3 and 3',
  ]);
  t.is(contentDifference(text('a'.repeat(500)), text('b'))[0]?.length, 162);
  const many = Array.from({ length: 10 }, (_, at) => String(at));
  t.is(contentDifference(text(...many), text('x')).length, 4);
});
