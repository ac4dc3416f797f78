/** Mutants of RPM packages that know what is where in one. The same seed makes the same mutant. */
import { hash } from 'node:crypto';
import { deflateRawSync, gzipSync, zstdCompressSync } from 'node:zlib';
import { seal } from '../../../test/rpm/rpm-builder.ts';
import { Random } from '../random.ts';
import { indexEntries, type Specimen, tagData } from './specimen.ts';

/** A package that is not what it seems. */
export interface Mutant {
  readonly bytes: Buffer;
  /** Its digests are right: only what it says is wrong. */
  readonly resealed: boolean;
}

const NUMBERS = [
  0, 1, 2, 3, 7, 0x7f, 0x80, 0xff, 0x7fff, 0x8000, 0xffff, 0x7fffffff, 0x80000000, 0xffffffff,
];

/** Modes of other kinds of files than there were. */
const MODES = [0o120777, 0o100777, 0o40777, 0o20666, 0o60660, 0o10644, 0o106755, 0o140777];

/** Names that lead out, or would where somebody took them as they are. */
const NAMES = [
  ...[
    '..',
    '../',
    '/',
    '.',
    './',
    '//',
    '../../canary/file',
    '/canary/file',
    'a/../../canary/made',
  ],
  ...[
    '/dest/0',
    '\n',
    '\x1b[2J',
    '\xff\xfe',
    'TRAILER!!!',
    '/proc/self/cwd',
    '/proc/self/root/canary',
  ],
];

/** Tags about files, where the harm is: sizes, modes, links, names, flags, digests, directories. */
const FILE_TAGS = [1028, 1030, 1035, 1036, 1037, 1039, 1095, 1096, 1116, 1117, 1118, 5008, 5010];

/** Header tags of payload digests by the number of hexadecimal digits they have. */
const PAYLOAD_DIGESTS = [
  [5092, 'sha256'],
  [5121, 'sha512'],
  [5123, 'sha3-256'],
] as const;

/** Makes the mutant of a seed. Every second one is resealed. */
export function mutate(corpus: readonly Specimen[], seed: number): Mutant {
  const random = new Random(seed);
  const specimen = random.pick(corpus);
  const resealed = seed % 2 === 0;
  let header: Buffer = Buffer.from(specimen.bytes.subarray(specimen.header, specimen.payload));
  let payload: Buffer = Buffer.from(specimen.bytes.subarray(specimen.payload));
  if (!resealed && random.once(3)) return { bytes: damage(specimen.bytes, random), resealed };
  const rounds = 1 + random.below(4);
  for (let i = 0; i < rounds; i++) {
    // Most go into the payload where the digests are right: it is what they open the way to.
    const into = random.below(resealed ? 6 : 3);
    if (into === 0) header = damageIndex(header, random);
    else if (into <= 2) header = damageStore(header, random);
    else payload = damagePayload(specimen, random) ?? damage(payload, random);
  }
  if (resealed) {
    for (const [tag, algorithm] of PAYLOAD_DIGESTS)
      writeDigest(header, tag, hash(algorithm, payload, 'hex'));
    return { bytes: seal(header, payload), resealed };
  }
  const front = specimen.bytes.subarray(0, specimen.header);
  return { bytes: Buffer.concat([front, header, payload]), resealed };
}

function writeDigest(header: Buffer, tag: number, digest: string): void {
  const at = tagData(header, 0, tag);
  if (at !== undefined && at + digest.length <= header.length) header.write(digest, at, 'latin1');
}

/** Anything anywhere: bits, bytes, pieces cut off, left out or doubled. */
function damage(bytes: Buffer, random: Random): Buffer {
  const copy = Buffer.from(bytes);
  if (copy.length === 0) return copy;
  const at = random.below(copy.length);
  const length = 1 + random.below(Math.min(64, copy.length - at));
  switch (random.below(6)) {
    case 0:
      return copy.subarray(0, at);
    case 1:
      return Buffer.concat([copy.subarray(0, at), copy.subarray(at + length)]);
    case 2:
      return Buffer.concat([copy.subarray(0, at + length), copy.subarray(at)]);
    case 3:
      copy.fill(random.below(256), at, at + length);
      return copy;
    default:
      for (let i = 0; i <= random.below(4); i++) {
        const place = random.below(copy.length);
        copy[place] = (copy[place] ?? 0) ^ (1 << random.below(8));
      }
      return copy;
  }
}

