import type { BuildReport } from '../rpmbuild/outcome/report.ts';
import type { ChainMemberReport, ChainReport, ChainRequest } from './request.ts';

/** A member in chain.json. */
type JsonMember = Omit<ChainMemberReport, 'report'> & {
  readonly report:
    | (Pick<BuildReport, 'exitStatus' | 'failure' | 'lastLines'> & {
        readonly failedPhase: string | undefined;
      })
    | undefined;
};
type JsonReport = Omit<ChainReport, 'members'> & { readonly members: readonly JsonMember[] };
type JsonRequest = Pick<ChainRequest, 'jobs' | 'recurse' | 'continue'> & {
  readonly build: Pick<ChainRequest['build'], 'image'>;
};

/** Raised when a field of chain.json changes its meaning or disappears. */
const CHAIN_VERSION = 1;

/** chain.json, and what --json prints: docs/chains.md describes it. */
export function chainJson(request: JsonRequest, report: JsonReport): Record<string, unknown> {
  const { jobs, recurse, continue: goOn, build } = request;
  return {
    version: CHAIN_VERSION,
    exitStatus: report.exitStatus,
    durationMs: Math.round(report.durationMs),
    request: { image: build.image, jobs, continue: goOn, recurse },
    repository: report.repository,
    failure: report.failure === undefined ? null : failureJson(report.failure),
    members: report.members.map(memberJson),
  };
}

function memberJson(member: JsonMember) {
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

function failureJson({ code, message, hint }: NonNullable<ChainReport['failure']>) {
  return { code, message, hint: hint ?? null };
}
