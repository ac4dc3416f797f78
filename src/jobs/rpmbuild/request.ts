import { statSync } from 'node:fs';
import { resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import { some } from '../../defined.ts';
import { KilnError } from '../../errors.ts';
import { attempt } from '../../host/calls/libc.ts';
import { foundAt, type HeldPath } from '../../host/files/held.ts';
import type { ImageLock } from '../../image/lock.ts';
import type { ASKED_OF_BUILDS, NetworkPhase } from '../../options/build.ts';
import type { ValuesOf } from '../../options/row.ts';
import { type Repository, resolveRepository } from '../../packages/repository/configuration.ts';
import { repositorySchema } from '../../packages/repository/configuration-schema.ts';
import type {
  Bind,
  SandboxSpecification,
  SnapshotLayer,
} from '../../sandbox/policy/specification.ts';

export type BuildSource =
  | {
      readonly kind: 'srpm';
      readonly path: HeldPath;
      readonly spec?: HeldPath;
    }
  | {
      readonly kind: 'spec';
      readonly path: HeldPath;
      readonly spec?: undefined;
      readonly sources?: HeldPath;
    };

interface KeptScratch {
  readonly path: string;
  /** Empty at first. Otherwise it has all requirements of the package, and nothing is solved. */
  readonly fresh: boolean;
  /** Between the image and it. */
  readonly layers?: readonly SnapshotLayer[];
}

/** What the rows of ASKED_OF_BUILDS say. `timeout` is for all commands together. */
export type BuildOptions = Partial<ValuesOf<typeof ASKED_OF_BUILDS>>;

/** How packages are built, whichever these are. */
export interface BuildSettings extends BuildOptions {
  readonly image: string;
  /** What `image` is made of; without it, that of the name. */
  readonly imageLock?: ImageLock;
  readonly caller: { readonly uid: number; readonly gid: number };
  readonly repositories?: readonly Repository[];
  readonly binds?: readonly Bind[];
  readonly hostname?: string;
  readonly surroundings?: Surroundings;
  readonly scratch?: KeptScratch;
  /** The image has all requirements of the package, and nothing is solved: rpmbuild says what is missing. */
  readonly isPrepared?: boolean;
  /** The machine of a pool, for the provenance. */
  readonly worker?: string;
  /** Replaces all times, seconds since 1970: the same build then gives the same bytes. */
  readonly sourceDateEpoch?: number;
  readonly omit?: readonly ('hw_info.log' | 'installed_pkgs.log')[];
  readonly scan?: { readonly pattern: string; readonly onlyFailed: boolean } | undefined;
  readonly shownAs?: readonly string[];
  /** Builds whose logs have the room of one's together: a chain's. */
  readonly logSharers?: number;
  /** Replaces the environment of the image. */
  readonly environment?: Readonly<Record<string, string>>;
}

/** A build before its folder for results is opened. */
export interface AskedBuild extends BuildSettings {
  readonly source: BuildSource;
}

export interface BuildRequest extends AskedBuild {
  readonly resultDirectory: HeldPath;
  readonly stopAfter?: 'srpm' | 'dependencies';
}

interface Surroundings {
  readonly topDirectory?: string;
  readonly processors: number;
  readonly timeZone: string;
  /** The build user's home on a disk, which lists directories in another order than memory. The caller removes it. */
  readonly home: string;
}

export function networkIn(
  { networkPhases = [], network = 'host', egress = [] }: BuildOptions,
  phase: NetworkPhase,
): SandboxSpecification['network'] {
  return networkPhases.includes(phase) && egress.length === 0 ? network : 'private';
}

export function egressIn(
  { networkPhases = [], egress = [] }: BuildOptions,
  phase: NetworkPhase,
): readonly string[] | undefined {
  return networkPhases.includes(phase) ? some(egress) : undefined;
}

function addedParts(text: string) {
  const [where = '', gpgkey] = text.split(',gpgkey=');
  return { where, gpgkey, isUrl: /^[a-z]+:\/\//.test(where) };
}

/** What an `--addrepo` names of this host. */
export function addedPaths(text: string): string[] {
  const { where, gpgkey, isUrl } = addedParts(text);
  const folder = isUrl ? attempt(() => fileURLToPath(where)) : where;
  return [folder, gpgkey].filter((path) => path !== undefined);
}

/**
 * The repository of an `--addrepo`: a directory or a URL, with `,gpgkey=FILE` where packages are signed. Packages
 * that come by plain http must be signed: nothing else would protect them.
 * @param index tells several apart
 * @throws KilnError E_ARGUMENT, E_REPOSITORY_CONFIGURATION
 */
export function addedRepository(
  text: string,
  index: number,
  arch: string,
  cwd: string,
): Repository {
  const { where, gpgkey, isUrl } = addedParts(text);
  const place = isUrl ? { baseurl: where } : { directory: directory(resolve(cwd, where), where) };
  if (where.startsWith('http:') && gpgkey === undefined) {
    const why = 'without gpgcheck a forged package would not be noticed';
    throw new KilnError('E_ARGUMENT', `--addrepo ${where}: ${why}`, {
      hint: 'use https, or name the key of its packages: --addrepo URL,gpgkey=FILE',
    });
  }
  const parsed = repositorySchema.safeParse({
    id: `addrepo${index + 1}`,
    name: where,
    ...place,
    gpgcheck: gpgkey !== undefined,
    ...(gpgkey === undefined ? {} : { gpgkey: resolve(cwd, gpgkey) }),
    // An added repository changes while its owner works.
    metadata_expire: 0,
  });
  if (!parsed.success) {
    throw new KilnError('E_ARGUMENT', `--addrepo ${where}: ${parsed.error.issues[0]?.message}`, {
      hint: 'give a URL (https:, http: or file:), or a folder that has repodata/',
    });
  }
  return resolveRepository(parsed.data, { arch, baseDirectory: cwd });
}

function directory(path: string, written: string): string {
  if (statSync(foundAt(path), { throwIfNoEntry: false })?.isDirectory()) return path;
  throw new KilnError('E_ARGUMENT', `--addrepo ${written}: there is no such folder`, {
    hint: 'name a folder that has repodata/ (createrepo_c makes it), or a URL',
  });
}
