import { closeSync, constants, fstatSync } from 'node:fs';
import { type Collection, collectArtifacts } from '../../../artifacts/collect.ts';
import type { Artifact } from '../../../artifacts/manifest.ts';
import { listDirectory } from '../../../artifacts/source.ts';
import { Budget } from '../../../artifacts/warning.ts';
import { KilnError } from '../../../errors.ts';
import { openPath } from '../../../host/files/at.ts';
import { openInTree } from '../../../image/tree/path.ts';
import type { RpmIdentity } from '../../../packages/rpm/package.ts';
import { readIdentities } from '../../../packages/rpm/read.ts';
import type { BuildRun } from '../build-run.ts';
import type { BuildSandbox } from '../build-sandbox.ts';
import type { BuiltPackage } from './report.ts';

/** More packages than any spec makes; each costs a line in result.json. */
const MAX_PACKAGES = 20_000;

/** What came out of a sandbox. */
export interface CollectedPackages {
  readonly packages: readonly BuiltPackage[];
  readonly sourcePackage: BuiltPackage | undefined;
  readonly collection: Collection;
}

/** One package file in a sandbox. */
interface Found {
  /** In the sandbox. */
  readonly folder: string;
  /** Without a folder. */
  readonly file: string;
  readonly identity: RpmIdentity;
}

/**
 * Copies the packages that a build made into the result directory. Before that each is read in a
 * confined child; nothing that is no package comes out. All processes of the sandbox must be dead.
 * @throws KilnError E_BUILD_OUTPUT, E_SANDBOX_GONE, and what {@link collectArtifacts} throws.
 */
export async function collectPackages(
  run: BuildRun,
  sandbox: BuildSandbox,
): Promise<CollectedPackages> {
  const { request, signal, warn } = run;
  const rootFd = sandbox.sandbox.openRoot();
  try {
    const folders = [`${sandbox.topDirectory}/RPMS`, `${sandbox.topDirectory}/SRPMS`];
    const found = await findPackages(rootFd, folders, run);
    const collection = await collectArtifacts({
      rootFd,
      patterns: folders
        .filter((folder) => found.some((entry) => entry.folder === folder))
        .map((folder) => `${folder}/*.rpm`),
      workdir: '/',
      destination: request.resultDirectory,
      owner: request.caller,
      signal,
      onWarning: warn,
    });
    // Fails where the sandbox is gone: with its init its mounts went, and what was read of its tree was empty.
    await sandbox.sandbox.killAll();
    const artifacts = new Map(collection.artifacts.map((artifact) => [artifact.path, artifact]));
    const built = found.map((entry) => describe(entry, artifacts.get(entry.file)));
    return {
      packages: built.filter(({ isSource }) => !isSource).sort(byFile),
      sourcePackage: built.find(({ isSource }) => isSource),
      collection,
    };
  } finally {
    closeSync(rootFd);
  }
}

/** The packages in these folders of the sandbox; a link or device that is called like one is left out. */
async function findPackages(
  rootFd: number,
  folders: readonly string[],
  run: BuildRun,
): Promise<Found[]> {
  const budget = new Budget(undefined, run.signal);
  const fds: number[] = [];
  try {
    const files: { readonly folder: string; readonly file: string; readonly path: string }[] = [];
    for (const folder of folders) {
      const fd = openInTree(rootFd, folder, constants.O_RDONLY | constants.O_DIRECTORY);
      if (fd === undefined) continue;
      fds.push(fd);
      for (const name of listDirectory(fd, budget)) {
        const file = name.toString();
        if (!file.endsWith('.rpm') || !isFile(fd, name, folder)) continue;
        files.push({ folder, file, path: `/proc/self/fd/${fd}/${file}` });
      }
    }
    if (files.length > MAX_PACKAGES) {
      throw new KilnError('E_BUILD_OUTPUT', `the build made ${files.length} packages`, {
        hint: `${MAX_PACKAGES} are the most that kiln takes`,
      });
    }
    const found: Found[] = [];
    const paths = files.map(({ path }) => path);
    for await (const result of readIdentities(paths, { signal: run.signal })) {
      const { folder, file } = files[result.index]!;
      if (result.error !== undefined) throw notAPackage(file, result.error);
      found.push({ folder, file, identity: result.package });
    }
    return found;
  } finally {
    for (const fd of fds) closeSync(fd);
  }
}

function isFile(folder: number, name: Buffer, path: string): boolean {
  const fd = openPath(folder, name);
  try {
    const stats = fstatSync(fd);
    if (stats.isDirectory()) throw notAPackage(`${path}/${name}`, new Error('it is a directory'));
    return stats.isFile();
  } finally {
    closeSync(fd);
  }
}

function notAPackage(name: string, cause: Error): KilnError {
  return new KilnError('E_BUILD_OUTPUT', `the build made ${name}, which is not a package`, {
    cause,
    hint: 'only rpmbuild may write to RPMS and SRPMS; look for what else does in the spec',
  });
}

function describe({ file, identity }: Found, artifact: Artifact | undefined): BuiltPackage {
  const { name, epoch, version, release, arch, isSource } = identity;
  const { summary, license, vendor, url } = identity;
  const evr = `${epoch === null || epoch === 0 ? '' : `${epoch}:`}${version}-${release}`;
  return {
    file,
    nevra: `${name}-${evr}.${arch}`,
    isSource,
    sha256: artifact?.sha256 ?? '',
    size: artifact?.size ?? 0,
    identity: { name, epoch, version, release, arch, summary, license, vendor, url },
  };
}

function byFile(a: BuiltPackage, b: BuiltPackage): number {
  return a.file < b.file ? -1 : Number(a.file > b.file);
}
