import { createHash } from 'node:crypto';
import { createReadStream } from 'node:fs';
import { pipeline } from 'node:stream/promises';
import { KilnError } from '../../errors.ts';
import { openUserFile } from '../../host/files/user-file.ts';

/** The name of the manifest in a result directory. */
export const CHECKSUMS_FILE = 'SHA256SUMS';

/** A file of a result directory, as `Artifact` describes one. */
export interface ListedFile {
  /** Relative to the result directory. */
  readonly path: string;
  /** The exact bytes of `path` in base64, only where it is not UTF-8. */
  readonly pathBytes?: string;
  /** 64 hex digits; without it the file is read. */
  readonly sha256?: string;
}

export type DigestedFile = ListedFile & { readonly sha256: string };

/**
 * Computes missing digests.
 * @param directory the result directory, absolute
 * @throws KilnError E_RESULTDIR for one that cannot be read
 */
export async function digestFiles(
  directory: string,
  files: readonly ListedFile[],
): Promise<DigestedFile[]> {
  const digested: DigestedFile[] = [];
  for (const file of files) {
    const sha256 = file.sha256 ?? (await digestFile(directory, file));
    digested.push({ ...file, sha256 });
  }
  return digested;
}

/**
 * The manifest that `sha256sum -c SHA256SUMS` accepts in the result directory: one line a file,
 * sorted by the bytes of the names. Source of the format: coreutils' manual, "md5sum invocation".
 */
export function checksumManifest(files: readonly DigestedFile[]): Buffer {
  const lines = files
    .map((file) => ({ name: nameBytes(file), sha256: file.sha256 }))
    .sort((a, b) => Buffer.compare(a.name, b.name))
    .map(({ name, sha256 }) => line(name, sha256));
  return Buffer.concat(lines);
}

const ESCAPES: Readonly<Record<string, string>> = { '\\': '\\\\', '\n': '\\n', '\r': '\\r' };

/** A name that would break the line is escaped, and a backslash at the line's start says so. */
function line(name: Buffer, sha256: string): Buffer {
  const raw = name.toString('latin1');
  const escaped = raw.replace(/[\\\n\r]/g, (character) => ESCAPES[character] ?? character);
  const mark = escaped === raw ? '' : '\\';
  return Buffer.from(`${mark}${sha256}  ${escaped}\n`, 'latin1');
}

function nameBytes({ path, pathBytes }: ListedFile): Buffer {
  return pathBytes === undefined ? Buffer.from(path) : Buffer.from(pathBytes, 'base64');
}

async function digestFile(directory: string, file: ListedFile): Promise<string> {
  const hash = createHash('sha256');
  const path = Buffer.concat([Buffer.from(`${directory}/`), nameBytes(file)]);
  try {
    const fd = openUserFile(path);
    await pipeline(createReadStream('', { fd, highWaterMark: 1 << 20 }), hash);
  } catch (cause) {
    throw new KilnError('E_RESULTDIR', `${directory}/${file.path} cannot be read`, {
      cause,
      hint: 'nothing else may write to the result directory of a build that runs',
    });
  }
  return hash.digest('hex');
}
