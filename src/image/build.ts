import { createHash } from 'node:crypto';
import { constants, mkdirSync, openSync, renameSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { KilnError } from '../errors.ts';
import { closing } from '../host/calls/descriptor.ts';
import { namingFullDisk } from '../host/calls/system-error.ts';
import { acquireLock, tryLock } from '../host/files/flock.ts';
import { writeRecord } from '../host/state/checked-file.ts';
import { tellDamage } from '../host/state/damage.ts';
import { isDiskShort } from '../host/state/disk-watch.ts';
import { span } from '../host/trace/trace.ts';
import type { Lock } from '../packages/repository/lock/lock.ts';
import { requiredKeys } from '../packages/repository/trust/trust.ts';
import type { LoadedImageRecipe } from '../recipe/load-image-recipe.ts';
import type { Engine } from '../sandbox/open.ts';
import { type AssembledTree, assembleTree, type TreeOptions } from './assemble.ts';
import { extendTree } from './extend.ts';
import { IMAGE_FORMAT, type ImageInputs, imageId } from './key.ts';
import type { OnImageProgress } from './progress.ts';
import { currentMoment } from './store/durability.ts';
import { type LeasedImage, leaseImage, publishImage, sweepImages } from './store/images.ts';
import {
  findContents,
  type ImageContents,
  type ImageManifest,
  imageDirectory,
  imageFiles,
  readContents,
  readManifest,
} from './store/manifest.ts';
import { type ImageOwner, ownersOf, ownImage, ROOT, writeOwner } from './store/owners.ts';
import type { PackageUser } from './store/package-readers.ts';
import { fetchSignedFiles, obtainPackages, packagesLock } from './store/packages.ts';
import {
  emptyTrash,
  ensureStore,
  lockFile,
  openWorkDirectory,
  sweepWorkDirectories,
} from './store/work-directory.ts';
import { type Account, ROOT_ACCOUNT, readAccounts } from './tree/accounts.ts';
import { customizeTree, type FileToWrite } from './tree/customize.ts';

/** The settings of an image, apart from its packages. */
export interface ImageSettings
  extends Pick<
    LoadedImageRecipe,
    'users' | 'environment' | 'user' | 'workdir' | 'scriptlets' | 'name' | 'description'
  > {
  readonly files: readonly FileToWrite[];
}

export interface ImageRequest {
  readonly engine: Engine;
  /** The image's packages; with a base, those on top of the base's. */
  readonly lock: Lock;
  readonly settings: ImageSettings;
  /** The id of an image to start from. It must have rpm. */
  readonly base?: string | undefined;
  /** The user who is not root, who owns it and whose own recipe names its packages. */
  readonly user?: PackageUser | undefined;
  /** The user who is not root, who owns it, where its packages are fetched as root's are. */
  readonly owner?: PackageUser | undefined;
  readonly onProgress?: OnImageProgress | undefined;
  readonly signal?: AbortSignal | undefined;
}

/**
 * Leases the image of a request, and makes it first if there is none. If another process is making it, waits
 * for that process.
 * @throws KilnError of the repositories, E_DISK, E_DISK_FULL, E_DISK_LOW, E_FILE_CONFLICT, E_SCRIPTLET, E_RPM_MISSING, E_IMAGE_USER.
 */
export async function ensureImage(request: ImageRequest): Promise<LeasedImage> {
  const { engine, onProgress, signal } = request;
  const { paths } = engine;
  const inputs = await inputsOf(request);
  const id = imageId(inputs);
  refuseHostFiles(request);
  const ready = await leaseImage(paths, id);
  if (ready !== undefined && findContents(paths, id).value !== undefined)
    return await ownedImage(request, ready);
  await ready?.[Symbol.asyncDispose]();
  ensureStore(paths);
  const lockPath = lockFile(paths, `image-${id}`);
  let lock = await tryLock(lockPath);
  if (lock === undefined) {
    onProgress?.({ kind: 'wait', image: id });
    lock = await acquireLock(lockPath, { signal });
  }
  try {
    const meanwhile = await leaseImage(paths, id);
    if (meanwhile !== undefined) {
      await mendContents(request, inputs, id);
      return await ownedImage(request, meanwhile);
    }
    await sweepWorkDirectories(paths);
    await sweepImages(paths);
    await make(request, inputs, id);
    const made = await leaseImage(paths, id);
    if (made !== undefined) return made;
    throw new KilnError('E_IMAGE_MISSING', `image ${id} was deleted as soon as it was made`, {
      hint: 'another call of kiln deleted it: try again',
    });
  } catch (error) {
    if (isDiskShort(error)) await emptyTrash(paths);
    throw namingFullDisk(error, paths.store);
  } finally {
    await lock.release();
  }
}

/** A user's repository lies in a folder of a job's; its metadata may name any other. @throws KilnError */
function refuseHostFiles({ user, lock }: ImageRequest): void {
  if (user === undefined) return;
  const outside = lock.packages.find(({ location }) => location.startsWith('file:'));
  if (outside === undefined) return;
  throw new KilnError('E_REPOSITORY_METADATA', `${outside.nevra} is at ${outside.location}`, {
    hint: 'a repository of a user’s own names its packages relative to its folder',
  });
}

/** Whose an image is to be. */
function ownerId({ user, owner }: ImageRequest): number {
  return (owner ?? user)?.uid ?? ROOT;
}

/** What its owner is to call an image. It is private like its base, which may be a user's alone. */
function ownerIn({ engine, settings, lock, base }: ImageRequest): ImageOwner {
  const below = base === undefined ? undefined : readManifest(engine.paths, base);
  const isOpen =
    base === undefined || (below && ownersOf(engine.paths, below).get(ROOT)?.private === false);
  return { name: settings.name, private: lock.access !== undefined || isOpen !== true };
}

/** An image that is there, for whoever asks to be an owner of: a user has to have all that it is made of. */
async function ownedImage(request: ImageRequest, image: LeasedImage): Promise<LeasedImage> {
  const { engine, lock, settings, user } = request;
  const { paths } = engine;
  const owner = ownerIn(request);
  try {
    const owners = ownersOf(paths, image.manifest);
    if (user !== undefined && !owners.has(user.uid)) {
      ensureStore(paths);
      await obtainPackages(paths, lock, { ...request, disk: settings.scriptlets.disk });
    }
    ownImage(paths, image.manifest.id, ownerId(request), owner);
    return { ...image, manifest: { ...image.manifest, name: owner.name } };
  } catch (error) {
    await image[Symbol.asyncDispose]();
    throw error;
  }
}

/**
 * Writes a lost or damaged contents.json anew; the image's files are as good as before. All packages of the
 * request count as linked, which keeps a few more of them.
 */
async function mendContents(request: ImageRequest, inputs: ImageInputs, id: string): Promise<void> {
  const { paths } = request.engine;
  const { value, damage } = findContents(paths, id);
  if (value !== undefined) return;
  const below = request.base === undefined ? undefined : await readContents(paths, request.base);
  const path = imageFiles.contents(imageDirectory(paths, id));
  const packages = [...(below?.packages ?? []), ...request.lock.packages];
  const linked = [...(below?.linked ?? []), ...request.lock.packages.map(({ digest }) => digest)];
  writeRecord(path, { inputs, packages, linked, exactReasons: [] } satisfies ImageContents);
  tellDamage({ path, why: damage?.why ?? 'it is gone', done: 'it is written anew' });
}

/**
 * The id of the image that a request means, whether the image exists or not.
 * @throws KilnError E_KEY_MISSING
 */
export async function requestedImage(
  request: Pick<ImageRequest, 'lock' | 'settings' | 'base'>,
): Promise<string> {
  return imageId(await inputsOf(request));
}

async function make(request: ImageRequest, inputs: ImageInputs, id: string): Promise<void> {
  using _ = span('make an image');
  const { engine, settings, lock, user, onProgress, signal } = request;
  await using _packages = await acquireLock(packagesLock(engine.paths), { shared: true, signal });
  await using work = await openWorkDirectory(engine.paths);
  await using base = request.base === undefined ? undefined : await leaseBase(request);
  const parts = {
    engine,
    scriptlets: settings.scriptlets,
    fetchFiles: () => fetchSignedFiles(engine.paths, lock, request),
    work: work.path,
    user,
    onProgress,
    signal,
  };
  const tree =
    base === undefined ? await assembleLock(parts, lock) : await extendTree({ ...parts, base });
  const below = base && (await readContents(engine.paths, base.manifest.id));
  const contents: ImageContents = {
    inputs,
    packages: [...(below?.packages ?? []), ...lock.packages],
    linked: [...(below?.linked ?? []), ...tree.linked],
    exactReasons: tree.exactReasons,
  };
  const root = openSync(tree.path, constants.O_RDONLY | constants.O_DIRECTORY);
  using _root = closing(root);
  customizeTree(root, settings.users, settings.files);
  const manifest = manifestOf(request, id, tree, contents, root);
  const made = finish(work.path, tree.path, manifest, contents);
  writeOwner(made, ownerId(request), ownerIn(request));
  await publishImage(engine.paths, id, made);
}

/** Makes the tree of a lock's packages. */
async function assembleLock(
  parts: TreeOptions & Pick<ImageRequest, 'user'>,
  lock: Lock,
): Promise<AssembledTree> {
  const { engine, scriptlets, user, onProgress, signal } = parts;
  const { disk } = scriptlets;
  const packages = await obtainPackages(engine.paths, lock, { user, disk, onProgress, signal });
  return await assembleTree({ ...parts, packages });
}

async function leaseBase({ engine, base }: ImageRequest): Promise<LeasedImage> {
  const lease = await leaseImage(engine.paths, base!);
  if (lease !== undefined) return lease;
  throw new KilnError('E_IMAGE_MISSING', `there is no image ${base} to build on`, {
    hint: '`kiln image ls` lists the images; build the base image first',
  });
}

/** Writes the image's files; returns the path of its folder. */
function finish(
  work: string,
  tree: string,
  manifest: ImageManifest,
  contents: ImageContents,
): string {
  const directory = join(work, 'image');
  mkdirSync(directory, { mode: 0o700 });
  renameSync(tree, imageFiles.tree(directory));
  writeRecord(imageFiles.contents(directory), contents);
  writeFileSync(imageFiles.lease(directory), '', { mode: 0o600 });
  writeRecord(imageFiles.manifest(directory), manifest);
  return directory;
}

function manifestOf(
  { settings, lock }: ImageRequest,
  id: string,
  tree: AssembledTree,
  contents: ImageContents,
  root: number,
): ImageManifest {
  const accounts = readAccounts(root);
  const written = settings.files.reduce((sum, file) => sum + file.content.length, 0);
  const user = accountOf(settings.user, accounts);
  return {
    format: IMAGE_FORMAT,
    id,
    name: settings.name,
    description: settings.description,
    arch: lock.arch,
    environment: settings.environment,
    user,
    workdir: settings.workdir ?? user.home,
    accounts,
    packageCount: contents.packages.length,
    bytes: Math.round(tree.bytes) + written,
    ownBytes: Math.round(tree.ownBytes) + written,
    epoch: tree.epoch,
    transaction: tree.transaction,
    warnings: tree.warnings,
    created: Date.now(),
    made: currentMoment(),
  };
}

function accountOf(name: string, accounts: readonly Account[]): Account {
  const account = accounts.find((candidate) => candidate.name === name);
  if (account !== undefined) return account;
  if (name === ROOT_ACCOUNT.name) return ROOT_ACCOUNT;
  throw new KilnError('E_IMAGE_USER', `the image has no user ${name} to run commands as`, {
    hint: 'add it to `users` in the recipe',
  });
}

async function inputsOf({
  lock,
  settings,
  base,
}: Pick<ImageRequest, 'lock' | 'settings' | 'base'>): Promise<ImageInputs> {
  return {
    format: IMAGE_FORMAT,
    arch: lock.arch,
    packages: lock.packages.map((entry) => entry.digest),
    keys: await requiredKeys(lock),
    base: base ?? null,
    files: settings.files.map(({ content, ...rest }) => ({
      ...rest,
      digest: createHash('sha256').update(content).digest('hex'),
    })),
    users: settings.users,
    environment: settings.environment,
    user: settings.user,
    workdir: settings.workdir,
    scriptlets: settings.scriptlets.mode,
  };
}
