/** Lines of a log, from what comes in pieces. */
import test from 'ava';
import { LineSplitter } from '../../src/service/log-file.ts';

test('a character in two pieces is one, and one that was cut at the end is not lost', (t) => {
  const lines: string[] = [];
  const splitter = new LineSplitter((line) => lines.push(line));
  const bytes = Buffer.from('one\r\nzwei€');
  for (const byte of bytes.subarray(0, -1)) splitter.push(Buffer.of(byte));
  splitter.end();
  t.deepEqual(lines, ['one', 'zwei\ufffd']);
});
