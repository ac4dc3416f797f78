/** Unpacks layers, lowest first, in a confined child whose root is the image's. */
import { readSync } from 'node:fs';
import { pipeline, Readable } from 'node:stream';
import { createGunzip } from 'node:zlib';
import type { Extract, extract as extractType, Header } from 'tar-stream';
import { KilnError } from '../../errors.ts';
import { knownFailure } from '../../host/calls/system-error.ts';
import type { SingleTask } from '../../host/confine/task.ts';
import { filePieces } from '../../host/files/content.ts';
import { decodeZstd, loadZstd } from '../../host/files/zstd.ts';
import { LayerWriter, type UnpackLayersInput } from './layer-writer.ts';
import { PaxTap } from './pax.ts';

const PIECE = 1024 * 1024;

let extract: typeof extractType;

export const task: SingleTask = {
  async prepare() {
    ({ extract } = await import('tar-stream'));
    loadZstd();
  },

  async run(input, { fds, emit }) {
    const writer = new LayerWriter(input as UnpackLayersInput);
    for (const fd of fds) {
      writer.beginLayer();
      await unpackLayer(fd, writer);
    }
    writer.finish();
    emit(writer.summary());
  },
};

async function unpackLayer(fd: number, writer: LayerWriter): Promise<void> {
  const tap = new PaxTap();
  // Names are bytes: latin1 keeps every one of them. (The option is missing in the types.)
  const archive = extract({ filenameEncoding: 'latin1' } as Parameters<typeof extract>[0]);
  try {
    await Promise.all([feed(decompressed(fd), archive, tap), takeEntries(archive, tap, writer)]);
  } catch (cause) {
    archive.destroy(cause instanceof Error ? cause : null);
    // A full disk is no fault of the archive; an impossible path is.
    const known = knownFailure(cause);
    if (cause instanceof KilnError || (known !== undefined && known.code !== 'E_PATH')) throw cause;
    throw new KilnError('E_ARCHIVE', 'the archive is damaged, or not a tar archive', {
      cause,
      hint: 'give a tar archive, plain or in gzip or zstd, or an OCI layout',
    });
  }
}

async function feed(source: AsyncIterable<Buffer>, archive: Extract, tap: PaxTap): Promise<void> {
  for await (const piece of source) {
    if (archive.destroyed) return;
    tap.push(piece);
    if (archive.write(piece)) continue;
    await new Promise<void>((resolve) => {
      archive.once('drain', resolve);
      archive.once('close', resolve);
    });
  }
  archive.end(undefined);
}

async function takeEntries(archive: Extract, tap: PaxTap, writer: LayerWriter): Promise<void> {
  for await (const entry of archive) {
    const { byteOffset } = entry.header as Header & { readonly byteOffset: number };
    const target = writer.begin(entry.header, tap.take(byteOffset));
    // A folder has no data. Where its header has a size, tar-stream would wait for the data forever.
    if (entry.header.type !== 'directory') {
      for await (const piece of entry) target.write(piece as Buffer);
    }
    target.end();
  }
}

function decompressed(fd: number): AsyncIterable<Buffer> {
  const magic = Buffer.alloc(4);
  readSync(fd, magic, 0, 4, 0);
  if (magic.readUInt32LE(0) === 0xfd2fb528) return zstd(fd);
  const source = Readable.from(filePieces(fd, 0, () => Buffer.allocUnsafe(PIECE)));
  if (magic.readUInt16BE(0) !== 0x1f8b) return source;
  // The reader of the decoder gets errors of both sides.
  return pipeline(source, createGunzip({ chunkSize: PIECE }), () => {});
}

async function* zstd(fd: number): AsyncGenerator<Buffer, void, undefined> {
  const errors = {
    damaged: () => new Error('its zstd frames are damaged'),
    missing: () =>
      new KilnError('E_ARCHIVE', 'the archive is in zstd, and libzstd is missing', {
        hint: 'install libzstd',
      }),
  };
  // The archive's reader keeps pieces.
  for (const piece of decodeZstd(filePieces(fd, 0), errors)) yield Buffer.from(piece);
}
