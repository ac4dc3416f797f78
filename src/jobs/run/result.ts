import { defined } from '../../defined.ts';
import { reasonOf } from '../../errors.ts';
import { errnoName } from '../../host/calls/libc.ts';
import { knownFailure, reasonLines } from '../../host/calls/system-error.ts';
import type { CgroupUsage } from '../../host/cgroup/cgroup-usage.ts';
import { systemCallName } from '../../host/process/seccomp.ts';
import { KILN_VERSION } from '../../host/state/paths.ts';
import { digestOf } from '../../image/key.ts';
import { toldWords } from '../../options/row.ts';
import { SANDBOX } from '../../options/sandbox.ts';
import type { Result } from '../../result/schema.ts';
import type { RefusedCall } from '../../sandbox/command/process.ts';
import { kindOf } from '../../sandbox/policy/ground-kinds.ts';
import type { RunRequest } from './request.ts';
import type { RunReport } from './run.ts';
import { type Course, lengthOf } from './timeline.ts';

/** What runs has a caller, with names of its own for the files in it. */
export type Renamed = <Value>(value: Value) => Value;

export interface ResultContext {
  readonly request: RunRequest;
  readonly exitStatus: number;
  readonly renamed: Renamed;
}

export interface FailedRun extends Course {
  readonly error: unknown;
  readonly sandbox?: string | undefined;
  readonly image?: RunReport['image'] | undefined;
  readonly phase: string;
  readonly lastLines?: readonly string[];
}

export function resultOfRun(context: ResultContext, report: RunReport): Result {
  return context.renamed({
    ...common(context, report),
    id: report.sandbox,
    exit: exitOf(report.end),
    limitHit: report.limitHit,
    failure: report.failure === undefined ? null : failureOf(report.failure, 'artifacts'),
    image: report.image,
    policy: measuredPolicy(report.measured),
    ...defined({ refusedCalls: report.refused?.map(describeRefusal) }),
    ...defined({ refusedPaths: report.refusedPaths?.paths }),
    ...defined({ egress: report.egress }),
    resources: resourcesOf(report.usage),
    artifacts: report.collection?.artifacts ?? [],
    warnings: report.warnings,
  });
}

export function exitOf({ exitCode, signal }: RunReport['end']): NonNullable<Result['exit']> {
  return signal === null ? { code: exitCode ?? 0 } : { signal };
}

export function resultOfFailure(context: ResultContext, failed: FailedRun): Result {
  return context.renamed({
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
  });
}

function common({ request, exitStatus, renamed }: ResultContext, course: Course) {
  return {
    ...resultOfCourse(course),
    kiln: KILN_VERSION,
    exitStatus,
    // Values of the environment may be secrets; result.json is often shown around.
    request: {
      ...asWritten(request),
      env: Object.keys(request.env),
      secrets: secretNames(request.secrets),
    },
    planDigest: digestOf(renamed(planOf(request))),
  } as const;
}

export function resultOfCourse({ started, phases, samples }: Course) {
  return {
    version: 1 as const,
    startedAt: started.toISOString(),
    durationMs: Math.round(lengthOf(phases) * 1000) / 1000,
    phases: phases.map(({ name, start, duration }) => ({
      name,
      startMs: start,
      durationMs: duration,
    })),
    ...defined({ samples }),
  } as const;
}

function planOf(request: RunRequest): object {
  const { resultDirectory: _, caller: _caller, keep: _keep, ...plan } = asWritten(request);
  // The files of secrets on the host are not told.
  return { ...plan, secrets: secretNames(plan.secrets).map((name) => ({ name, file: '' })) };
}

/** As the caller has written it. */
function asWritten(request: RunRequest) {
  const binds = request.binds.map(({ place: _place, ...bind }) => bind);
  return { ...request, binds, ...toldWords(SANDBOX, request) };
}

function secretNames(secrets: RunRequest['secrets']): string[] {
  return secrets.map(({ name }) => name);
}

