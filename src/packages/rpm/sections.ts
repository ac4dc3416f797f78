/**
 * The parts of an .rpm file, found by reading no more than its headers: lead, signature header,
 * main header, payload. Source: rpm's docs/manual/format_v4.md, format_v6.md, lib/rpmlead.cc.
 */
import { fstatSync } from 'node:fs';
import { readInto } from '../../host/files/content.ts';
import { type HeaderLimits, INTRO_SIZE, RpmHeader, readIntro } from './header.ts';
import { rpmError } from './package.ts';
import { SigTag, Tag } from './tags.ts';

export const LEAD_SIZE = 96;
const LEAD_MAGIC = Buffer.from('edabeedb', 'hex');
/** `signature_type` of a lead that a signature header follows; the only kind since 1997. */
const HEADER_SIGNATURE = 5;

/** rpm's limits (lib/header.cc, lib/signature.cc). */
const SIGNATURE_LIMITS: HeaderLimits = { entries: 32, store: 64 * 1024 * 1024 };
export const HEADER_LIMITS: HeaderLimits = { entries: 0xffff, store: 256 * 1024 * 1024 };

/** What one read gets at first: all of most packages' headers, and little of their payloads. */
const FIRST_READ = 16 * 1024;

export interface RpmSections {
  readonly signature: RpmHeader;
  readonly header: RpmHeader;
  readonly headerStart: number;
  readonly headerEnd: number;
  readonly fileSize: number;
}

export function readSections(fd: number): RpmSections {
  const stat = fstatSync(fd);
  if (!stat.isFile()) throw rpmError('E_RPM_FORMAT', 'it is not a regular file');
  const reader = new StartOfFile(fd, stat.size);

  const magic = reader.bytes(0, Math.min(stat.size, LEAD_MAGIC.length), 'lead');
  if (!magic.equals(LEAD_MAGIC.subarray(0, magic.length))) {
    throw rpmError('E_RPM_FORMAT', 'it is not an RPM package (wrong first bytes)', {
      hint: '`file FILE` tells what it is',
    });
  }
  checkLead(reader.bytes(0, LEAD_SIZE, 'lead'));
  const signature = readHeader(reader, LEAD_SIZE, 'signature header', SIGNATURE_LIMITS);
  // The signature header is padded to a multiple of 8 bytes.
  const headerStart = LEAD_SIZE + Math.ceil(signature.bytes.length / 8) * 8;
  const header = readHeader(reader, headerStart, 'header', HEADER_LIMITS);
  return {
    signature,
    header,
    headerStart,
    headerEnd: headerStart + header.bytes.length,
    fileSize: stat.size,
  };
}

function readHeader(
  reader: StartOfFile,
  start: number,
  what: 'signature header' | 'header',
  limits: HeaderLimits,
): RpmHeader {
  const { size } = readIntro(reader.bytes(start, INTRO_SIZE, what), what, limits);
  const region = what === 'header' ? Tag.region : SigTag.region;
  return new RpmHeader(reader.bytes(start, size, what), what, region);
}

function checkLead(lead: Buffer): void {
  const major = lead.readUInt8(4);
  if (major !== 3 && major !== 4) {
    throw rpmError('E_RPM_UNSUPPORTED', `its lead has version ${major}; kiln reads 3 and 4`);
  }
  if (lead.readUInt16BE(78) !== HEADER_SIGNATURE) {
    throw rpmError('E_RPM_UNSUPPORTED', 'it has no signature header (older than rpm 2.1)');
  }
}

class StartOfFile {
  readonly #fd: number;
  readonly #size: number;
  #held: Buffer = Buffer.alloc(0);

  constructor(fd: number, size: number) {
    this.#fd = fd;
    this.#size = size;
  }

  bytes(start: number, length: number, what: string): Buffer {
    const end = start + length;
    if (end > this.#size) {
      throw rpmError(
        'E_RPM_FORMAT',
        `it is cut off: its ${what} needs ${end} bytes, the file has ${this.#size}`,
        { hint: 'download it again' },
      );
    }
    if (end > this.#held.length) this.#readUpTo(Math.min(this.#size, Math.max(end, FIRST_READ)));
    if (end > this.#held.length) {
      throw rpmError('E_RPM_FORMAT', `it became shorter while its ${what} was read`);
    }
    return this.#held.subarray(start, end);
  }

  #readUpTo(end: number): void {
    const bytes = Buffer.allocUnsafe(end);
    const held = this.#held.copy(bytes);
    const more = readInto(bytes.subarray(held), this.#fd, held);
    this.#held = bytes.subarray(0, held + more.length);
  }
}
