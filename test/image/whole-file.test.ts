import {
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import test from 'ava';
import type { KilnError } from '../../src/errors.ts';
import { ownPath } from '../../src/host/files/held.ts';
import { writeWhole } from '../../src/image/archive/export.ts';
import { deferred } from '../../src/promise.ts';

const folder = mkdtempSync(join(tmpdir(), 'kiln-whole-'));
const output = ownPath(join(folder, 'out.tar'));
const part = `${output}.part`;

test.afterEach.always(() => {
  for (const name of readdirSync(folder)) rmSync(join(folder, name));
});
test.after.always(() => rmSync(folder, { recursive: true, force: true }));

const write = (text: string) =>
  writeWhole(output, 0o600, (file) => pipeline(Readable.from([text]), file));

test.serial('a second writer is refused, and the first one’s file is complete', async (t) => {
  const gate = deferred<void>();
  const begun = deferred<void>();
  const first = writeWhole(output, 0o640, async (file) => {
    file.write('begun, ');
    begun.resolve();
    await gate.promise;
    await pipeline(Readable.from(['and ended']), file);
    return 'done';
  });
  await begun.promise;
  const error = await t.throwsAsync<KilnError>(write('other'));
  t.is(error?.code, 'E_EXPORT');
  t.regex(error?.message ?? '', /out\.tar\.part is being written by another process/);
  t.deepEqual(readdirSync(folder), ['out.tar.part']);
  gate.resolve();
  t.is(await first, 'done');
  t.is(readFileSync(output, 'utf8'), 'begun, and ended');
  t.is(statSync(output).mode & 0o777, 0o640);
  t.deepEqual(readdirSync(folder), ['out.tar']);
});

test.serial('a killed writer’s partial file and a planted link are not written into', async (t) => {
  writeFileSync(part, 'a half');
  await write('whole');
  t.is(readFileSync(output, 'utf8'), 'whole');
  const other = join(folder, 'other');
  writeFileSync(other, 'of another');
  symlinkSync(other, part);
  await write('again');
  t.is(readFileSync(output, 'utf8'), 'again');
  t.is(readFileSync(other, 'utf8'), 'of another');
  t.deepEqual(readdirSync(folder).sort(), ['other', 'out.tar']);
});

test.serial('a failed write leaves the file that was there', async (t) => {
  writeFileSync(output, 'before');
  const error = await t.throwsAsync<KilnError>(
    writeWhole(output, 0o600, () => Promise.reject(new Error('no more'))),
  );
  t.is(error?.code, 'E_EXPORT');
  t.like(error?.cause, { message: 'no more' });
  t.is(readFileSync(output, 'utf8'), 'before');
  t.deepEqual(readdirSync(folder), ['out.tar']);
});