/** Another tag, type, offset or number of elements. */
function damageIndex(header: Buffer, random: Random): Buffer {
  const copy = Buffer.from(header);
  const entries = indexEntries(copy, 0);
  if (entries.length === 0) return damage(copy, random);
  const at = random.pick(entries);
  if (random.once(8)) copy.writeUInt32BE(random.pick(NUMBERS), 8 + 4 * random.below(2));
  else if (random.once(4)) copy.copy(copy, at, random.pick(entries), at + 16);
  else {
    const field = at + 4 * random.below(4);
    const near = (copy.readUInt32BE(field) + random.below(5) - 2) >>> 0;
    copy.writeUInt32BE(random.once(2) ? near : random.pick(NUMBERS), field);
  }
  return copy;
}

/** Other data of a tag: numbers that are edges, names that lead out. */
function damageStore(header: Buffer, random: Random): Buffer {
  const copy = Buffer.from(header);
  const entries = indexEntries(copy, 0);
  if (entries.length === 0) return damage(copy, random);
  const tag = random.once(4) ? copy.readUInt32BE(random.pick(entries)) : random.pick(FILE_TAGS);
  const start = tagData(copy, 0, tag);
  if (start === undefined || start + 4 > copy.length) return damage(copy, random);
  const at = Math.min(start + 4 * random.below(6), copy.length - 4);
  switch (random.below(4)) {
    case 0:
    case 1:
      copy.writeUInt32BE(random.pick(NUMBERS), at);
      break;
    case 2:
      copy.writeUInt16BE(random.pick(MODES), at & ~1);
      break;
    default:
      copy.write(random.pick(NAMES), start, 'latin1');
  }
  return copy;
}

/** The archive damaged, and compressed again as it was; undefined where that cannot be done. */
function damagePayload(specimen: Specimen, random: Random): Buffer | undefined {
  if (specimen.archive === undefined || random.once(8)) return undefined;
  const archive = damageArchive(specimen.archive, random);
  switch (specimen.compressor) {
    case 'gzip':
      return random.once(20) ? deflateRawSync(archive) : gzipSync(archive, { level: 1 });
    case 'zstd':
      return zstdCompressSync(archive);
    default:
      return archive;
  }
}

/** cpio entries: fields of their heads, names, order, number; bytes of their content. */
function damageArchive(archive: Buffer, random: Random): Buffer {
  const heads: number[] = [];
  for (let at = archive.indexOf('07070'); at !== -1; at = archive.indexOf('07070', at + 6)) {
    heads.push(at);
  }
  if (heads.length === 0) return damage(archive, random);
  const at = random.pick(heads);
  const copy = Buffer.from(archive);
  const next = heads.find((head) => head > at) ?? archive.length;
  switch (random.below(6)) {
    case 0: {
      const field = at + 6 + 8 * random.below(13);
      if (field + 8 <= copy.length) {
        copy.write(random.pick(NUMBERS).toString(16).padStart(8, '0'), field, 'latin1');
      }
      return copy;
    }
    case 1:
      copy.write(random.pick(NAMES), Math.min(at + 110, copy.length - 1), 'latin1');
      return copy;
    case 2:
      return Buffer.concat([copy.subarray(0, next), copy.subarray(at)]);
    case 3:
      return Buffer.concat([copy.subarray(0, at), copy.subarray(next)]);
    case 4:
      copy.write(random.pick(['070701', '070702', '07070X', '070707']), at, 'latin1');
      return copy;
    default:
      return damage(copy, random);
  }
}
