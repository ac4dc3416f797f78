/**
 * Pax extended headers (pax(1), POSIX.1-2001) as bytes. tar-stream has them as UTF-8 strings only,
 * which neither file names nor the values of extended attributes need to be.
 */

/** Bytes of a tar block. */
export const BLOCK = 512;

/** Where GNU tar, star and podman keep extended attributes. */
export const XATTR_PREFIX = 'SCHILY.xattr.';

export type PaxRecords = ReadonlyMap<string, Buffer>;

/** The blocks of an extended header that is for the entry after it. */
export function encodePaxHeader(records: PaxRecords): Buffer {
  const body = Buffer.concat([...records].map(([key, value]) => encodeRecord(key, value)));
  const header = Buffer.alloc(BLOCK);
  header.write('PaxHeader', 0);
  header.write('0000644\0', 100);
  header.write('0000000\0', 108);
  header.write('0000000\0', 116);
  header.write(`${body.length.toString(8).padStart(11, '0')}\0`, 124);
  header.write('00000000000\0', 136);
  header.write('x', 156);
  header.write('ustar\x0000', 257, 'latin1');
  header.write('        ', 148);
  const sum = header.reduce((total, byte) => total + byte, 0);
  header.write(`${sum.toString(8).padStart(6, '0')}\0 `, 148);
  return Buffer.concat([header, body, Buffer.alloc(padding(body.length))]);
}

/** `LENGTH KEY=VALUE\n`, where the length counts itself. */
function encodeRecord(key: string, value: Buffer): Buffer {
  const rest = Buffer.concat([Buffer.from(` ${key}=`), value, Buffer.from('\n')]);
  let length = rest.length;
  while (String(length).length + rest.length !== length) {
    length = String(length).length + rest.length;
  }
  return Buffer.concat([Buffer.from(String(length)), rest]);
}

/** The records of an extended header's body; it ends at the first one that is malformed. */
export function decodePaxRecords(body: Buffer): Map<string, Buffer> {
  const records = new Map<string, Buffer>();
  for (let at = 0; at < body.length; ) {
    const space = body.indexOf(' ', at);
    const length = Number(body.toString('latin1', at, space));
    const end = at + length;
    if (space < 0 || !Number.isSafeInteger(length) || end > body.length || end <= space) break;
    const record = body.subarray(space + 1, end - 1);
    const equals = record.indexOf('=');
    if (equals < 0) break;
    records.set(record.toString('utf8', 0, equals), Buffer.from(record.subarray(equals + 1)));
    at = end;
  }
  return records;
}

/** Bytes that fill the last block of `size` bytes. */
export function padding(size: number): number {
  return (BLOCK - (size % BLOCK)) % BLOCK;
}
