/**
 * Pax extended headers (pax(1), POSIX.1-2001) as bytes. tar-stream offers them only as UTF-8 strings, but file
 * names and extended attributes need not be UTF-8.
 */

/** Bytes of a tar block. */
const BLOCK = 512;

/** The prefix under which GNU tar, star and podman keep extended attributes. */
export const XATTR_PREFIX = 'SCHILY.xattr.';

export type PaxRecords = ReadonlyMap<string, Buffer>;

/** The blocks of an extended header for the next entry. */
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

/** `LENGTH KEY=VALUE\n`, where the length includes itself. */
function encodeRecord(key: string, value: Buffer): Buffer {
  const rest = Buffer.concat([Buffer.from(` ${key}=`), value, Buffer.from('\n')]);
  let length = rest.length;
  while (String(length).length + rest.length !== length) {
    length = String(length).length + rest.length;
  }
  return Buffer.concat([Buffer.from(String(length)), rest]);
}

/** The records of an extended header, up to the first malformed one. */
function decodePaxRecords(body: Buffer): Map<string, Buffer> {
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
function padding(size: number): number {
  return (BLOCK - (size % BLOCK)) % BLOCK;
}

/** A larger extended header (bytes) cannot be honest; tar-stream has the same limit. */
const MAX_HEADER = 4 * 1024 * 1024;

/** Positions in a header block. */
const SIZE = { start: 124, end: 136 };
const TYPE = 156;

/**
 * Watches a tar archive while it is read, and keeps the extended header of each entry as bytes. It is asked for
 * by the offset at which tar-stream says that the entry's data begins.
 */
export class PaxTap {
  readonly #records = new Map<number, Map<string, Buffer>>();
  #offset = 0;
  #held = Buffer.alloc(0);
  /** Bytes to skip. */
  #skip = 0;
  /** The size of the extended header being read, or undefined. */
  #extended: number | undefined;
  #pending: Map<string, Buffer> | undefined;

  /** The next bytes of the archive. @throws Error for an extended header of absurd size. */
  push(chunk: Buffer): void {
    let bytes = this.#held.length === 0 ? chunk : Buffer.concat([this.#held, chunk]);
    for (;;) {
      const skipped = Math.min(this.#skip, bytes.length);
      bytes = bytes.subarray(skipped);
      this.#offset += skipped;
      this.#skip -= skipped;
      if (this.#skip > 0) break;
      const used = this.#extended === undefined ? this.#header(bytes) : this.#body(bytes);
      if (used === 0) break;
      bytes = bytes.subarray(used);
      this.#offset += used;
    }
    this.#held = Buffer.from(bytes);
  }

  /** The extended header of the entry whose data begins at `offset`; returned once. */
  take(offset: number): ReadonlyMap<string, Buffer> | undefined {
    const records = this.#records.get(offset);
    this.#records.delete(offset);
    return records;
  }

  #header(bytes: Buffer): number {
    if (bytes.length < BLOCK) return 0;
    const type = String.fromCharCode(bytes[TYPE]!);
    const size = readSize(bytes.subarray(SIZE.start, SIZE.end));
    if (type === 'x') {
      if (size > MAX_HEADER) throw new Error('an extended header of the archive is too large');
      this.#extended = size;
    } else if ('gLK'.includes(type)) {
      this.#skip = size + padding(size);
    } else {
      // A directory has no data, whatever its header says; tar-stream agrees.
      const data = type === '5' ? 0 : Number(this.#pending?.get('size')?.toString() ?? size);
      if (this.#pending !== undefined) this.#records.set(this.#offset + BLOCK, this.#pending);
      this.#pending = undefined;
      this.#skip = data + padding(data);
    }
    return BLOCK;
  }

  #body(bytes: Buffer): number {
    const size = this.#extended!;
    const whole = size + padding(size);
    if (bytes.length < whole) return 0;
    this.#pending = decodePaxRecords(bytes.subarray(0, size));
    this.#extended = undefined;
    return whole;
  }
}

/** Octal digits, or (GNU) a big-endian number marked by the highest bit. */
function readSize(field: Buffer): number {
  if ((field[0]! & 0x80) !== 0) return field.subarray(4).readUIntBE(2, 6);
  const digits = /[0-7]+/.exec(field.toString('latin1'));
  return digits === null ? 0 : Number.parseInt(digits[0], 8);
}
