import type { ChainMemberReport, ChainReport, ChainRequest } from './request.ts';

/** Goes up when a field of chain.json changes its meaning or disappears. */
const CHAIN_VERSION = 1;

/** chain.json, and what --json prints: docs/chains.md describes it. */
export function chainJson(request: ChainRequest, report: ChainReport): Record<string, unknown> {
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

function memberJson(member: ChainMemberReport) {
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
