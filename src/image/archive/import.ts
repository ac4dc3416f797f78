import {
  chmodSync,
  closeSync,
  constants,
  existsSync,
  fstatSync,
  mkdirSync,
  openSync,
  realpathSync,
} from 'node:fs';
import { join } from 'node:path';
import { z } from 'zod';
import { defined } from '../../defined.ts';
import { isKilnCode, KilnError } from '../../errors.ts';
import { closing } from '../../host/calls/descriptor.ts';
import { hasErrno } from '../../host/calls/libc.ts';
import { namingFullDisk } from '../../host/calls/system-error.ts';
import { fileError } from '../../host/confine/frame.ts';
import { askConfined, FAULTS_OF_A_FILE } from '../../host/confine/run.ts';
import { AT_FDCWD, openDirectory } from '../../host/files/at.ts';
import { contentDigest } from '../../host/files/content.ts';
import { withLock } from '../../host/files/flock.ts';
import { heldParts } from '../../host/files/held.ts';
import { openWithin } from '../../host/files/user-file.ts';
import { beginStage } from '../../host/process/work.ts';
import {
  bytesFor,
  DEFAULT_DISK,
  DiskWatch,
  filesFor,
  isDiskShort,
} from '../../host/state/disk-watch.ts';
import type { StatePaths } from '../../host/state/paths.ts';
import type { IdRange } from '../../host/state/reservation.ts';
import { recipeOf } from '../../recipe/named.ts';
import { imageNameOf } from '../find.ts';
import { digestOf, IMAGE_FORMAT } from '../key.ts';
import { currentMoment } from '../store/durability.ts';
import { type LeasedImage, leaseImage, publishImage } from '../store/images.ts';
import {
  type ImageContents,
  type ImageManifest,
  imageFiles,
  ROOT,
  writeImage,
} from '../store/manifest.ts';
import { ownImage } from '../store/names.ts';
import {
  callersLock,
  emptyTrash,
  ensureStore,
  openWorkDirectory,
} from '../store/work-directory.ts';
import { type Account, ROOT_ACCOUNT, readAccounts } from '../tree/accounts.ts';
import type { UnpackLayersInput, UnpackLayersOutput } from './layer-writer.ts';
import {
  blobPath,
  fromOciArchitecture,
  linkOut,
  type OciConfig,
  type OciHealthcheck,
  readOciLayout,
  startOf,
} from './oci.ts';

export interface ImportOptions {
  /** By default the name is that of the file or folder: what an image says of itself names nothing here. */
  readonly name?: string;
  /** Where it comes from. */
  readonly from: string;
  readonly arch: string;
  /** Bytes that it may unpack to, in one file or folder for each 16 KiB; 16 GiB by default. */
  readonly maxBytes?: number;
  /** What the layout does not say. */
  readonly healthcheck?: OciHealthcheck;
  readonly uid?: number | undefined;
  /** Of an archive, which says nothing of itself. */
  readonly config?: OciConfig['config'];
  readonly madeOf?: ImageManifest['madeOf'];
  readonly signal?: AbortSignal | undefined;
}

export interface ImportedImage extends LeasedImage {
  /** What its name meant before. */
  readonly before: string | undefined;
}

const IMPORTABLE =
  'give the folder of an OCI layout (`skopeo copy … oci:FOLDER`), or a tar archive, plain or in gzip or zstd';

const outputSchema: z.ZodType<UnpackLayersOutput> = z.strictObject({
  bytes: z.number().min(0),
  entries: z.number().min(0),
  warnings: z.array(z.string().max(10_000)).max(100),
});

/** What an archive can be at fault for. */
export const FAULTS = ['E_ARCHIVE', 'E_ARCHIVE_HOSTILE', ...FAULTS_OF_A_FILE] as const;

interface Layer {
  readonly fd: number;
  readonly digest: string;
}

/**
 * Takes an OCI layout (a folder) or a tar archive of a root directory, plain or in gzip or zstd. A confined
 * child unpacks it.
 * @throws KilnError E_ARGUMENT for the name of a recipe, E_OCI, E_DISK, E_DISK_FULL, E_DISK_LOW, E_ARCHIVE, E_ARCHIVE_HOSTILE, E_IMAGE_USER
 */
