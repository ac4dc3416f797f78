import { statSync } from 'node:fs';
import { resolve } from 'node:path';
import { KilnError } from '../../errors.ts';
import type { HeldPath } from '../../host/files/held.ts';
import type { ImageLock } from '../../image/lock.ts';
import type { CacheMount, NetworkPhase } from '../../options/build.ts';
import { type Repository, resolveRepository } from '../../packages/repository/configuration.ts';
import { repositorySchema } from '../../packages/repository/configuration-schema.ts';
import type { SigningKeyFiles } from '../../packages/rpm/signature/signing-key.ts';
import type { SandboxLimits } from '../../sandbox/policy/limits.ts';
import type { Bind, SandboxSpecification } from '../../sandbox/policy/specification.ts';

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

type BuildStop = 'srpm' | 'dependencies';

export type ShortCircuit = 'build' | 'install' | 'binary';

interface KeptScratch {
  readonly path: string;
  /** Empty at first. Otherwise it has all requirements of the package, and nothing is solved. */
  readonly fresh: boolean;
}

export interface BuildRequest {
  readonly image: string;
  /** What `image` is made of; without it, that of the name. */
  readonly imageLock?: ImageLock;
  readonly source: BuildSource;
  readonly resultDirectory: HeldPath;
  readonly caller: { readonly uid: number; readonly gid: number };
  readonly defines?: readonly string[];
  readonly with?: readonly string[];
  readonly without?: readonly string[];
  readonly nocheck?: boolean;
  readonly target?: string;
  readonly rpmbuildOptions?: readonly string[];
  readonly shortCircuit?: ShortCircuit;
  readonly network?: {
    readonly use: 'host' | { readonly name: string } | { readonly egress: readonly string[] };
    readonly phases: readonly NetworkPhase[];
  };
  readonly additionalPackages?: readonly string[];
  readonly repositories?: readonly Repository[];
  readonly caches?: readonly CacheMount[];
  readonly binds?: readonly Bind[];
  readonly limits?: SandboxLimits;
  /** Bytes the build may write. */
  readonly disk?: number;
  /** Milliseconds; `timeout` is for all commands together. */
  readonly time?: { readonly timeout?: number; readonly stallTimeout?: number };
  readonly hostname?: string;
  readonly keepSeconds?: number;
  readonly offline?: boolean;
  readonly update?: boolean;
  /** The `lock.json` of an earlier build: its images are made, nothing is solved. */
  readonly lock?: HeldPath;
  readonly postinstall?: boolean;
  readonly surroundings?: Surroundings;
  readonly stopAfter?: BuildStop;
  readonly scratch?: KeptScratch;
  readonly provenance?: ProvenanceOptions;
  readonly signing?: SigningKeyFiles;
  readonly omit?: readonly ('hw_info.log' | 'installed_pkgs.log')[];
  readonly scan?: { readonly pattern: string; readonly onlyFailed: boolean } | undefined;
  readonly shownAs?: readonly string[];
  /** Builds whose logs have the room of one's together: a chain's. */
  readonly logSharers?: number;
  /** Replaces the environment of the image. */
  readonly environment?: Readonly<Record<string, string>>;
}

interface Surroundings {
  readonly topDirectory?: string;
  readonly processors: number;
  readonly timeZone: string;
  /** The build user's home on a disk, which lists directories in another order than memory. The caller removes it. */
  readonly home: string;
}

export interface ProvenanceOptions {
  readonly key?: HeldPath;
  readonly builder?: string;
  readonly worker?: string;
  /** Replaces all times, seconds since 1970: the same build then gives the same bytes. */
  readonly sourceDateEpoch?: number;
}

export function networkIn(
  { network }: BuildRequest,
  phase: NetworkPhase,
): SandboxSpecification['network'] {
  if (network?.phases.includes(phase) !== true) return 'private';
  return network.use === 'host' || 'name' in network.use ? network.use : 'private';
}

export function egressIn(
  { network }: BuildRequest,
  phase: NetworkPhase,
): readonly string[] | undefined {
  if (network?.phases.includes(phase) !== true || network.use === 'host') return undefined;
  return 'egress' in network.use ? network.use.egress : undefined;
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
  const [where = '', ...parts] = text.split(',gpgkey=');
  const [gpgkey] = parts;
  const isUrl = /^[a-z]+:\/\//.test(where);
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
  if (statSync(path, { throwIfNoEntry: false })?.isDirectory()) return path;
  throw new KilnError('E_ARGUMENT', `--addrepo ${written}: there is no such directory`, {
    hint: 'name a folder that has repodata/ (createrepo_c makes it), or a URL',
  });
}
