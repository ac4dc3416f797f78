import type { Artifact } from '../../../artifacts/manifest.ts';
import type { ArtifactWarning } from '../../../artifacts/warning.ts';
import type { EgressEntry } from '../../../egress/rule.ts';
import type { KilnError } from '../../../errors.ts';
import type { CgroupUsage } from '../../../host/cgroup/cgroup-usage.ts';
import type { OnImageProgress } from '../../../image/progress.ts';
import type { RpmIdentity } from '../../../packages/rpm/package.ts';
import type { CommandFacts } from '../../../sandbox/command/command-facts.ts';
import type { SandboxFacts } from '../../../sandbox/command/facts.ts';
import type { CommandEnd } from '../../../sandbox/door/supervise.ts';
import type { Course } from '../../run/timeline.ts';
import type { BuildRequest } from '../request.ts';

/**
 * The parts of a build, in their order; one that is not needed does not appear. `prep`, `compile`,
 * `install`, `check` and `package` are the parts of rpmbuild's own run, by what it prints.
 */
export type BuildPhase =
  | 'input'
  | 'image'
  | 'sandbox'
  | 'srpm'
  | 'buildrequires'
  | 'dependencies'
  | 'dynamic-buildrequires'
  | 'build'
  | 'prep'
  | 'compile'
  | 'install'
  | 'check'
  | 'package'
  | 'collect'
  | 'postinstall'
  | 'verify'
  | 'sign'
  | 'destroy';

/** The log files of a result directory, by mock's names. */
export type LogName = 'build.log' | 'root.log';

/** Something that stops nothing; `code` is stable. */
export type BuildWarning =
  | ArtifactWarning
  | {
      readonly code:
        | 'solver'
        /** lock.json: where the base image's packages came from is not known. */
        | 'no-lock'
        | 'no-buildroot-lock'
        /** There is a cache for ccache, and no ccache in the image. */
        | 'no-ccache'
        /** --postinstall: a scriptlet failed, and the package is installed all the same. */
        | 'scriptlet';
      readonly message: string;
    };

/** What a caller hears of a build while it runs. All are optional. */
export interface BuildHooks {
  /** Ends the build: its sandbox is destroyed, and the report's failure is the signal's reason. */
  readonly signal?: AbortSignal;
  readonly onPhase?: (phase: BuildPhase, event: 'start' | 'finish' | 'fail') => void;
  /** What goes into a log, as it comes. */
  readonly onOutput?: (log: LogName, chunk: Buffer) => void;
  readonly onImageProgress?: OnImageProgress;
  readonly onWarning?: (warning: BuildWarning) => void;
  /** Whether the result has samples of what was used; it has, unless this is false. */
  readonly samples?: boolean;
  /** What state.log calls the phases, and the build as a whole, where that is not kiln's own name. */
  readonly stateNames?: Readonly<Partial<Record<BuildPhase | 'whole', string>>>;
}

/** What the header of a package that was built says: for its SBOM. */
type BuiltIdentity = Pick<
  RpmIdentity,
  ('name' | 'epoch' | 'version' | 'release' | 'arch') | ('summary' | 'license' | 'vendor' | 'url')
>;

/** A package that a build made. */
export interface BuiltPackage {
  /** In the result directory. */
  readonly file: string;
  /** name-[epoch:]version-release.arch, `src` for the source package. */
  readonly nevra: string;
  readonly isSource: boolean;
  /** Lower-case hex, of the whole file. */
  readonly sha256: string;
  /** Bytes. */
  readonly size: number;
  readonly identity: BuiltIdentity;
}

/** Something that is not the same in two builds of one package. */
export interface Difference {
  /** name-version-release.arch */
  readonly package: string;
  /** What differs, in words. */
  readonly what: string;
  /** The file it is about; without one it is about the package. */
  readonly path?: string;
  /** Of a file's content: lines or words that only the first (`-`) or the second build (`+`) has. */
  readonly detail?: readonly string[];
}

/** Everything that comes of a build, however it ended; see {@link buildPackage}. */
export interface BuildReport extends Course {
  /** name, or what the source was called when it could not be read. */
  readonly name: string;
  /** 0, or why not: see docs/builds.md. */
  readonly exitStatus: number;
  /** Undefined when all went well. */
  readonly failure: KilnError | undefined;
  readonly failedPhase: BuildPhase | undefined;
  /** The lines of the right log that say what went wrong, oldest first. */
  readonly lastLines: readonly string[];
  /** What was asked for. */
  readonly request: BuildRequest;
  readonly resultDirectory: string;
  /** `sha256:…` of the source package or spec; undefined if it was not read for this build. */
  readonly sourceDigest: string | undefined;
  /** Without the source package. */
  readonly packages: readonly BuiltPackage[];
  readonly sourcePackage: BuiltPackage | undefined;
  /** Static and dynamic, as the spec has them. */
  readonly buildRequires: readonly string[];
  /** The base, and the image the build ran in: the same where nothing was to add. */
  readonly base: { readonly id: string; readonly name: string } | undefined;
  readonly image: { readonly id: string; readonly name: string } | undefined;
  /** The sandbox the build ran in; it is there still if `kept`. */
  readonly sandbox: string | undefined;
  readonly kept: boolean;
  /** How rpmbuild ended. */
  readonly end: CommandEnd | undefined;
  readonly limitHit: 'timeout' | 'stall' | 'memory' | 'pids' | 'disk' | null;
  readonly usage: CgroupUsage;
  readonly measured: (SandboxFacts & CommandFacts) | undefined;
  /** All files that were taken out of sandboxes. */
  readonly artifacts: readonly Artifact[];
  readonly warnings: readonly BuildWarning[];
  /** What was asked of the proxy; nothing where there was none. */
  readonly egress: readonly EgressEntry[];
  /** What a second build gave that this one did not; only of {@link verifyBuild}. */
  readonly differences?: readonly Difference[];
}
