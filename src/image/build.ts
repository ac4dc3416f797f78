import { hash } from 'node:crypto';
import { constants, mkdirSync, openSync, renameSync } from 'node:fs';
import { join } from 'node:path';
import { defined } from '../defined.ts';
import type { Engine } from '../engine.ts';
import { KilnError } from '../errors.ts';
import { closing } from '../host/calls/descriptor.ts';
import { namingFullDisk } from '../host/calls/system-error.ts';
import { acquireLock, tryLock } from '../host/files/flock.ts';
import type { SandboxOwner } from '../host/libvirt/sandbox-host.ts';
import { requireArchitecture } from '../host/process/architecture.ts';
import { writeRecord } from '../host/state/checked-file.ts';
import { tellDamage } from '../host/state/damage.ts';
import { isDiskShort } from '../host/state/disk-watch.ts';
import type { StatePaths } from '../host/state/paths.ts';
import { span } from '../host/trace/trace.ts';
import type { Lock } from '../packages/repository/lock/lock.ts';
import { requiredKeys } from '../packages/repository/trust/keys.ts';
import type { LoadedImageRecipe } from '../recipe/load-image-recipe.ts';
import { findImageKernel } from '../sandbox/domain/machine/kernel-of-image.ts';
import type { GuestKernel } from '../sandbox/policy/guest-kernel.ts';
import { type AssembledTree, assembleTree, extendTree } from './assemble.ts';
import { digestOf, IMAGE_FORMAT, type ImageInputs } from './key.ts';
import type { OnImageProgress } from './progress.ts';
import { currentMoment } from './store/durability.ts';
import { isStillStored, type PackageUser, type StoredPackage } from './store/entry.ts';
import { type LeasedImage, leaseImage, publishImage, sweepImages } from './store/images.ts';
import {
  findContents,
  type ImageContents,
  type ImageManifest,
  type ImageOwner,
  imageDirectory,
  imageFiles,
  ownersOf,
  ROOT,
  readContents,
  readManifest,
  writeImage,
} from './store/manifest.ts';
import { knownDamage, noteIn } from './store/mark.ts';
import { ownImage } from './store/names.ts';
import { fetchSignedFiles, obtainPackages } from './store/packages.ts';
import { storageLeft } from './store/user-storage.ts';
import {
  callersLock,
  emptyTrash,
  ensureStore,
  noteNeeded,
  openWorkDirectory,
  sweepWorkDirectories,
} from './store/work-directory.ts';
import { type Account, ROOT_ACCOUNT, readAccounts } from './tree/accounts.ts';
import { customizeTree, type FileToWrite } from './tree/customize.ts';

export interface ImageSettings
  extends Pick<
    LoadedImageRecipe,
    'users' | 'environment' | 'user' | 'workdir' | 'scriptlets' | 'name' | 'description'
  > {
  readonly files: readonly FileToWrite[];
  readonly folders?: readonly string[] | undefined;
  readonly kernel?: true | undefined;
}

export interface ImageRequest {
  readonly engine: Engine;
  readonly lock: Lock;
  readonly settings: ImageSettings;
  /** The recipe or lock that names the image. No name means what a build makes for itself. */
  readonly from?: string | undefined;
  /** The recipe that the name means instead. */
  readonly meant?: string | undefined;
  readonly base?: string | undefined;
  /** A user who is not root, who owns the image and whose own recipe names its packages. */
  readonly user?: PackageUser | undefined;
  /** A user who is not root, for whose build it is made; its packages are fetched as root's are. */
  readonly owner?: PackageUser | undefined;
  readonly onProgress?: OnImageProgress | undefined;
  readonly signal?: AbortSignal | undefined;
}

/**
 * Leases the image of a request, and makes it first if there is none, or waits for the same caller's process that
 * does.
 * @throws KilnError of the repositories, E_DISK, E_DISK_FULL, E_DISK_LOW, E_FILE_CONFLICT, E_SCRIPTLET,
 * E_RPM_MISSING, E_IMAGE_USER, E_MACHINE_KERNEL
 */
export async function ensureImage(request: ImageRequest): Promise<LeasedImage> {
  const { engine, onProgress, signal } = request;
  const { paths } = engine;
  const inputs = await inputsOf(request);
  const id = digestOf(inputs);
  refuseHostFiles(request);
  const ready = await leaseImage(paths, id);
  if (ready !== undefined && findContents(paths, id).value !== undefined)
    return await ownedImage(request, ready);
  await ready?.[Symbol.asyncDispose]();
  ensureStore(paths);
  const lockPath = callersLock(paths, `image-${id}`, engine.owner?.uid);
  const wait = () => {
    onProgress?.({ kind: 'wait', image: id });
    return acquireLock(lockPath, { signal });
  };
  await using _lock = (await tryLock(lockPath)) ?? (await wait());
  try {
    const meanwhile = await leaseImage(paths, id);
    if (meanwhile !== undefined) {
      await mendContents(request, inputs, id);
      return await ownedImage(request, meanwhile);
    }
    await sweepWorkDirectories(paths);
    await sweepImages(paths);
    return await make(request, inputs, id);
  } catch (error) {
    if (isDiskShort(error)) await emptyTrash(paths);
    throw namingFullDisk(error, paths.store);
  }
}

