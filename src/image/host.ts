/**
 * The image `host`: this host's own /usr, read-only. Its tree has what /usr needs around it, and nothing else of the
 * host; /usr itself is shown by the door (src/sandbox/door/plan.ts).
 */
import { hash } from 'node:crypto';
import { join } from 'node:path';
import type { ImageViewer } from '../engine.ts';
import { KilnError } from '../errors.ts';
import { namingFullDisk } from '../host/calls/system-error.ts';
import { removeTree } from '../host/files/remove-tree.ts';
import { hostArchitecture } from '../host/process/architecture.ts';
import type { StatePaths } from '../host/state/paths.ts';
import { HOST_IMAGE } from '../recipe/named.ts';
import { digestOf, IMAGE_FORMAT } from './key.ts';
import { fingerprint, lastReference, writeReference } from './reference.ts';
import { currentMoment } from './store/durability.ts';
import { type LeasedImage, leaseImage, publishImage, removeIdleImage } from './store/images.ts';
import { type ImageManifest, imageFiles, ROOT, writeImage } from './store/manifest.ts';
import { ownImage } from './store/names.ts';
import { openWorkDirectory } from './store/work-directory.ts';
import {
  ACCOUNTS,
  BUILD,
  ENVIRONMENT,
  type HostTree,
  readHost,
  SOURCES,
  writeTree,
} from './tree/host-tree.ts';

/** Raised when kiln's own part of the tree changes. */
const FORMAT = 1;
/** The name under which the store remembers what the host had when the tree was made. */
const REFERENCE = `${HOST_IMAGE}:${FORMAT}`;

/** @throws KilnError E_FORBIDDEN */
export function requireHost(owner: ImageViewer | undefined): void {
  if (seesHost(owner)) return;
  throw new KilnError('E_FORBIDDEN', `the image ${HOST_IMAGE} is not for users of this host`, {
    hint: 'root’s kiln.yaml says so (users.hostImage); `kiln image ls` lists images that are',
  });
}

export function seesHost(owner: ImageViewer | undefined): boolean {
  return owner?.seesOfRoot({ name: HOST_IMAGE, private: false }) ?? true;
}

/** @param what what needs packages, or an /etc and /var of its own @throws KilnError E_ARGUMENT */
export function refuseHostImage({ host }: ImageManifest, what: string): void {
  if (host === undefined) return;
  throw new KilnError('E_ARGUMENT', `the image ${HOST_IMAGE} is not for ${what}`, {
    hint: 'it is this host’s own /usr, for commands: name another image with -r; `kiln image ls` lists them',
  });
}

/** The id of the image that is current; undefined if it must be made. */
export function currentHost(paths: StatePaths): string | undefined {
  const reference = lastReference(paths, REFERENCE);
  const same = reference?.files.every(({ path, stat }) => fingerprint(path).stat === stat);
  return same === true ? reference?.image : undefined;
}

/** The id of the image that was made last. */
export function lastHost(paths: StatePaths): string | undefined {
  return lastReference(paths, REFERENCE)?.image;
}

/** Makes the image, unless there is one of the same files. @throws KilnError E_IMAGE_MISSING, and what the store throws */
export async function makeHost(paths: StatePaths): Promise<LeasedImage> {
  const sources = SOURCES.map(fingerprint);
  const host = readHost();
  const id = idOf(host);
  const image = (await leaseImage(paths, id)) ?? (await make(paths, host));
  await ownImage(paths, id, ROOT, { name: HOST_IMAGE, from: HOST_IMAGE, private: false });
  const before = lastHost(paths);
  await writeReference(paths, REFERENCE, id, sources);
  // Nothing but this name leads to it.
  if (before !== undefined && before !== id) {
    const { tree } = await removeIdleImage(paths, before);
    if (tree !== undefined) await removeTree(tree);
  }
  return image;
}

async function make(paths: StatePaths, host: HostTree): Promise<LeasedImage> {
  await using work = await openWorkDirectory(paths);
  const directory = join(work.path, 'image');
  try {
    const { manifest } = writeHost(directory, host);
    const contents = { inputs: null, packages: [], linked: [], exactReasons: [] };
    const owner = { name: HOST_IMAGE, private: false };
    await writeImage(directory, manifest, contents, { uid: ROOT, owner });
    return await publishImage(paths, manifest.id, directory);
  } catch (error) {
    throw namingFullDisk(error, paths.store);
  }
}

/** Writes the tree into a folder, of which no store need know. */
export function writeHost(
  directory: string,
  host: HostTree = readHost(),
): { readonly tree: string; readonly manifest: ImageManifest } {
  const tree = imageFiles.tree(directory);
  const bytes = writeTree(tree, host.entries);
  const manifest: ImageManifest = {
    ...{ format: IMAGE_FORMAT, id: idOf(host), name: HOST_IMAGE, host: host.folders },
    description: 'this host’s own /usr, read-only',
    arch: hostArchitecture(),
    ...{ environment: ENVIRONMENT, user: BUILD, workdir: BUILD.home, accounts: ACCOUNTS },
    ...{ packageCount: 0, bytes, ownBytes: bytes, epoch: 0, transaction: 'none', warnings: [] },
    ...{ created: Date.now(), made: currentMoment() },
  };
  return { tree, manifest };
}

function idOf({ entries, folders }: HostTree): string {
  const hashed = entries.map((entry) =>
    'content' in entry ? { ...entry, content: hash('sha256', entry.content) } : entry,
  );
  return digestOf({ format: IMAGE_FORMAT, host: FORMAT, entries: hashed, folders });
}