export async function importImage(
  paths: StatePaths,
  source: string,
  options: ImportOptions,
): Promise<ImportedImage> {
  ensureStore(paths);
  const name = options.name ?? imageNameOf(source);
  refuseRecipesName(paths, name);
  const layers: Layer[] = [];
  try {
    const isOci = existsSync(join(source, 'oci-layout'));
    if (!isOci) layers.push(openLayer(source));
    const config: OciConfig = isOci
      ? withHealthcheck(await openOci(source, options, layers), options.healthcheck)
      : { architecture: options.arch, ...defined({ config: options.config }) };
    const imported = { layers: layers.map(({ digest }) => digest), config: config.config ?? {} };
    const id = digestOf({ format: IMAGE_FORMAT, imported });
    return await withLock(
      callersLock(paths, `image-${id}`, options.uid),
      async () => {
        const image =
          (await leaseImage(paths, id)) ??
          (await unpack(paths, id, config, layers, { ...options, name, source }));
        // A user who has the archive has everything that is in the image, so may own it.
        const owner = { name, from: options.from, private: false };
        const before = await ownImage(paths, id, options.uid ?? ROOT, owner);
        return { ...image, before, manifest: { ...image.manifest, name } };
      },
      { signal: options.signal },
    );
  } catch (error) {
    if (isDiskShort(error)) await emptyTrash(paths);
    throw namingFullDisk(error, paths.store);
  } finally {
    for (const { fd } of layers) closeSync(fd);
  }
}

function withHealthcheck(config: OciConfig, healthcheck: OciHealthcheck | undefined): OciConfig {
  if (healthcheck === undefined) return config;
  return { ...config, config: { Healthcheck: healthcheck, ...defined(config.config ?? {}) } };
}

async function openOci(
  source: string,
  options: ImportOptions,
  layers: Layer[],
): Promise<OciConfig> {
  const directory = heldParts(source) === undefined ? realpathSync(source) : source;
  const image = await readOciLayout(directory, options.arch);
  for (const descriptor of image.layers) {
    const layer = openLayer(blobPath(directory, descriptor), directory);
    layers.push(layer);
    if (`sha256:${layer.digest}` !== descriptor.digest) {
      throw new KilnError('E_OCI', `the layer ${descriptor.digest} of ${directory} is damaged`, {
        hint: 'copy the image again',
      });
    }
  }
  return image.config;
}

/** @param layout that no link may lead out of */
function openLayer(path: string, layout?: string): Layer {
  let fd: number;
  try {
    // O_NONBLOCK: a fifo must not block kiln.
    fd =
      layout === undefined
        ? openSync(path, constants.O_RDONLY | constants.O_NONBLOCK)
        : openWithin(path, layout);
  } catch (cause) {
    if (layout !== undefined && hasErrno(cause, 'EXDEV', 'ELOOP')) throw linkOut(path);
    throw new KilnError('E_ARCHIVE', `cannot read ${path}`, { hint: IMPORTABLE, cause });
  }
  if (!fstatSync(fd).isFile()) {
    closeSync(fd);
    throw new KilnError('E_ARCHIVE', `${path} is neither an archive nor an OCI layout`, {
      hint: IMPORTABLE,
    });
  }
  return { fd, digest: contentDigest(fd) };
}

async function unpack(
  paths: StatePaths,
  id: string,
  config: OciConfig,
  layers: readonly Layer[],
  options: ImportOptions & { readonly name: string; readonly source: string },
): Promise<LeasedImage> {
  await using work = await openWorkDirectory(paths);
  const directory = join(work.path, 'image');
  const tree = imageFiles.tree(directory);
  mkdirSync(tree, { recursive: true });
  chmodSync(tree, 0o755);
  const output = await unpackLayers(layers, tree, options);
  const { madeOf } = options;
  const manifest = {
    ...manifestOf(id, tree, config, output, options.name),
    ...defined({ madeOf }),
  };
  const contents: ImageContents = { inputs: null, packages: [], linked: [], exactReasons: [] };
  const owner = { name: options.name, private: false };
  await writeImage(directory, manifest, contents, { uid: options.uid ?? ROOT, owner });
  return await publishImage(paths, id, directory);
}