function refuseHostFiles({ user, lock }: ImageRequest): void {
  if (user === undefined) return;
  const outside = lock.packages.find(({ location }) => location.startsWith('file:'));
  if (outside === undefined) return;
  throw new KilnError('E_REPOSITORY_METADATA', `${outside.nevra} is at ${outside.location}`, {
    hint: 'a repository of a user’s own names its packages relative to its folder',
  });
}

function ownerId({ user, owner }: ImageRequest): number {
  return (owner ?? user)?.uid ?? ROOT;
}

/** The user whose share the image takes; undefined for root's. */
function keeperOf(request: ImageRequest): SandboxOwner | undefined {
  return ownerId(request) === ROOT ? undefined : request.engine.owner;
}

/** What making the image may put on the disk, bytes. @throws KilnError E_DISK */
async function diskFor(request: ImageRequest): Promise<number> {
  const { disk } = request.settings.scriptlets;
  const keeper = keeperOf(request);
  if (keeper === undefined) return disk;
  return Math.min(disk, keeper.share.disk, await storageLeft(request.engine.paths, keeper));
}

/** What the owner calls it. It is private like its base, which may be a user's alone. */
function ownerIn({ engine, settings, lock, base, owner, from, meant }: ImageRequest): ImageOwner {
  const below = base === undefined ? undefined : readManifest(engine.paths, base);
  const isOpen =
    base === undefined || (below && ownersOf(engine.paths, below).get(ROOT)?.private === false);
  const isPrivate = lock.access !== undefined || isOpen !== true;
  const { name } = settings;
  return {
    ...{ name, private: isPrivate, ...(owner && { forBuilds: true }) },
    ...(from === undefined || meant !== undefined ? { names: [] } : {}),
    ...defined({ from }),
  };
}

async function ownedImage(request: ImageRequest, image: LeasedImage): Promise<LeasedImage> {
  const { engine, lock, user } = request;
  const { paths } = engine;
  const owner = ownerIn(request);
  try {
    const owners = ownersOf(paths, image.manifest);
    const keeper = keeperOf(request);
    if (keeper !== undefined && !owners.has(keeper.uid) && !owners.has(ROOT))
      await storageLeft(paths, keeper, image.manifest.ownBytes);
    if (user !== undefined && !owners.has(user.uid)) {
      ensureStore(paths);
      const disk = await diskFor(request);
      await obtainPackages(paths, lock, { ...request, disk, apart: true, caller: user });
    }
    const before = await ownImage(paths, image.manifest.id, ownerId(request), owner);
    if (before !== undefined) request.onProgress?.({ kind: 'rename', name: owner.name, before });
    return { ...image, manifest: { ...image.manifest, name: owner.name } };
  } catch (error) {
    await image[Symbol.asyncDispose]();
    throw error;
  }
}

/**
 * Writes a lost contents.json anew; the image's files are as good as before. All packages of the request count
 * as linked, which keeps a few more.
 */
async function mendContents(request: ImageRequest, inputs: ImageInputs, id: string): Promise<void> {
  const { paths } = request.engine;
  const { value, damage } = findContents(paths, id);
  if (value !== undefined) return;
  const path = imageFiles.contents(imageDirectory(paths, id));
  const linked = request.lock.packages.map(({ digest }) => digest);
  writeRecord(path, await contentsOf(request, inputs, { linked, exactReasons: [] }));
  tellDamage({ path, why: damage?.why ?? 'it is gone', done: 'it is written again' });
}

interface Assembled {
  readonly linked: readonly string[];
  readonly exactReasons: readonly string[];
}

async function contentsOf(
  { engine, lock, base }: ImageRequest,
  inputs: ImageInputs,
  { linked, exactReasons }: Assembled,
): Promise<ImageContents> {
  const below = base === undefined ? undefined : await readContents(engine.paths, base);
  const packages = [...(below?.packages ?? []), ...lock.packages];
  return { inputs, packages, linked: [...(below?.linked ?? []), ...linked], exactReasons };
}

export async function requestedImage(request: ImageParts): Promise<string> {
  return digestOf(await inputsOf(request));
}

