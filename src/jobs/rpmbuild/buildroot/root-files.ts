import { readFile, statfs } from 'node:fs/promises';
import { arch, cpus, freemem, release, totalmem } from 'node:os';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { z } from 'zod';
import { KilnError, reasonOf } from '../../../errors.ts';
import { SmallCache } from '../../../host/state/checked-file.ts';
import type { StatePaths } from '../../../host/state/paths.ts';
import { type ImageLock, imageLock, imageLockSchema } from '../../../image/lock.ts';
import type { RecipePlace } from '../../../image/read-recipe.ts';
import { reachOf } from '../../../image/store/entry.ts';
import { fetchPackages, packageUrls } from '../../../packages/repository/fetch-packages.ts';
import {
  type Lock,
  type LockedPackage,
  lockSchema,
  readLockFile,
} from '../../../packages/repository/lock/lock.ts';
import type { OpenOptions } from '../../../packages/repository/open.ts';
import type { RpmPackage } from '../../../packages/rpm/package.ts';
import { readRpms } from '../../../packages/rpm/read.ts';
import type { BuildJob } from '../build-job.ts';
import type { PreparedBuild } from '../prepare.ts';
import type { BuildBase } from './base.ts';
import type { Layer } from './layer.ts';

/** Images whose lists are cached, two files of some 100 KB each. */
const KEPT = 200;

/** mock's format of installed_pkgs.log. */
const QUERY =
  '%{NAME}-%|EPOCH?{%{EPOCH}:}:{}|%{VERSION}-%{RELEASE}.%{ARCH} %{BUILDTIME} %{SIZE} %{PKGID} installed\\n';

/** Writes installed_pkgs.log from the image's own rpm. An image never changes, so each is asked once. */
export async function writeInstalled(
  job: BuildJob,
  base: BuildBase,
  { sandbox, image }: PreparedBuild,
): Promise<void> {
  if (job.request.omit?.includes('installed_pkgs.log') === true) return;
  const cache = rootCache(reachOf(job.engine.paths, base.user).paths);
  const name = `${image.manifest.id}.installed`;
  let list = await cache.read(name);
  if (list === undefined) {
    const chunks: Buffer[] = [];
    const end = await sandbox.run(['rpm', '-qa', '--qf', QUERY], {
      ...job.command('root.log'),
      onOutput: (chunk) => chunks.push(chunk),
    });
    list = Buffer.concat(chunks).toString('utf8').split('\n').filter(Boolean).sort().join('\n');
    if (end.exitCode === 0) await cache.write(name, list);
  }
  job.write('installed_pkgs.log', `${list}\n`);
}

export async function writeLocks(
  job: BuildJob,
  base: BuildBase,
  { image, layer, requires }: PreparedBuild,
): Promise<void> {
  const lock = buildLock(base, layer, requires);
  if (lock === undefined) {
    const message = 'no lock.json: it is not known where the packages of the image came from';
    job.warn({ code: 'no-lock', message });
    return;
  }
  job.write('lock.json', `${JSON.stringify(job.engine.renamed(lock), undefined, 1)}\n`);
  try {
    job.write('buildroot_lock.json', await buildrootLock(job, base, image, layer));
  } catch (error) {
    job.signal.throwIfAborted();
    const why = reasonOf(error);
    job.warn({ code: 'no-buildroot-lock', message: `no buildroot_lock.json: ${why}` });
  }
}

/** Cached, as an image never changes and its base's packages are in most others. */
async function buildrootLock(
  job: BuildJob,
  base: BuildBase,
  image: PreparedBuild['image'],
  { lock, whole }: PreparedBuild['layer'],
): Promise<string> {
  const { paths, reach } = reachOf(job.engine.paths, base.user);
  const cache = rootCache(paths);
  const textOf = async (id: string, packages: Lock, below?: string) => {
    const known = await cache.read(`${id}.buildroot`);
    if (known !== undefined) return known;
    const others = below === undefined ? [] : (JSON.parse(below) as BuildrootLock).buildroot.rpms;
    const options = { paths, reach, signal: job.signal };
    const files = await fetchPackages(packages, options);
    const root = await exportBuildrootLock(packages, files, options, others);
    const text = `${JSON.stringify(job.engine.renamed(root), undefined, 4)}\n`;
    await cache.write(`${id}.buildroot`, text);
    return text;
  };
  const below = base.lock?.packages;
  if (below === undefined) throw new TypeError('a base with a lock has a root with one');
  if (lock === null || whole) return await textOf(image.manifest.id, lock ?? below);
  return await textOf(image.manifest.id, lock, await textOf(base.image.manifest.id, below));
}

function rootCache({ cache }: StatePaths): SmallCache {
  return new SmallCache(join(cache, 'roots'), KEPT);
}

export async function writeHardware(job: BuildJob): Promise<void> {
  const [cpuinfo, space] = await Promise.all([
    readFile('/proc/cpuinfo', 'utf8').catch(() => ''),
    statfs(job.engine.paths.root).catch(() => undefined),
  ]);
  const model = /^model name\s*: (.*)$/m.exec(cpuinfo)?.[1] ?? 'unknown';
  const flags = /^(?:flags|Features)\s*: (.*)$/m.exec(cpuinfo)?.[1] ?? '';
  const mebibytes = (bytes: number) => `${Math.round(bytes / 2 ** 20)} MiB`;
  const lines = [
    `Linux ${release()} ${arch()}`,
    `CPU: ${cpus().length} x ${model}`,
    `Flags: ${flags}`,
    `Memory: ${mebibytes(totalmem())}, ${mebibytes(freemem())} free`,
    ...(space === undefined
      ? []
      : [
          `Disk: ${mebibytes(space.blocks * space.bsize)}, ${mebibytes(space.bavail * space.bsize)} free`,
        ]),
  ];
  job.write('hw_info.log', `${lines.join('\n')}\n`);
}

