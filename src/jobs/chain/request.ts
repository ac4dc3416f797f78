import type { KilnError } from '../../errors.ts';
import type { OnImageProgress } from '../../image/progress.ts';
import type { BuildHooks, BuildReport, BuiltPackage } from '../rpmbuild/outcome/report.ts';
import type { BuildRequest } from '../rpmbuild/request.ts';

/** Everything that decides a chain: plain and serialisable. */
export interface ChainRequest {
  /** Source packages, absolute paths on the host; their order does not matter. */
  readonly sources: readonly string[];
  /**
   * The result directory, absolute: a directory for each package, `repository`, chain.json. In the directory of
   * an earlier chain, the chain continues.
   */
  readonly resultDirectory: string;
  /** How each package is built. */
  readonly build: Omit<BuildRequest, 'source' | 'resultDirectory' | 'stopAfter' | 'lock'>;
  /** How many builds at a time. */
  readonly jobs: number;
  /** After a failure, go on with members that do not depend on it. */
  readonly continue: boolean;
  /**
   * Retry failed members when others were built since, until nothing new comes. Also builds packages that need
   * each other, first with packages of the repositories.
   */
  readonly recurse: boolean;
}

/**
 * `waiting`: not its turn yet, or to be retried with new results. `unchanged`: an earlier chain built it from
 * the same inputs. `skipped`: not built because another one failed.
 */
export type MemberState = 'waiting' | 'building' | 'built' | 'unchanged' | 'failed' | 'skipped';

/** What a chain tells its caller while it runs. */
export interface ChainHooks {
  /** Starts no more builds and ends the running ones. */
  readonly signal?: AbortSignal;
  /** Progress of making the base image. */
  readonly onImageProgress?: OnImageProgress;
  readonly onMember?: (member: ChainMemberReport) => void;
  /** Hooks for the build of one member. */
  readonly buildHooks?: (member: string) => Omit<BuildHooks, 'signal'>;
}

/** The state of one package of a chain. */
export interface ChainMemberReport {
  /** name-version-release, its directory in the result directory. */
  readonly name: string;
  readonly source: string;
  readonly state: MemberState;
  /** The reason for people, if it is not obvious. */
  readonly reason: string | undefined;
  /** The members that it needs, with the capabilities. */
  readonly needs: readonly { readonly member: string; readonly capabilities: readonly string[] }[];
  readonly resultDirectory: string;
  /** Without the source package. */
  readonly packages: readonly Pick<BuiltPackage, 'file' | 'sha256'>[];
  /** The time of the last build, milliseconds; 0 if there was none. */
  readonly durationMs: number;
  /** The report of the last build in this run. */
  readonly report: BuildReport | undefined;
}

/** The outcome of a chain. */
export interface ChainReport {
  readonly members: readonly ChainMemberReport[];
  /** The repository with all packages: `baseurl=file://…`. */
  readonly repository: string;
  /** 0, or the status of the first failed build: see docs/chains.md. */
  readonly exitStatus: number;
  /** The failure of the chain as a whole. */
  readonly failure: KilnError | undefined;
  readonly durationMs: number;
}
