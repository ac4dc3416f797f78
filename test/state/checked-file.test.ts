import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test from 'ava';
import {
  readRecord,
  readRecordOrSetAside,
  withFields,
  writeRecord,
} from '../../src/host/state/checked-file.ts';
import { DamagedFileError } from '../../src/host/state/damage.ts';

const folder = mkdtempSync(join(tmpdir(), 'kiln-checked-'));
test.after.always(() => rmSync(folder, { recursive: true }));

const RECORD = {
  name: 'ü "quoted"',
  list: [1, { a: null }],
  nested: { b: true },
};

/** Each file with one bit of one byte changed, and each beginning of it. */
function* damaged(bytes: Buffer): Generator<Buffer> {
  for (let at = 0; at < bytes.length; at++) {
    yield bytes.subarray(0, at);
    for (const bit of [1, 0x20, 0x80]) {
      const other = Buffer.from(bytes);
      other[at] = (other[at] ?? 0) ^ bit;
      yield other;
    }
  }
}

test('a record with any changed byte is damaged', (t) => {
  const path = join(folder, 'record.json');
  writeRecord(path, RECORD);
  t.deepEqual(readRecord(path), RECORD);
  t.deepEqual(Object.keys(JSON.parse(readFileSync(path, 'utf8'))), [
    ...Object.keys(RECORD),
    'check',
  ]);
  for (const bytes of damaged(readFileSync(path))) {
    writeFileSync(path, bytes);
    let found: unknown;
    try {
      // In the name of the checksum itself a change loses no content.
      const { name, list, nested } = readRecord(path) as typeof RECORD;
      found = { name, list, nested };
    } catch (error) {
      t.true(error instanceof DamagedFileError, String(error));
      continue;
    }
    t.deepEqual(found, RECORD, bytes.toString());
  }
});

test('a file without a checksum is read if its content has the right form', (t) => {
  const path = join(folder, 'old.json');
  writeFileSync(path, '{"image":"x"}\n');
  t.deepEqual(readRecord(path, withFields<{ image: string }>({ image: 'string' })), { image: 'x' });
  for (const text of ['', 'null', '7', '[', '{"image":7}', '{}']) {
    writeFileSync(path, text);
    const read = () => readRecord(path, withFields<{ image: string }>({ image: 'string' }));
    t.throws(read, { instanceOf: DamagedFileError, code: 'E_DAMAGED' }, text);
  }
  t.is(readRecord(join(folder, 'none.json')), undefined);
});

test('a damaged record is set aside once, and a folder in its place as well', (t) => {
  const path = join(folder, 'aside/record.json');
  mkdirSync(join(path, 'inner'), { recursive: true });
  t.is(readRecordOrSetAside(path), undefined);
  writeRecord(path, { a: 1 });
  t.deepEqual(readRecord(path), { a: 1 });
  t.deepEqual(readdirSync(join(folder, 'aside')).sort(), ['record.json', 'record.json.damaged']);
  rmSync(path);
  mkdirSync(join(path, 'other'), { recursive: true });
  writeRecord(path, { a: 2 });
  t.deepEqual(readRecord(path), { a: 2 });
  t.deepEqual(readdirSync(join(folder, 'aside/record.json.damaged')), ['other']);
});
