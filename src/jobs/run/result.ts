import { knownFailure, reasonLine } from '../../host/calls/system-error.ts';
import type { CgroupUsage } from '../../host/cgroup/cgroup-usage.ts';
import { KILN_VERSION } from '../../host/state/paths.ts';
import { digestOf } from '../../result/digest.ts';
import type { Result } from '../../result/schema.ts';
import { RESULT_VERSION } from '../../result/version.ts';
import { describeRefusal } from './refusal.ts';
import type { RunRequest } from './request.ts';
import type { RunReport } from './run.ts';
import type { Course } from './timeline.ts';

/** What every result has, however the run went. */
export interface ResultContext {
  readonly request: RunRequest;
  /** What kiln will exit with. */
  readonly exitStatus: number;
}

/** How far a run came that kiln could not bring to its end. */
export interface FailedRun extends Course {
  readonly error: unknown;
  /** The sandbox, if it came to one. */
  readonly sandbox?: string | undefined;
  readonly image?: RunReport['image'] | undefined;
  /** The phase that failed. */
  readonly phase: string;
  /** The end of the log of what failed. */
  readonly lastLines?: readonly string[];
}

/** result.json for a command that was started and ended, well or not. */
export function resultOfRun(context: ResultContext, report: RunReport): Result {
  const { end } = report;
  return {
    ...common(context, report),
    id: report.sandbox,
    exit: end.signal === null ? { code: end.exitCode ?? 0 } : { signal: end.signal },
    limitHit: report.limitHit,
    failure: report.failure === undefined ? null : failureOf(report.failure, 'artifacts'),
    image: { ...report.image },
    policy: measuredPolicy(report.measured),
    ...(report.refused === undefined ? {} : { refusedCalls: report.refused.map(describeRefusal) }),
    ...(report.egress === undefined ? {} : { egress: [...report.egress] }),
    resources: resourcesOf(report.usage),
    artifacts: [...(report.collection?.artifacts ?? [])],
    warnings: [...report.warnings],
  };
}

/** result.json for a run that kiln could not bring to its end. */
export function resultOfFailure(context: ResultContext, failed: FailedRun): Result {
  return {
    ...common(context, failed),
    id: failed.sandbox ?? null,
    exit: null,
    limitHit: null,
    failure: failureOf(failed.error, failed.phase, failed.lastLines),
    image: failed.image ?? null,
    policy: null,
    resources: {},
    artifacts: [],
    warnings: [],
  };
}

function common({ request, exitStatus }: ResultContext, course: Course) {
  return {
    ...resultOfCourse(course),
    kiln: KILN_VERSION,
    exitStatus,
    // Values of the environment may be secrets; result.json is often shown around.
    request: {
      ...request,
      env: Object.keys(request.env),
      ...(request.secrets === undefined ? {} : { secrets: secretNames(request) }),
    },
    planDigest: digestOf(planOf(request)),
  } as const;
}

/** The fields about when, and about what was used meanwhile. */
export function resultOfCourse({ started, phases, samples }: Course) {
  const end = Math.max(0, ...phases.map((phase) => phase.start + phase.duration));
  return {
    version: RESULT_VERSION,
    startedAt: started.toISOString(),
    durationMs: Math.round(end * 1000) / 1000,
    phases: phases.map(({ name, start, duration }) => ({
      name,
      startMs: start,
      durationMs: duration,
    })),
    ...(samples === undefined ? {} : { samples: [...samples] }),
  } as const;
}

/** The part of a request that decides what happens in the sandbox, not where things go afterwards. */
function planOf(request: RunRequest): Partial<RunRequest> {
  const { resultDirectory: _directory, caller: _caller, keepSeconds: _keep, ...plan } = request;
  // Where secrets lie on the host is nobody's business.
  const binds = request.binds.map(({ descriptor: _descriptor, ...bind }) => bind);
  if (plan.secrets === undefined) return { ...plan, binds };
  return { ...plan, binds, secrets: secretNames(plan).map((name) => ({ name, file: '' })) };
}

function secretNames({ secrets = [] }: Pick<RunRequest, 'secrets'>): string[] {
  return secrets.map(({ name }) => name);
}

/** A copy with exactly the fields that the schema has. */
export function measuredPolicy(measured: RunReport['measured']): Result['policy'] {
  const { namespaces, uidMap, interfaces, mounts, uid, gid, groups } = measured;
  return {
    namespaces: [...namespaces],
    uidMap: [...uidMap],
    gidMap: [...measured.gidMap],
    interfaces: [...interfaces],
    masked: [...measured.masked],
    readOnlyPaths: [...measured.readonlyPaths],
    devices: [...measured.devices],
    namespaceLimit: measured.namespaceLimit,
    mounts: mounts.map((mount) => ({ ...mount, options: [...mount.options] })),
    uid,
    gid,
    groups: [...groups],
    noNewPrivileges: measured.noNewPrivileges,
    seccomp: measured.seccomp,
    label: measured.label === null ? null : { ...measured.label },
    initLabel: measured.initLabel === null ? null : { ...measured.initLabel },
    landlock:
      measured.landlock === null
        ? null
        : { abi: measured.landlock.abi, walls: [...measured.landlock.walls] },
    setIdRefused: measured.setIdRefused,
    ...(measured.limits === undefined ? {} : { limits: { ...measured.limits } }),
    capabilities: {
      bounding: [...measured.capabilities.bounding],
      effective: [...measured.capabilities.effective],
    },
  };
}

/** An error as result.json has it. */
export function failureOf(
  error: unknown,
  phase: string,
  lastLines: readonly string[] = [],
): Result['failure'] {
  const known = knownFailure(error);
  const causes: string[] = [];
  for (
    let cause = error instanceof Error ? error.cause : undefined;
    cause instanceof Error && causes.length < 20;
    cause = cause.cause
  ) {
    causes.push(reasonLine(cause));
  }
  return {
    code: known?.code ?? 'E_INTERNAL',
    message: known?.message ?? (error instanceof Error ? error.message : String(error)),
    phase,
    causes,
    lastLines: [...lastLines],
    hint: known?.hint,
    ...(known?.details === undefined ? {} : { details: { ...known.details } }),
  };
}

/** Times in milliseconds; what the kernel does not tell is left out. */
export function resourcesOf(usage: CgroupUsage): Result['resources'] {
  const milliseconds = (microseconds: number | undefined) =>
    microseconds === undefined ? undefined : microseconds / 1000;
  const all = {
    cpuMs: milliseconds(usage.cpuMicroseconds),
    cpuUserMs: milliseconds(usage.cpuUserMicroseconds),
    cpuSystemMs: milliseconds(usage.cpuSystemMicroseconds),
    peakMemoryBytes: usage.peakMemoryBytes,
    oomKills: usage.oomKills,
    peakPids: usage.peakPids,
    forksRefused: usage.pidsRefused,
    readBytes: usage.readBytes,
    writtenBytes: usage.writtenBytes,
  };
  return Object.fromEntries(Object.entries(all).filter(([, value]) => value !== undefined));
}
