/** Archives that a machine sends of its files. It may have broken its kernel: then it sends what it likes. */
import { constants, createWriteStream, openSync } from 'node:fs';
import { Socket } from 'node:net';
import { Transform } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import type { Budget } from '../../artifacts/budget.ts';
import { defined } from '../../defined.ts';
import { isKilnCode, KilnError } from '../../errors.ts';
import { closing } from '../../host/calls/descriptor.ts';
import { DEFAULT_DISK, filesFor } from '../../host/state/disk-watch.ts';
import type { IdRange } from '../../host/state/reservation.ts';
import { FAULTS, unpackLayers } from './import.ts';

interface Packed {
  /** As messages name it. */
  readonly what: string;
  readonly maxBytes: number | undefined;
  readonly signal: AbortSignal | undefined;
  /** Of a sandbox: the archive is of what an overlay wrote there, and owners are those. */
  readonly range?: IdRange;
}

/**
 * Unpacks what a machine has packed, which may be compressed: the archive's own size bounds nothing.
 * @returns what was left out
 * @throws KilnError E_MACHINE, E_DISK, E_DISK_FULL, E_DISK_LOW
 */
export async function unpackPacked(
  source: string,
  destination: string,
  { what, maxBytes, signal, range }: Packed,
): Promise<readonly string[]> {
  using archive = closing(openSync(source, constants.O_RDONLY));
  try {
    const { warnings } = await unpackLayers([archive], destination, {
      ...{ source, signal, maxBytes, whiteouts: false, overlay: range !== undefined },
      ...defined({ ids: range }),
      maxEntries: filesFor(DEFAULT_DISK),
    });
    return warnings;
  } catch (cause) {
    if (!isKilnCode(cause, ...FAULTS)) throw cause;
    throw new KilnError('E_MACHINE', `what the machine has packed as ${what} cannot be read`, {
      hint: 'something in the machine has broken its kernel: nothing of it can be trusted',
      cause,
    });
  }
}

/** Of an archive, what is not the files themselves: headers of 200,000 entries. Bytes. */
const HEADERS = 512 << 20;

/**
 * Writes what a machine packs into a new file.
 * @param budget of bytes beyond those of headers
 * @throws KilnError E_ARTIFACT_LIMIT, E_DISK_LOW, the signal's reason
 */
export async function receivePacked(
  fd: number,
  archive: string,
  budget: Budget,
  signal: AbortSignal,
): Promise<void> {
  let headers = HEADERS;
  const counted = new Transform({
    transform(piece: Buffer, _encoding, done) {
      try {
        const beyond = Math.max(0, piece.length - headers);
        headers -= Math.min(headers, piece.length);
        budget.spend('bytes', beyond);
        done(null, piece);
      } catch (error) {
        done(error as Error);
      }
    },
  });
  const source = new Socket({ fd, readable: true, writable: false });
  try {
    await pipeline(source, counted, createWriteStream(archive, { flags: 'wx', mode: 0o600 }), {
      signal,
    });
  } catch (error) {
    signal.throwIfAborted();
    throw error;
  }
}
