/** Pax extended headers (pax(1), POSIX.1-2001) as bytes: names and attributes need not be UTF-8. */

const BLOCK = 512;

/** As GNU tar, star and podman keep extended attributes. */
export const XATTR_PREFIX = 'SCHILY.xattr.';

export type PaxRecords = ReadonlyMap<string, Buffer>;

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

function encodeRecord(key: string, value: Buffer): Buffer {
  const rest = Buffer.concat([Buffer.from(` ${key}=`), value, Buffer.from('\n')]);
  let length = rest.length;
  while (String(length).length + rest.length !== length) {
    length = String(length).length + rest.length;
  }
  return Buffer.concat([Buffer.from(String(length)), rest]);
}

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

function padding(size: number): number {
  return (BLOCK - (size % BLOCK)) % BLOCK;
}

/** Bytes; tar-stream has the same limit. */
const MAX_HEADER = 4 * 1024 * 1024;

const SIZE = { start: 124, end: 136 };
const TYPE = 156;

/**
 * Keeps the extended header of each entry of an archive while it is read. It is asked for by the offset at
 * which tar-stream says that the entry's data begins.
 */
export class PaxTap {
  readonly #records = new Map<number, Map<string, Buffer>>();
  #offset = 0;
  #held = Buffer.alloc(0);
  #skip = 0;
  #extended: number | undefined;
  #pending: Map<string, Buffer> | undefined;

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
      const data = type === '5' ? 0 : (paxSize(this.#pending?.get('size')) ?? size);
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

function paxSize(value: Buffer | undefined): number | undefined {
  const text = value?.toString('latin1');
  return text === undefined ? undefined : safeSize(/^\d+$/.test(text) ? Number(text) : Number.NaN);
}

function safeSize(size: number): number {
  if (Number.isSafeInteger(size)) return size;
  throw new Error('a header of the archive has a size that no file has');
}

/** Octal digits, or (GNU) a big-endian number marked by the highest bit; negative ones are huge here. */
function readSize(field: Buffer): number {
  if ((field[0]! & 0x80) !== 0) {
    return safeSize(Number(BigInt(`0x${field.toString('hex')}`) & ~(0x80n << 88n)));
  }
  const digits = /[0-7]+/.exec(field.toString('latin1'));
  return digits === null ? 0 : Number.parseInt(digits[0], 8);
}
