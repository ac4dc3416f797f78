/**
 * Makes .rpm files byte by byte, with right digests, so that tests can say anything in them that
 * rpmbuild would refuse to.
 */
import { createHash, hash } from 'node:crypto';
import { gzipSync, zstdCompressSync } from 'node:zlib';

type Value = { tag: number } & (
  | { type: 'int16' | 'int32' | 'int64'; values: readonly number[] }
  | { type: 'string'; value: string | Buffer }
  | { type: 'strings'; values: readonly (string | Buffer)[] }
  | { type: 'bin'; value: Buffer }
);

const TYPE = { int16: 3, int32: 4, int64: 5, string: 6, bin: 7, strings: 8 } as const;
const WIDTH: Partial<Record<keyof typeof TYPE, number>> = { int16: 2, int32: 4, int64: 8 };

const terminated = (text: string | Buffer) => Buffer.concat([Buffer.from(text), Buffer.alloc(1)]);

function encodeValue(value: Value): { bytes: Buffer; count: number } {
  switch (value.type) {
    case 'string':
      return { bytes: terminated(value.value), count: 1 };
    case 'strings':
      return { bytes: Buffer.concat(value.values.map(terminated)), count: value.values.length };
    case 'bin':
      return { bytes: value.value, count: value.value.length };
    default: {
      const width = WIDTH[value.type]!;
      const bytes = Buffer.alloc(width * value.values.length);
      value.values.forEach((number, i) => {
        if (width === 8) bytes.writeBigUInt64BE(BigInt(number), i * 8);
        else bytes.writeUIntBE(number, i * width, width);
      });
      return { bytes, count: value.values.length };
    }
  }
}

/** A header with an immutable region over all of it. */
function encodeHeader(regionTag: number, values: readonly Value[]): Buffer {
  const index: Buffer[] = [];
  const store: Buffer[] = [];
  let length = 0;
  const entry = (tag: number, type: number, offset: number, count: number) => {
    const bytes = Buffer.alloc(16);
    bytes.writeUInt32BE(tag, 0);
    bytes.writeUInt32BE(type, 4);
    bytes.writeInt32BE(offset, 8);
    bytes.writeUInt32BE(count, 12);
    return bytes;
  };
  for (const value of [...values].sort((a, b) => a.tag - b.tag)) {
    const { bytes, count } = encodeValue(value);
    const padding = -length & ((WIDTH[value.type] ?? 1) - 1);
    store.push(Buffer.alloc(padding), bytes);
    length += padding;
    index.push(entry(value.tag, TYPE[value.type], length, count));
    length += bytes.length;
  }
  const entries = index.length + 1;
  store.push(entry(regionTag, TYPE.bin, -entries * 16, 16));
  index.unshift(entry(regionTag, TYPE.bin, length, 16));
  const intro = Buffer.alloc(16);
  Buffer.from('8eade801', 'hex').copy(intro);
  intro.writeUInt32BE(entries, 8);
  intro.writeUInt32BE(length + 16, 12);
  return Buffer.concat([intro, ...index, ...store]);
}

export interface TestFile {
  readonly path: string | Buffer;
  /** Full st_mode. */
  readonly mode: number;
  readonly data?: Buffer;
  readonly target?: string;
  readonly inode?: number;
  readonly flags?: number;
  readonly caps?: string;
  /** what the header says where it is not the truth. */
  readonly lie?: { readonly size?: number; readonly digest?: string };
}

export interface TestRpm {
  readonly name?: string;
  readonly files: readonly TestFile[];
  /** The archive, where it is not what the header says. */
  readonly archive?: Buffer;
  readonly compressor?: 'gzip' | 'zstd' | 'none';
  /** The compressed payload itself, where even that is special. */
  readonly payload?: Buffer;
  /** Replaces or adds header tags. */
  readonly tags?: readonly Value[];
  readonly sign?: (header: Buffer) => Buffer;
}

/** One newc entry. */
export function cpioEntry(
  name: string | Buffer,
  mode: number,
  data: Buffer = Buffer.alloc(0),
  fields: { readonly inode?: number; readonly size?: number } = {},
): Buffer {
  const bytes = terminated(name);
  const hex = (value: number) => value.toString(16).padStart(8, '0');
  const numbers = [fields.inode ?? 1, mode, 0, 0, 1, 0, fields.size ?? data.length];
  const head = `070701${[...numbers, 0, 0, 0, 0, bytes.length, 0].map(hex).join('')}`;
  const pad = (length: number) => Buffer.alloc(-length & 3);
  return Buffer.concat([
    Buffer.from(head),
    bytes,
    pad(head.length + bytes.length),
    data,
    pad(data.length),
  ]);
}

export const cpioTrailer = cpioEntry('TRAILER!!!', 0);

/** One entry of the stripped form. */
export function strippedEntry(index: number, data: Buffer): Buffer {
  const head = `07070X${index.toString(16).padStart(8, '0')}`;
  const pad = (length: number) => Buffer.alloc(-length & 3);
  return Buffer.concat([Buffer.from(head), pad(head.length), data, pad(data.length)]);
}

function content(file: TestFile): Buffer {
  return file.data ?? Buffer.from(file.target ?? '');
}

