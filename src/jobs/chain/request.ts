import type { KilnError } from '../../errors.ts';
import type { HeldPath } from '../../host/files/held.ts';
import type { OnImageProgress } from '../../image/progress.ts';
import { BUILD } from '../../options/build.ts';
import { toldWords } from '../../options/row.ts';
import type { BuildHooks, BuildReport } from '../rpmbuild/outcome/report.ts';
import type { BuildSettings } from '../rpmbuild/request.ts';

/** A chain before its folder for results is opened. */
export interface AskedChain {
  /** Source packages, absolute paths on the host; their order does not matter. */
  readonly sources: readonly HeldPath[];
  readonly build: BuildSettings;
  readonly jobs: number;
  readonly continue: boolean;
  /**
   * Retry failed members when others were built since, until nothing new comes. Also builds packages that need
   * each other, first with packages of the repositories.
   */
  readonly recurse: boolean;
}

export interface ChainRequest extends AskedChain {
  /**
   * The result directory, absolute: a directory for each package, `repository`, chain.json. In the directory of
   * an earlier chain, the chain continues.
   */
  readonly resultDirectory: HeldPath;
}

/**
 * `waiting`: not its turn yet, or to be retried with new results. `unchanged`: an earlier chain built it from
 * the same inputs. `skipped`: not built because another one failed.
 */
export type MemberState = 'waiting' | 'building' | 'built' | 'unchanged' | 'failed' | 'skipped';

export interface ChainHooks {
  readonly signal?: AbortSignal;
  readonly onImageProgress?: OnImageProgress;
  readonly onMember?: (member: ChainMemberReport) => void;
  /** Room for one more build at a time, until disposed of; undefined if there is none now. The first one has room. */
  readonly takeRoom?: (() => Promise<Disposable | undefined>) | undefined;
  readonly buildHooks?: (member: string) => BuildHooks;
}

/** What a chain tells of a build, wherever it was. */
export interface ToldBuild {
  readonly exitStatus: number;
  readonly failure: KilnError | undefined;
  readonly failedPhase: string | undefined;
  readonly lastLines: readonly string[];
  readonly egress?: BuildReport['egress'];
  readonly kept?: boolean;
  readonly sandbox?: string | undefined;
}

export interface ChainMemberReport<Build extends ToldBuild = BuildReport> {
  readonly name: string;
  readonly source: string;
  readonly state: MemberState;
  readonly reason: string | undefined;
  readonly needs: readonly { readonly member: string; readonly capabilities: readonly string[] }[];
  readonly resultDirectory: string;
  readonly packages: readonly { readonly file: string; readonly sha256: string }[];
  /** The time of the last build, milliseconds; 0 if there was none. */
  readonly durationMs: number;
  readonly report: Build | undefined;
}

export interface ChainReport<Member = ChainMemberReport> {
  readonly startedAt: Date;
  readonly members: readonly Member[];
  readonly repository: string;
  readonly exitStatus: number;
  readonly failure: KilnError | undefined;
  readonly durationMs: number;
}

export type ToldChain = ChainReport<ChainMemberReport<ToldBuild>>;

interface JsonRequest {
  readonly jobs: number;
  readonly recurse: boolean;
  readonly continue: boolean;
  readonly resultDirectory: string;
  readonly build: Partial<BuildSettings> & { readonly image: string };
}

/** Raised when a field of chain.json changes its meaning or disappears. */
const CHAIN_VERSION = 1;

/** chain.json, and what --json prints: docs/chains.md describes it. */
export function chainJson(request: JsonRequest, report: ToldChain): Record<string, unknown> {
  const { jobs, recurse, continue: goOn, resultDirectory } = request;
  const { image, ...asked } = request.build;
  const build = { ...asked, ...toldWords(BUILD, asked) };
  return {
    version: CHAIN_VERSION,
    exitStatus: report.exitStatus,
    startedAt: report.startedAt.toISOString(),
    durationMs: Math.round(report.durationMs),
    request: { image, jobs, continue: goOn, recurse, resultDirectory, build },
    repository: report.repository,
    failure: report.failure === undefined ? null : failureJson(report.failure),
    members: report.members.map(memberJson),
  };
}

function memberJson(member: ChainMemberReport<ToldBuild>) {
  const { name, source, state, reason, needs, resultDirectory, packages, report } = member;
  return {
    ...{ name, source, state, reason: reason ?? null, needs, resultDirectory },
    durationMs: Math.round(member.durationMs),
    packages,
    exitStatus: report?.exitStatus ?? null,
    failure: report?.failure === undefined ? null : failureJson(report.failure),
    failedPhase: report?.failedPhase ?? null,
    lastLines: report?.lastLines ?? [],
  };
}

export function failureJson({ code, message, hint }: KilnError) {
  return { code, message, hint: hint ?? null };
}