/** In a confined child whose root is the destination. @throws KilnError, whatever is wrong with the archive */
export async function unpackLayers(
  layers: readonly { readonly fd: number }[],
  destination: string,
  from: {
    readonly source: string;
    readonly maxBytes?: number | undefined;
    readonly maxEntries?: number;
    readonly whiteouts?: boolean;
    readonly overlay?: boolean;
    readonly ids?: IdRange;
    readonly signal?: AbortSignal | undefined;
  },
): Promise<UnpackLayersOutput> {
  const { source, maxBytes = DEFAULT_DISK, whiteouts = true, overlay = false, ids, signal } = from;
  const { maxEntries = filesFor(maxBytes) } = from;
  const input: UnpackLayersInput = { maxBytes, maxEntries, whiteouts, overlay };
  beginStage('unpacking files');
  using watch = new DiskWatch(destination);
  const given = signal === undefined ? [] : [signal];
  return await askConfined({
    task: 'image-unpack',
    input,
    fds: layers.map(({ fd }) => fd),
    destination,
    ...defined({ ids }),
    validate: (value) => outputSchema.parse(value),
    signal: AbortSignal.any([watch.signal, ...given]),
  }).catch((error: unknown) => {
    throw isKilnCode(error, ...FAULTS) ? fileError(source, error) : error;
  });
}

/**
 * Unpacks a tar archive, plain, in gzip or zstd, in a confined child whose root is the folder. Links in the archive
 * stay links. The folder gets owner and mode of the archive's own `./`, if it has one.
 * @returns what was left out
 * @throws KilnError E_ARCHIVE, E_ARCHIVE_HOSTILE, E_DISK, E_DISK_FULL, E_DISK_LOW
 */
export async function unpackArchive(
  source: string,
  destination: string,
  maxBytes: number,
): Promise<readonly string[]> {
  using layer = closing(openLayer(source).fd);
  const { warnings } = await unpackLayers([layer], destination, { source, maxBytes });
  return warnings;
}

function manifestOf(
  id: string,
  tree: string,
  { architecture, config }: OciConfig,
  { bytes, entries, warnings }: UnpackLayersOutput,
  name: string,
): ImageManifest {
  using root = closing(openDirectory(AT_FDCWD, tree));
  const accounts = readAccounts(root.fd);
  const labels = config?.Labels ?? {};
  const user = userOf(config?.User ?? '', accounts);
  return {
    format: IMAGE_FORMAT,
    id,
    name,
    description: labels['org.opencontainers.image.description'] ?? '',
    arch: fromOciArchitecture(architecture),
    environment: environmentOf(config?.Env ?? []),
    user,
    workdir: config?.WorkingDir?.startsWith('/') ? config.WorkingDir : '/',
    ...startOf(config),
    accounts,
    packageCount: 0,
    bytes,
    // Files without content take a disk, too.
    ownBytes: Math.max(bytes, bytesFor(entries)),
    epoch: 0,
    transaction: 'imported',
    warnings,
    created: Date.now(),
    made: currentMoment(),
  };
}

/** A recipe's name means that recipe. @throws KilnError E_ARGUMENT */
export function refuseRecipesName(paths: StatePaths, name: string): void {
  const recipe = recipeOf(paths, name);
  if (recipe === undefined) return;
  throw new KilnError(
    'E_ARGUMENT',
    `${name} means ${recipe === '/usr' ? '' : 'the recipe '}${recipe}, and no other image`,
    {
      hint: 'give it another name with --name',
    },
  );
}

function environmentOf(entries: readonly string[]): Record<string, string> {
  const pairs = entries.map((entry) => /^([A-Za-z_][A-Za-z0-9_]*)=([^\0]*)$/s.exec(entry));
  return Object.fromEntries(pairs.flatMap((pair) => (pair ? [[pair[1]!, pair[2]!]] : [])));
}

function userOf(text: string, accounts: readonly Account[]): Account {
  const [wanted = '', group] = text.split(':');
  if (wanted === '') return accounts.find(({ uid }) => uid === 0) ?? ROOT_ACCOUNT;
  const account = accounts.find(({ name, uid }) => name === wanted || String(uid) === wanted);
  const gid = group !== undefined && /^\d{1,5}$/.test(group) ? Number(group) : undefined;
  if (account !== undefined) return gid === undefined ? account : { ...account, gid };
  if (wanted === 'root') return ROOT_ACCOUNT;
  if (!/^\d{1,5}$/.test(wanted) || Number(wanted) > 65535) {
    throw new KilnError('E_IMAGE_USER', `the image has no user ${wanted} to run commands as`, {
      hint: 'add the user to the image, or change its configuration: `podman build` with USER',
    });
  }
  const uid = Number(wanted);
  return { name: wanted, uid, gid: gid ?? 0, home: '/', shell: '/bin/sh' };
}