async function make(request: ImageRequest, inputs: ImageInputs, id: string): Promise<LeasedImage> {
  using _ = span('make an image');
  requireArchitecture(`the image ${request.settings.name}`, request.lock.arch);
  const { engine, settings, lock, user, from, meant, onProgress, signal } = request;
  if (from !== undefined) onProgress?.({ kind: 'make', name: settings.name, from, meant });
  await using work = await openWorkDirectory(engine.paths);
  const needed = lock.packages.map(({ digest }) => digest);
  await noteNeeded(engine.paths, work, needed, signal);
  await using base = request.base === undefined ? undefined : await leaseBase(request);
  const disk = await diskFor(request);
  const parts = {
    engine,
    scriptlets: { ...settings.scriptlets, disk },
    fetchFiles: () => fetchSignedFiles(engine.paths, lock, { ...request, disk }),
    work: work.path,
    onProgress,
    signal,
  };
  const packages =
    base === undefined
      ? await obtainPackages(engine.paths, lock, {
          ...{ user, disk, apart: ownerId(request) !== ROOT, caller: engine.owner },
          ...{ onProgress, signal },
        })
      : [];
  const tree =
    base === undefined
      ? await assembleTree({ ...parts, packages })
      : await extendTree({ ...parts, base });
  const contents = await contentsOf(request, inputs, tree);
  using root = closing(openSync(tree.path, constants.O_RDONLY | constants.O_DIRECTORY));
  const added = customizeTree(root.fd, settings);
  const kernel = settings.kernel && (await findImageKernel(root.fd));
  const manifest = manifestOf(request, { id, tree, contents, kernel }, root.fd);
  await storageLeft(engine.paths, keeperOf(request), manifest.ownBytes);
  const directory = join(work.path, 'image');
  mkdirSync(directory, { mode: 0o700 });
  renameSync(tree.path, imageFiles.tree(directory));
  const below = base && imageDirectory(engine.paths, base.manifest.id);
  await writeImage(directory, manifest, contents, {
    ...{ uid: ownerId(request), owner: ownerIn(request), below },
    paths: tree.own && [...tree.own, ...added],
  });
  const published = await publishImage(engine.paths, id, directory);
  await refuseDamaged(engine.paths, published, packages, base);
  return await ownedImage(request, published);
}

/** Looked at once the image is seen: whoever finds damage later finds the image as well. */
async function refuseDamaged(
  paths: StatePaths,
  image: LeasedImage,
  packages: readonly StoredPackage[],
  base: LeasedImage | undefined,
): Promise<void> {
  const changed = packages.find((stored) => !isStillStored(paths, stored));
  const below = base && knownDamage(imageDirectory(paths, base.manifest.id));
  const damage = changed ? { path: changed.tree, why: 'a file in it was damaged' } : below;
  if (damage === undefined) return;
  noteIn(imageDirectory(paths, image.manifest.id), damage);
  await image[Symbol.asyncDispose]();
  const name = changed?.package.name ?? base?.manifest.name;
  throw new KilnError('E_STORE', `${name} was found to be damaged while an image was made of it`, {
    hint: 'try again: what is damaged is made again',
  });
}

async function leaseBase({ engine, base }: ImageRequest): Promise<LeasedImage> {
  const lease = await leaseImage(engine.paths, base!);
  if (lease !== undefined) return lease;
  throw new KilnError('E_IMAGE_MISSING', `there is no image ${base} to build on`, {
    hint: '`kiln image ls` lists the images; build the base image first',
  });
}

interface Made {
  readonly id: string;
  readonly tree: AssembledTree;
  readonly contents: ImageContents;
  readonly kernel: GuestKernel | undefined;
}

function manifestOf(
  { settings, lock }: ImageRequest,
  { id, tree, contents, kernel }: Made,
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
    ...defined({ kernel }),
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

interface ImageParts {
  readonly lock: Lock;
  readonly settings: ImageSettings;
  readonly base?: string | undefined;
}

async function inputsOf({ lock, settings, base }: ImageParts): Promise<ImageInputs> {
  return {
    format: IMAGE_FORMAT,
    arch: lock.arch,
    packages: lock.packages.map((entry) => entry.digest),
    keys: await requiredKeys(lock),
    base: base ?? null,
    files: settings.files.map(({ content, ...rest }) => ({
      ...rest,
      digest: hash('sha256', content, 'hex'),
    })),
    ...defined({ folders: settings.folders, kernel: settings.kernel }),
    users: settings.users,
    environment: settings.environment,
    user: settings.user,
    workdir: settings.workdir,
    scriptlets: settings.scriptlets.mode,
  };
}
