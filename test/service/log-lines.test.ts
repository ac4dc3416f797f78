/** Lines of a log, from what comes in pieces, and the files that they are in. */
import { mkdirSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test from 'ava';
import { LineSplitter, LogFile } from '../../src/service/log-file.ts';

test('a character that comes in two pieces is one, and a part of one at the end is kept', (t) => {
  const lines: string[] = [];
  const splitter = new LineSplitter((line) => lines.push(line));
  const bytes = Buffer.from('one\r\nzwei€');
  for (const byte of bytes.subarray(0, -1)) splitter.push(Buffer.of(byte));
  splitter.end();
  t.deepEqual(lines, ['one', 'zwei\ufffd']);
});

test('a log whose files cannot be renamed goes on, and opens no more of them', (t) => {
  const folder = mkdtempSync(join(tmpdir(), 'kiln-log-'));
  t.teardown(() => rmSync(folder, { recursive: true }));
  const path = join(folder, 'service.log');
  using log = new LogFile(path);
  writeFileSync(`${path}.3`, '');
  mkdirSync(`${path}.4/x`, { recursive: true });
  const open = () => readdirSync('/proc/self/fd').length;
  const before = open();
  for (let i = 0; i < 20; i++) t.throws(() => log.rotate(), { code: 'EISDIR' });
  t.is(open(), before);
});
