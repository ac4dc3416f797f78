/** repodata/: the three lists of packages, and repomd.xml, which names them by digest. */
import { createHash } from 'node:crypto';
import { mkdir, open } from 'node:fs/promises';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { gzip } from 'node:zlib';
import { element, type PackageElements } from './metadata-xml.ts';

const compress = promisify(gzip);

const XML = '<?xml version="1.0" encoding="UTF-8"?>\n';
const COMMON = 'http://linux.duke.edu/metadata';

/** The root element of each list. */
const ROOTS: Readonly<Record<keyof PackageElements, readonly [string, string]>> = {
  primary: ['metadata', `xmlns="${COMMON}/common" xmlns:rpm="${COMMON}/rpm"`],
  filelists: ['filelists', `xmlns="${COMMON}/filelists"`],
  other: ['otherdata', `xmlns="${COMMON}/other"`],
};

/**
 * Writes `repodata/` into `directory`, on the disk when this returns. Equal packages in equal order
 * give equal bytes.
 *
 * @param revision stands in for the time: seconds since 1970
 */
export async function writeRepodata(
  directory: string,
  packages: readonly PackageElements[],
  revision: number,
): Promise<void> {
  const folder = join(directory, 'repodata');
  await mkdir(folder, { mode: 0o755 });
  const entries: string[] = [];
  for (const type of ['primary', 'filelists', 'other'] as const) {
    const [root, namespaces] = ROOTS[type];
    const body = packages.map((entry) => `${entry[type]}\n`).join('');
    const text = `${XML}<${root} ${namespaces} packages="${packages.length}">\n${body}</${root}>\n`;
    const content = Buffer.from(text);
    // gzip: every reader of repositories knows it.
    const compressed = await compress(content, { level: 6 });
    const checksum = sha256(compressed);
    const location = `repodata/${checksum}-${type}.xml.gz`;
    await writeDurably(join(directory, location), compressed);
    entries.push(
      [
        `<data type="${type}">`,
        element('checksum', { type: 'sha256' }, checksum),
        element('open-checksum', { type: 'sha256' }, sha256(content)),
        element('location', { href: location }),
        element('timestamp', {}, String(revision)),
        element('size', {}, String(compressed.length)),
        element('open-size', {}, String(content.length)),
        '</data>',
      ].join('\n'),
    );
  }
  const head = `<repomd xmlns="${COMMON}/repo" xmlns:rpm="${COMMON}/rpm">`;
  const parts = [head, element('revision', {}, String(revision)), ...entries, '</repomd>\n'];
  await writeDurably(join(folder, 'repomd.xml'), Buffer.from(XML + parts.join('\n')));
  await using handle = await open(folder, 'r');
  await handle.sync();
}

function sha256(content: Buffer): string {
  return createHash('sha256').update(content).digest('hex');
}

async function writeDurably(path: string, content: Buffer): Promise<void> {
  await using file = await open(path, 'wx', 0o644);
  await file.writeFile(content);
  await file.sync();
}
