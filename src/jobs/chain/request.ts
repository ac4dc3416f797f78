import type { KilnError } from '../../errors.ts';
import type { OnImageProgress } from '../../image/progress.ts';
import type { BuildHooks, BuildReport, BuiltPackage } from '../rpmbuild/outcome/report.ts';
import type { BuildRequest } from '../rpmbuild/request.ts';

/** Everything that decides a chain: plain and serialisable. */
export interface ChainRequest {
  /** Source packages, absolute paths on the host; their order does not matter. */
  readonly sources: readonly string[];
  /**
   * Where everything goes, absolute: a directory for each package, `repository`, chain.json. A
   * chain that is given the directory of an earlier one goes on from there.
   */
  readonly resultDirectory: string;
  /** How each package is built. */
  readonly build: Omit<BuildRequest, 'source' | 'resultDirectory' | 'stopAfter' | 'lock'>;
  /** So many builds at a time. */
  readonly jobs: number;
  /** After a failure go on with what does not depend on it. */
  readonly continue: boolean;
  /**
   * Try what failed again whenever something else was built since, until nothing comes of it. Also
   * builds packages that need each other, first with what the repositories have.
   */
  readonly recurse: boolean;
}

/**
 * `waiting`: not yet its turn, or to be tried again when there are new results. `unchanged`: built
 * by an earlier chain from the same. `skipped`: it was not built because of another's failure.
 */
export type MemberState = 'waiting' | 'building' | 'built' | 'unchanged' | 'failed' | 'skipped';

/** What a caller hears of a chain while it runs. */
export interface ChainHooks {
  /** No more builds are started; those that run are ended. */
  readonly signal?: AbortSignal;
  /** Of making the base image. */
  readonly onImageProgress?: OnImageProgress;
  readonly onMember?: (member: ChainMemberReport) => void;
  /** Hooks for the build of one member. */
  readonly buildHooks?: (member: string) => Omit<BuildHooks, 'signal'>;
}

/** How it stands with one package of a chain. */
export interface ChainMemberReport {
  /** name-version-release: its directory in the result directory. */
  readonly name: string;
  readonly source: string;
  readonly state: MemberState;
  /** For people: why it is so, where that is not plain. */
  readonly reason: string | undefined;
  /** Members that it needs, and what of them. */
  readonly needs: readonly { readonly member: string; readonly capabilities: readonly string[] }[];
  readonly resultDirectory: string;
  /** Without the source package. */
  readonly packages: readonly Pick<BuiltPackage, 'file' | 'sha256'>[];
  /** Of the last build, milliseconds; 0 where there was none. */
  readonly durationMs: number;
  /** Of the last build in this run. */
  readonly report: BuildReport | undefined;
}

/** What came of a chain. */
export interface ChainReport {
  readonly members: readonly ChainMemberReport[];
  /** The repository with all that was built: `baseurl=file://…`. */
  readonly repository: string;
  /** 0, or that of the first build that failed: see docs/chains.md. */
  readonly exitStatus: number;
  /** What ended the chain as a whole. */
  readonly failure: KilnError | undefined;
  readonly durationMs: number;
}
