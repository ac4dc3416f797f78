/** A good package taken apart, by hand and not by what is fuzzed: what mutants are made of. */
import { execFileSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { basename } from 'node:path';

/** One package of the corpus. */
export interface Specimen {
  readonly name: string;
  readonly bytes: Buffer;
  /** Offsets of the main header and of the payload. */
  readonly header: number;
  readonly payload: number;
  /** The archive, where its compressor is one whose output can be made here. */
  readonly archive: Buffer | undefined;
  readonly compressor: string;
}

const LEAD = 96;
const INTRO = 16;
const INDEX_ENTRY = 16;
const PAYLOAD_COMPRESSOR = 1125;

function headerSize(bytes: Buffer, at: number): number {
  return INTRO + bytes.readUInt32BE(at + 8) * INDEX_ENTRY + bytes.readUInt32BE(at + 12);
}

/** Takes a package apart; the archive by the host's rpm2archive's sister rpm2cpio. */
export function readSpecimen(path: string): Specimen {
  const bytes = readFileSync(path);
  const header = LEAD + Math.ceil(headerSize(bytes, LEAD) / 8) * 8;
  const payload = header + headerSize(bytes, header);
  const compressor = stringTag(bytes, header, PAYLOAD_COMPRESSOR) ?? 'none';
  const canMake = ['none', 'gzip', 'zstd'].includes(compressor);
  const archive = canMake ? execFileSync('rpm2cpio', [path]) : undefined;
  return { name: basename(path), bytes, header, payload, archive, compressor };
}

/** The index entries of a header: offsets of 16 bytes each (tag, type, offset, count). */
export function indexEntries(bytes: Buffer, header: number): number[] {
  if (bytes.length < header + INTRO) return [];
  const count = Math.min(bytes.readUInt32BE(header + 8), 4096);
  return Array.from({ length: count }, (_, i) => header + INTRO + i * INDEX_ENTRY).filter(
    (at) => at + INDEX_ENTRY <= bytes.length,
  );
}

/** Where the data of a tag begin; undefined if there is no such tag. */
export function tagData(bytes: Buffer, header: number, tag: number): number | undefined {
  const entry = indexEntries(bytes, header).find((at) => bytes.readUInt32BE(at) === tag);
  if (entry === undefined) return undefined;
  return (
    header + INTRO + bytes.readUInt32BE(header + 8) * INDEX_ENTRY + bytes.readUInt32BE(entry + 8)
  );
}

function stringTag(bytes: Buffer, header: number, tag: number): string | undefined {
  const at = tagData(bytes, header, tag);
  return at === undefined ? undefined : bytes.toString('latin1', at, bytes.indexOf(0, at));
}
