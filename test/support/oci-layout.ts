/** Changes what images in folders say of themselves, as a builder would have written it. */
import { createHash } from 'node:crypto';
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';

interface Blob {
  digest: string;
  size: number;
}

const read = (path: string) => JSON.parse(readFileSync(path, 'utf8'));

/** Writes the changed blob and names it in `blob`. */
function write(pathOf: (digest: string) => string, blob: Blob, value: unknown): void {
  const bytes = Buffer.from(JSON.stringify(value));
  const digest = createHash('sha256').update(bytes).digest('hex');
  writeFileSync(pathOf(digest), bytes);
  Object.assign(blob, { digest: `sha256:${digest}`, size: bytes.length });
}

const hex = ({ digest }: Blob) => digest.replace('sha256:', '');

/** Of an OCI layout with one image. */
export function changeLayout(layout: string, fields: object): void {
  const pathOf = (digest: string) => join(layout, 'blobs/sha256', digest);
  const index = read(join(layout, 'index.json'));
  const [described] = index.manifests;
  const manifest = read(pathOf(hex(described)));
  const config = read(pathOf(hex(manifest.config)));
  Object.assign(config.config, fields);
  write(pathOf, manifest.config, config);
  write(pathOf, described, manifest);
  writeFileSync(join(layout, 'index.json'), JSON.stringify(index));
}

/** Of a folder as skopeo's `dir:` has it. */
export function changeFolder(folder: string, fields: object): void {
  const pathOf = (digest: string) => join(folder, digest);
  const manifest = read(join(folder, 'manifest.json'));
  const config = read(pathOf(hex(manifest.config)));
  Object.assign(config.config, fields);
  write(pathOf, manifest.config, config);
  writeFileSync(join(folder, 'manifest.json'), JSON.stringify(manifest));
}