const KIND = 'kiln-build-lock';

/** The image of a build, pinned. A build from it needs no solver and no metadata, and has an image of the same id. */
const buildLockSchema = z.strictObject({
  kind: z.literal(KIND),
  format: z.literal(1),
  image: imageLockSchema,
  buildRequires: z.array(z.string()),
  layer: lockSchema.nullable().describe('packages on top of the image'),
});

type BuildLock = z.output<typeof buildLockSchema>;

/** Undefined where the repositories of the base are not known. Equal locks give equal bytes. */
function buildLock(
  base: BuildBase,
  layer: Layer,
  buildRequires: readonly string[],
): BuildLock | undefined {
  const image = lockedImage(base, layer);
  if (image === undefined) return undefined;
  return buildLockSchema.parse({
    kind: KIND,
    format: 1,
    image,
    buildRequires: [...buildRequires].sort(),
    layer: layer.whole ? null : layer.lock,
  });
}

function lockedImage(base: BuildBase, { whole, lock }: Layer): ImageLock | undefined {
  if (!whole || lock === null) return base.lock;
  return imageLock(base.settings, lock, base.lock?.asked ?? '', base.modules);
}

/** @throws KilnError E_LOCK_READ, E_LOCK_INVALID; E_HOST_NOT_ALLOWED for what lies elsewhere on the host */
export async function readBuildLock(place: RecipePlace, path: string): Promise<BuildLock> {
  const lock = readLockFile(path, {
    schema: buildLockSchema,
    name: 'lock of a build',
    hint: 'take the lock.json of a result folder of `kiln build`',
  });
  const { boundLock } = await import('../../../image/given-lock.ts');
  const packages = await boundLock(place, path, lock.image.packages);
  const layer = lock.layer && (await boundLock(place, path, lock.layer));
  return { ...lock, image: { ...lock.image, packages }, layer };
}

interface BuildrootRpm {
  readonly name: string;
  readonly arch: string;
  readonly epoch: string | null;
  readonly version: string;
  readonly release: string;
  readonly license: string;
  readonly sigmd5: string;
  /** The last eight digits of the id of the key that signed it. */
  readonly signature: string | null;
  readonly url: string;
}

/** mock's buildroot_lock.json (its docs/buildroot-lock-schema-1.1.0.json). */
export interface BuildrootLock {
  readonly version: string;
  readonly buildroot: { readonly rpms: readonly BuildrootRpm[] };
  readonly config: { readonly target_arch: string; readonly legal_host_arches: readonly string[] };
}

/**
 * Writes a lock as mock's buildroot_lock.json, without mock's `bootstrap`.
 * @param files the packages' paths by digest: the format wants what only their headers say
 * @param others packages that are not in `lock`, from an earlier one
 * @throws KilnError E_RPM_…; E_DOWNLOAD if the mirrors of a repository cannot be found out.
 */
export async function exportBuildrootLock(
  lock: Lock,
  files: ReadonlyMap<string, string>,
  options: OpenOptions,
  others: readonly BuildrootRpm[] = [],
): Promise<BuildrootLock> {
  const urls = await packageUrls(lock, options);
  const paths = lock.packages.map(({ digest }) => files.get(digest) ?? '');
  const rpms: BuildrootRpm[] = [...others];
  for await (const result of readRpms(paths, { signal: options.signal })) {
    if (result.error !== undefined) throw result.error;
    const entry = lock.packages[result.index];
    if (entry !== undefined) rpms.push(describe(entry, result.package, urls, result.file));
  }
  // mock sorts by name and architecture.
  rpms.sort((a, b) => (`${a.name} ${a.arch}` < `${b.name} ${b.arch}` ? -1 : 1));
  const { arch } = lock;
  return {
    version: '1.1.0',
    buildroot: { rpms },
    config: { target_arch: arch, legal_host_arches: [arch] },
  };
}

function describe(
  entry: LockedPackage,
  found: RpmPackage,
  urls: ReadonlyMap<string, string>,
  path: string,
): BuildrootRpm {
  const { name, arch, version, release, epoch, license } = found;
  const digest = found.digests.find(
    ({ scope, algorithm }) => scope === 'header+payload' && algorithm === 'md5',
  );
  if (digest === undefined) {
    throw new KilnError('E_LOCK_EXPORT', `${entry.nevra} has no MD5 of header and payload`, {
      hint: "packages of RPM's format 6 have none; a buildroot lock cannot name them",
    });
  }
  const [signature] = found.signatures;
  return {
    name,
    arch,
    version,
    release,
    epoch: epoch === null ? null : String(epoch),
    license,
    sigmd5: digest.expected,
    signature: signature === undefined ? null : signature.keyId.slice(-8),
    url: urls.get(entry.digest) ?? pathToFileURL(path).href,
  };
}