/** The archive that a truthful packager would make of these files. */
export function honestArchive(files: readonly TestFile[]): Buffer {
  return Buffer.concat([
    ...files.map((file) =>
      cpioEntry(
        Buffer.concat([Buffer.from('.'), Buffer.from(file.path)]),
        file.mode,
        content(file),
      ),
    ),
    cpioTrailer,
  ]);
}

function fileTags(files: readonly TestFile[]): Value[] {
  if (files.length === 0) return [];
  const split = files.map(({ path }) => {
    const bytes = Buffer.from(path);
    const slash = bytes.lastIndexOf('/'.charCodeAt(0)) + 1;
    return [bytes.subarray(0, slash), bytes.subarray(slash)] as const;
  });
  const isFile = (file: TestFile) => (file.mode & 0o170000) === 0o100000;
  const int32 = (tag: number, values: number[]): Value => ({ tag, type: 'int32', values });
  const strings = (tag: number, values: (string | Buffer)[]): Value => ({
    tag,
    type: 'strings',
    values,
  });
  const large = files.some((file) => (file.lie?.size ?? 0) > 0xffffffff);
  const sizes = files.map((file) => file.lie?.size ?? content(file).length);
  return [
    large ? { tag: 5008, type: 'int64', values: sizes } : int32(1028, sizes),
    { tag: 1030, type: 'int16', values: files.map((file) => file.mode) },
    { tag: 1033, type: 'int16', values: files.map(() => 0) },
    int32(
      1034,
      files.map(() => 1700000000),
    ),
    strings(
      1035,
      files.map((file) =>
        isFile(file) ? (file.lie?.digest ?? hash('sha256', content(file), 'hex')) : '',
      ),
    ),
    strings(
      1036,
      files.map((file) => file.target ?? ''),
    ),
    int32(
      1037,
      files.map((file) => file.flags ?? 0),
    ),
    strings(
      1039,
      files.map(() => 'root'),
    ),
    strings(
      1040,
      files.map(() => 'root'),
    ),
    int32(
      1095,
      files.map(() => 1),
    ),
    int32(
      1096,
      files.map((file, i) => file.inode ?? i + 1),
    ),
    int32(
      1116,
      files.map((_, i) => i),
    ),
    strings(
      1117,
      split.map(([, base]) => base),
    ),
    strings(
      1118,
      split.map(([directory]) => directory),
    ),
    strings(
      5010,
      files.map((file) => file.caps ?? ''),
    ),
    int32(5011, [8]),
  ];
}

/** The whole file: lead, signature header, header, payload. */
export function buildRpm(rpm: TestRpm): Buffer {
  const archive = rpm.archive ?? honestArchive(rpm.files);
  const compressor = rpm.compressor ?? 'gzip';
  const compress = { gzip: gzipSync, zstd: zstdCompressSync, none: (bytes: Buffer) => bytes };
  const payload = rpm.payload ?? compress[compressor](archive);
  const name = rpm.name ?? 'hostile';
  const own = new Set((rpm.tags ?? []).map(({ tag }) => tag));
  const tags: Value[] = [
    { tag: 1000, type: 'string', value: name },
    { tag: 1001, type: 'string', value: '1.0' },
    { tag: 1002, type: 'string', value: '1' },
    { tag: 1004, type: 'string', value: 'A test package' },
    { tag: 1006, type: 'int32', values: [1700000000] },
    { tag: 1014, type: 'string', value: 'Apache-2.0' },
    { tag: 1021, type: 'string', value: 'linux' },
    { tag: 1022, type: 'string', value: 'noarch' },
    { tag: 1044, type: 'string', value: `${name}-1.0-1.src.rpm` },
    { tag: 1124, type: 'string', value: 'cpio' },
    ...(compressor === 'none'
      ? []
      : [{ tag: 1125, type: 'string', value: compressor } satisfies Value]),
    { tag: 1126, type: 'string', value: '9' },
    { tag: 5092, type: 'strings', values: [hash('sha256', payload, 'hex')] },
    { tag: 5093, type: 'int32', values: [8] },
    ...fileTags(rpm.files),
  ];
  const header = encodeHeader(63, [
    ...tags.filter(({ tag }) => !own.has(tag)),
    ...(rpm.tags ?? []),
  ]);
  return seal(header, payload, rpm.sign?.(header));
}

/** Puts lead and signature header, with right digests, before a header and a payload. */
export function seal(header: Buffer, payload: Buffer, rsaSignature?: Buffer): Buffer {
  const signature = encodeHeader(62, [
    ...(rsaSignature === undefined
      ? []
      : [{ tag: 268, type: 'bin', value: rsaSignature } satisfies Value]),
    { tag: 269, type: 'string', value: hash('sha1', header, 'hex') },
    { tag: 273, type: 'string', value: hash('sha256', header, 'hex') },
    { tag: 1000, type: 'int32', values: [header.length + payload.length] },
    { tag: 1004, type: 'bin', value: createHash('md5').update(header).update(payload).digest() },
  ]);
  const lead = Buffer.alloc(96);
  Buffer.from('edabeedb0300', 'hex').copy(lead);
  lead.write('hostile-1.0-1', 10);
  lead.writeUInt16BE(1, 76);
  lead.writeUInt16BE(5, 78);
  return Buffer.concat([lead, signature, Buffer.alloc(-signature.length & 7), header, payload]);
}
