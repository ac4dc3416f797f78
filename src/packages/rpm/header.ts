/**
 * RPM's header structure: an index of tags and a store of their data. Both the signature header and
 * the main header have it. Source: rpm's docs/manual/format_header.md; limits of lib/header.cc.
 */

import { decodeName } from './filename.ts';
import { rpmError } from './package.ts';
import { SigTag } from './tags.ts';

/** 8e ad e8, version 1, four reserved bytes; then the number of entries and the store's length. */
export const INTRO_SIZE = 16;
export const MAGIC = Buffer.from('8eade80100000000', 'hex');
export const ENTRY_SIZE = 16;

export const Type = { int8: 2, int16: 3, int32: 4, int64: 5, string: 6, bin: 7, array: 8, i18n: 9 };

/** Bytes an element takes and is aligned to, by type number; 0 where elements have no fixed size. */
export const ELEMENT_SIZE = [0, 1, 1, 2, 4, 8, 0, 1, 0, 0];

/** Smaller numbers are regions (HEADER_I18NTABLE of rpm's lib/header.h). */
const FIRST_TAG = 100;

export interface HeaderLimits {
  readonly entries: number;
  readonly store: number;
}

interface Entry {
  readonly type: number;
  readonly offset: number;
  readonly count: number;
}

export interface RawEntry {
  readonly tag: number;
  readonly type: number;
  readonly count: number;
  readonly data: Buffer;
}

export function readIntro(bytes: Buffer, what: string, limits: HeaderLimits) {
  if (!bytes.subarray(0, MAGIC.length).equals(MAGIC)) {
    throw rpmError('E_RPM_FORMAT', `the ${what} does not begin as a header does`);
  }
  const entries = bytes.readUInt32BE(8);
  const storeSize = bytes.readUInt32BE(12);
  if (entries === 0 || entries > limits.entries || storeSize > limits.store) {
    throw rpmError(
      'E_RPM_FORMAT',
      `the ${what} announces ${entries} tags and ${storeSize} bytes; at most ${limits.entries} and ${limits.store} are allowed`,
    );
  }
  return { entries, storeSize, size: INTRO_SIZE + entries * ENTRY_SIZE + storeSize };
}

/**
 * A header's tags. Getters return undefined for a missing tag, and throw E_RPM_FORMAT for one of another type
 * or with data outside the store.
 */
export class RpmHeader {
  readonly bytes: Buffer;
  readonly hasRegion: boolean;
  readonly #what: string;
  readonly #store: Buffer;
  readonly #entries: Map<number, Entry>;

