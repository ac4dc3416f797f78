import type { Repository } from '../../packages/repository/configuration.ts';
import type { SigningKeyFiles } from '../../packages/rpm/signature/signing-key.ts';
import type {
  Bind,
  SandboxLimits,
  SandboxSpecification,
} from '../../sandbox/policy/specification.ts';

/**
 * Parts of a build that can be given a network, or not, by themselves: making the source package
 * and finding out what it requires; rpmbuild's own run; installing what was built.
 */
export const NETWORK_PHASES = ['buildrequires', 'build', 'postinstall'] as const;
export type NetworkPhase = (typeof NETWORK_PHASES)[number];

/** What a package is built from. Paths are absolute, on the host. */
export type BuildSource =
  | {
      readonly kind: 'srpm';
      readonly path: string;
      /** A spec that takes the place of the package's own. */
      readonly spec?: string;
    }
  | {
      readonly kind: 'spec';
      readonly path: string;
      readonly spec?: undefined;
      /** A directory with what the spec names as Source and Patch. */
      readonly sources?: string;
    };

/** A named cache that is mounted into the sandbox and outlives it. */
export interface CacheMount {
  /** Letters, digits, `.`, `_`, `-`. */
  readonly name: string;
  /** Bytes it may hold; what was used longest ago goes when there is more. */
  readonly bytes: number;
}

/** What ends a build before its end: for `--buildsrpm` and `--installdeps`. */
type BuildStop = 'srpm' | 'dependencies';

/** Where rpmbuild is to start, with what is there already: its `--short-circuit`. */
export type ShortCircuit = 'build' | 'install' | 'binary';

/** An overlay that outlives the build's sandbox: kiln-mock's roots. */
interface KeptScratch {
  /** On the host, absolute: its `upper` has what is written, the build user's home with it. */
  readonly path: string;
  /** Empty to begin with. Otherwise what is there has all that the package requires: nothing is solved. */
  readonly fresh: boolean;
}

/** Everything that decides a build: plain and serialisable. */
export interface BuildRequest {
  /** The base image as `-r` takes it: a recipe's name or path, an image lock, an image id. */
  readonly image: string;
  readonly source: BuildSource;
  /** Where RPMs, logs and result.json go: absolute, on the host; made when missing. */
  readonly resultDirectory: string;
  /** Whose the files in it are, and which builds share caches. */
  readonly caller: { readonly uid: number; readonly gid: number };
  /** `NAME VALUE`, as rpmbuild's --define takes them. */
  readonly defines?: readonly string[];
  readonly with?: readonly string[];
  readonly without?: readonly string[];
  readonly nocheck?: boolean;
  /** rpmbuild's --target. */
  readonly target?: string;
  /** Handed to rpmbuild as they are. */
  readonly rpmbuildOptions?: readonly string[];
  readonly shortCircuit?: ShortCircuit;
  /**
   * The phases that see a network: libvirt's NETWORK or, with `host`, the host's own, or that reach
   * the hosts of a list by a proxy.
   */
  readonly network?: {
    readonly use: 'host' | { readonly name: string } | { readonly egress: readonly string[] };
    readonly phases: readonly NetworkPhase[];
  };
  /** Installed beside what the package asks for; anything dnf's command line takes. */
  readonly additionalPackages?: readonly string[];
  /** Beside those of the base image. */
  readonly repositories?: readonly Repository[];
  readonly caches?: readonly CacheMount[];
  /** What the build sees of the host. */
  readonly binds?: readonly Bind[];
  readonly limits?: SandboxLimits;
  /** Bytes the build may write; see SandboxSpecification. */
  readonly disk?: number;
  /** Milliseconds; `timeout` is for everything that runs in sandboxes together. */
  readonly time?: { readonly timeout?: number; readonly stallTimeout?: number };
  readonly hostname?: string;
  /** Keep the sandbox so many seconds when the build fails in it. */
  readonly keepSeconds?: number;
  /** Use no network on the host's side: what is not cached is an error. */
  readonly offline?: boolean;
  /** Ask the repositories for news even if their metadata has not expired. */
  readonly update?: boolean;
  /** A lock that an earlier build wrote (`lock.json`): its images are made, nothing is solved. */
  readonly lock?: string;
  /** Install what was built in a fresh sandbox. */
  readonly postinstall?: boolean;
  /** What a build should not depend on; for {@link verifyBuild} to change. */
  readonly surroundings?: Surroundings;
  readonly stopAfter?: BuildStop;
  /** Where the sandbox's own files stay; without it they are gone with the sandbox. */
  readonly scratch?: KeptScratch;
  readonly provenance?: ProvenanceOptions;
  /** Sign the packages with this key; KILN_SIGN_PASSPHRASE opens it where no file does. */
  readonly signing?: SigningKeyFiles;
  /** Files of the result directory that are not wanted. */
  readonly omit?: readonly ('hw_info.log' | 'installed_pkgs.log')[];
  /** What `kiln ps` shows; `kiln build` and the source's path when missing. */
  readonly shownAs?: readonly string[];
}

/** What surrounds a build in its sandbox. */
interface Surroundings {
  /** rpm's %_topdir, where it is not mock's. */
  readonly topDirectory?: string;
  /** How many the build is told to use (RPM_BUILD_NCPUS). */
  readonly processors: number;
  /** TZ. */
  readonly timeZone: string;
  /**
   * A directory of the host's, made here, that is the build user's home: a disk lists directories in
   * another order than memory does. Whoever asks for it watches the disk and throws it away.
   */
  readonly home: string;
}

/** What the provenance in the result directory is to be. */
export interface ProvenanceOptions {
  /** Path of the private key (PEM) that signs it. */
  readonly key?: string;
  /** URI of who runs this builder; without one the provenance claims none. */
  readonly builder?: string;
  /** The machine that did it, where a pool of them was asked. */
  readonly worker?: string;
  /** Stands in for all times, seconds since 1970: the same build then gives the same bytes. */
  readonly sourceDateEpoch?: number;
}

/** The network that a part of a build sees. */
export function networkIn(
  { network }: BuildRequest,
  phase: NetworkPhase,
): SandboxSpecification['network'] {
  if (network?.phases.includes(phase) !== true) return 'private';
  return network.use === 'host' || 'name' in network.use ? network.use : 'private';
}

/** The hosts that a part of a build reaches by a proxy, if there is one. */
export function egressIn(
  { network }: BuildRequest,
  phase: NetworkPhase,
): readonly string[] | undefined {
  if (network?.phases.includes(phase) !== true || network.use === 'host') return undefined;
  return 'egress' in network.use ? network.use.egress : undefined;
}