export function measuredPolicy(measured: RunReport['measured']): Result['policy'] {
  const { namespaces, uidMap, gidMap, interfaces, masked, readonlyPaths, devices } = measured;
  const { mounts, uid, gid, groups, noNewPrivileges, seccomp, userLimits } = measured;
  const { label, initLabel, landlock, setIdRefused, limits, capabilities, machine } = measured;
  const { bounding, effective } = capabilities;
  return {
    ...{ namespaces, uidMap, gidMap, interfaces, masked, readOnlyPaths: readonlyPaths, devices },
    namespaceLimit: userLimits.max_user_namespaces ?? null,
    ...{ mounts, uid, gid, groups, noNewPrivileges, seccomp, label, initLabel },
    landlock: landlock && { abi: landlock.abi, walls: landlock.walls },
    setIdRefused,
    ...defined({ limits }),
    isolation: kindOf(measured),
    ...defined({ machine }),
    capabilities: { bounding, effective },
  };
}

const MAX_CAUSES = 20;

export function failureOf(
  error: unknown,
  phase: string,
  lastLines: readonly string[] = [],
): Result['failure'] {
  const known = knownFailure(error);
  return {
    code: known?.code ?? 'E_INTERNAL',
    message: known?.message ?? reasonOf(error),
    phase,
    causes: reasonLines(error instanceof Error ? error.cause : undefined, MAX_CAUSES),
    lastLines,
    hint: known?.hint,
    ...defined({ details: known?.details }),
  };
}

/** Times in milliseconds; what the kernel does not tell is left out. */
export function resourcesOf(usage: CgroupUsage): Result['resources'] {
  const milliseconds = (microseconds: number | undefined) =>
    microseconds === undefined ? undefined : microseconds / 1000;
  return defined({
    cpuMs: milliseconds(usage.cpuMicroseconds),
    cpuUserMs: milliseconds(usage.cpuUserMicroseconds),
    cpuSystemMs: milliseconds(usage.cpuSystemMicroseconds),
    peakMemoryBytes: usage.peakMemoryBytes,
    oomKills: usage.oomKills,
    peakPids: usage.peakPids,
    forksRefused: usage.pidsRefused,
    readBytes: usage.readBytes,
    writtenBytes: usage.writtenBytes,
  });
}

export interface Refusal {
  readonly syscall: string;
  /** The symbol of the errno it got; KILL when its process was killed. */
  readonly action: string;
  readonly count: number;
}

/** SECCOMP_RET_ERRNO and the mask of the data that come with it (linux/seccomp.h). */
const RET_ERRNO = 0x00050000;
const RET_DATA = 0xffff;

/**
 * Calls that programs try and do without. Naming them as the cause of a failure misleads, as does naming those
 * answered with ENOSYS, which look like an older kernel.
 */
const PROBED: ReadonlySet<string> = new Set([
  // libuv (Node) and others fall back to epoll.
  ...['io_uring_setup', 'io_uring_enter', 'io_uring_register'],
  // libnuma, OpenBLAS and database servers ask where memory lies.
  ...['get_mempolicy', 'set_mempolicy', 'mbind', 'migrate_pages', 'move_pages'],
  // glibc falls back to clone.
  'clone3',
  // systemd's tools, sshd and su make session keyrings where they can.
  ...['keyctl', 'add_key', 'request_key'],
  // glibc's and systemd's ways to a file handle; they ask by path then.
  ...['name_to_handle_at', 'open_by_handle_at'],
  // Garbage collectors, and perf's users.
  ...['userfaultfd', 'perf_event_open'],
]);

export function mayExplainFailure({ syscall, action }: Refusal): boolean {
  return action !== 'ENOSYS' && (action === 'KILL' || !PROBED.has(syscall));
}

export function describeRefusal({ architecture, number, action, count }: RefusedCall): Refusal {
  const isErrno = (action & ~RET_DATA) >>> 0 === RET_ERRNO;
  return {
    syscall: systemCallName(architecture, number),
    action: isErrno ? errnoName(action & RET_DATA) : 'KILL',
    count,
  };
}