  constructor(bytes: Buffer, what: string, regionTag: number) {
    this.bytes = bytes;
    this.#what = what;
    const count = bytes.readUInt32BE(8);
    const index = bytes.subarray(INTRO_SIZE, INTRO_SIZE + count * ENTRY_SIZE);
    this.#store = bytes.subarray(INTRO_SIZE + index.length);
    this.#entries = new Map();
    this.hasRegion = index.readUInt32BE(0) === regionTag;
    // rpm loads no main header whose data has gaps.
    const isWhole = this.hasRegion && regionTag !== SigTag.region;
    let end = 0;
    for (let at = 0; at < index.length; at += ENTRY_SIZE) {
      const tag = index.readUInt32BE(at);
      const entry = {
        type: index.readUInt32BE(at + 4),
        offset: index.readUInt32BE(at + 8),
        count: index.readUInt32BE(at + 12),
      };
      if (this.#entries.has(tag)) throw this.#broken(tag, 'is there twice');
      this.#check(tag, entry);
      this.#entries.set(tag, entry);
      // The data of a region lies behind that of all others.
      if (tag === regionTag) continue;
      if (tag < FIRST_TAG) throw this.#broken(tag, 'is not one that a header may have');
      const size = Math.max(ELEMENT_SIZE[entry.type] ?? 0, 1);
      if (entry.offset < end) throw this.#broken(tag, 'shares data with another tag');
      if (isWhole && entry.offset >= end + size) throw this.#broken(tag, 'has a gap before it');
      end = this.#endOf(tag, entry);
    }
    if (isWhole && this.#entries.get(regionTag)?.offset !== end) {
      throw this.#broken(regionTag, 'is not where the data ends');
    }
    if (this.hasRegion) this.#checkRegion(regionTag, count);
    else if (this.#entries.has(regionTag)) throw this.#broken(regionTag, 'is not the first');
  }

  has(tag: number): boolean {
    return this.#entries.has(tag);
  }

  string(tag: number): string | undefined {
    const entry = this.#entry(tag, Type.string, Type.array, Type.i18n);
    if (entry === undefined) return undefined;
    return decodeName(this.#store.subarray(entry.offset, this.#stringEnd(tag, entry.offset)));
  }

  strings(tag: number): string[] | undefined {
    const entry = this.#entry(tag, Type.string, Type.array, Type.i18n);
    if (entry === undefined) return undefined;
    let end = entry.offset - 1;
    for (let left = entry.count; left > 0; left -= 1) end = this.#stringEnd(tag, end + 1);
    return decodeName(this.#store.subarray(entry.offset, end)).split('\0');
  }

  numbers(tag: number): number[] | undefined {
    const entry = this.#entry(tag, Type.int8, Type.int16, Type.int32, Type.int64);
    if (entry === undefined) return undefined;
    const { type, offset, count } = entry;
    const size = ELEMENT_SIZE[type]!;
    const values = new Array<number>(count);
    for (let i = 0; i < count; i += 1) values[i] = this.#number(tag, type, offset + i * size);
    return values;
  }

  number(tag: number): number | undefined {
    return this.numbers(tag)?.[0];
  }

  binary(tag: number): Buffer | undefined {
    const entry = this.#entry(tag, Type.bin);
    return entry && this.#store.subarray(entry.offset, entry.offset + entry.count);
  }

  rawEntries(): RawEntry[] {
    return Array.from(this.#entries, ([tag, entry]) => {
      const { type, offset, count } = entry;
      return { tag, type, count, data: this.#store.subarray(offset, this.#endOf(tag, entry)) };
    });
  }

  #endOf(tag: number, { type, offset, count }: Entry): number {
    let end = offset + count * (ELEMENT_SIZE[type] ?? 0);
    if (ELEMENT_SIZE[type] === 0) {
      for (let left = count; left > 0; left -= 1) end = this.#stringEnd(tag, end) + 1;
    }
    return end;
  }

  #number(tag: number, type: number, at: number): number {
    if (type === Type.int8) return this.#store.readUInt8(at);
    if (type === Type.int16) return this.#store.readUInt16BE(at);
    if (type === Type.int32) return this.#store.readUInt32BE(at);
    const value = Number(this.#store.readBigUInt64BE(at));
    if (!Number.isSafeInteger(value)) throw this.#broken(tag, 'holds too large a number');
    return value;
  }

  #entry(tag: number, ...types: number[]): Entry | undefined {
    const entry = this.#entries.get(tag);
    if (entry === undefined || types.includes(entry.type)) return entry;
    throw this.#broken(tag, `has type ${entry.type}`);
  }

  #stringEnd(tag: number, start: number): number {
    const end = this.#store.indexOf(0, start);
    if (end < 0 || start >= this.#store.length) throw this.#broken(tag, 'does not end');
    return end;
  }

  #check(tag: number, { type, offset, count }: Entry): void {
    const size = ELEMENT_SIZE[type];
    if (size === undefined) throw this.#broken(tag, `has the unknown type ${type}`);
    if (count === 0) throw this.#broken(tag, 'is empty');
    if (type === Type.string && count !== 1) throw this.#broken(tag, 'is more than one string');
    if (offset + count * Math.max(size, 1) > this.#store.length) {
      throw this.#broken(tag, 'is not inside the header');
    }
    if (size > 0 && offset % size !== 0) throw this.#broken(tag, 'is not aligned');
  }

  /**
   * A region's trailer is a copy of its entry with the offset back to the index. Digests and signatures cover
   * the region: tags after it would be trusted without being signed.
   */
  #checkRegion(regionTag: number, count: number): void {
    const entry = this.#entries.get(regionTag)!;
    if (entry.type !== Type.bin || entry.count !== ENTRY_SIZE) {
      throw this.#broken(regionTag, 'is not a region');
    }
    const trailer = this.#store.subarray(entry.offset, entry.offset + ENTRY_SIZE);
    const covered = -trailer.readInt32BE(8) / ENTRY_SIZE;
    if (trailer.readUInt32BE(4) !== Type.bin || trailer.readUInt32BE(12) !== ENTRY_SIZE) {
      throw this.#broken(regionTag, 'has a broken trailer');
    }
    // Signing tools append to the signature header, which is not signed itself.
    if (regionTag === SigTag.region && covered > 0 && covered <= count) return;
    if (covered !== count || entry.offset + ENTRY_SIZE !== this.#store.length) {
      throw this.#broken(regionTag, 'does not cover the whole header');
    }
  }

  #broken(tag: number, how: string) {
    return rpmError('E_RPM_FORMAT', `the ${this.#what} is broken: tag ${tag} ${how}`);
  }
}
