/** How a call of mock's ends: its statuses, what it tells of builds, its mistakes. */
import type { ErrorCode } from '../../error-codes.ts';
import { KilnError } from '../../errors.ts';
import { signalNumber } from '../../host/process/signals.ts';
import { describeProgress } from '../../image/progress.ts';
import type { BuildHooks, BuildReport } from '../rpmbuild/outcome/report.ts';
import type { MockEvents, MockSession } from './session.ts';

/** mock's exit codes (mockbuild/exception.py names them). */
export const MOCK_STATUS = {
  error: 1,
  config: 3,
  chain: 4,
  usage: 5,
  interrupted: 7,
  /** The build failed beside rpmbuild's own status: it made no packages. */
  build: 10,
  timeout: 11,
  root: 20,
  packages: 30,
  srpm: 40,
  arguments: 50,
  locked: 60,
  resultdir: 70,
  sandbox: 80,
  signalled: 128,
} as const;

const BY_CODE: ReadonlyMap<ErrorCode, number> = new Map(
  (
    [
      [127, 'E_COMMAND_NOT_FOUND'],
      [126, 'E_COMMAND_NOT_EXECUTABLE'],
      [MOCK_STATUS.usage, 'E_MOCK_USAGE'],
      [MOCK_STATUS.config, 'E_MOCK_CONFIG', 'E_MOCK_PYTHON', 'E_MOCK_ROOT_NAME'],
      [MOCK_STATUS.arguments, 'E_MOCK_ARGUMENT', 'E_ARGUMENT', 'E_COPY_IN'],
      [MOCK_STATUS.locked, 'E_MOCK_ROOT_LOCKED'],
      [MOCK_STATUS.interrupted, 'E_INTERRUPTED'],
      [MOCK_STATUS.resultdir, 'E_RESULTDIR', 'E_RESULTDIR_BUSY', 'E_ARTIFACT_WRITE'],
      [MOCK_STATUS.error, 'E_BUILD_ARCH', 'E_BUILD_SOURCE'],
      [MOCK_STATUS.srpm, 'E_BUILD_SRPM'],
      [MOCK_STATUS.build, 'E_BUILD_OUTPUT'],
      [MOCK_STATUS.packages, 'E_MOCK_PACKAGES', 'E_BUILD_LOOP', 'E_BUILD_POSTINSTALL'],
      [MOCK_STATUS.packages, 'E_BUILD_REPOSITORIES', 'E_FILE_CONFLICT', 'E_SCRIPTLET'],
      [MOCK_STATUS.packages, 'E_DOWNLOAD', 'E_KEY_MISSING', 'E_LOCK_MISMATCH'],
      [MOCK_STATUS.config, 'E_CONFIGURATION'],
      [MOCK_STATUS.root, 'E_DISK_LOW', 'E_NO_USER', 'E_WORKDIR'],
    ] satisfies readonly (readonly [number, ...ErrorCode[]])[]
  ).flatMap(([status, ...codes]) => codes.map((code) => [code, status] as const)),
);

const BY_PREFIX: readonly (readonly [string, number])[] = [
  ['E_SOLVER_', MOCK_STATUS.packages],
  ['E_REPOSITORY_', MOCK_STATUS.packages],
  ['E_RPM_', MOCK_STATUS.packages],
  ['E_RECIPE', MOCK_STATUS.config],
  ['E_IMAGE_', MOCK_STATUS.config],
  ['E_LIBVIRT', MOCK_STATUS.sandbox],
  ['E_SETUP', MOCK_STATUS.sandbox],
  ['E_SANDBOX_', MOCK_STATUS.sandbox],
  ['E_LAYER_', MOCK_STATUS.sandbox],
];

export function mockStatus(error: unknown): number {
  if (!(error instanceof KilnError)) return MOCK_STATUS.error;
  const { code } = error;
  const known = BY_CODE.get(code) ?? BY_PREFIX.find(([prefix]) => code.startsWith(prefix))?.[1];
  return known ?? MOCK_STATUS.error;
}

export function commandStatus(end: {
  readonly exitCode: number | null;
  readonly signal: NodeJS.Signals | null;
}): number {
  if (end.signal !== null) return MOCK_STATUS.signalled + signalNumber(end.signal);
  return end.exitCode ?? MOCK_STATUS.error;
}

export function argumentError(message: string, hint?: string): KilnError {
  return new KilnError('E_MOCK_ARGUMENT', message, { hint });
}

export function usageError(message: string, hint?: string): KilnError {
  return new KilnError('E_MOCK_USAGE', message, {
    hint: hint ?? '`kiln-mock --help` lists all options',
  });
}

export function buildHooks({ log, signal }: MockSession, what: string): BuildHooks {
  const stateNames = {
    whole: `build phase for ${what}`,
    image: 'chroot init',
    srpm: `build setup for ${what}`,
    build: `rpmbuild ${what}`,
    'dynamic-buildrequires': `rpmbuild -br ${what}`,
  };
  return {
    signal,
    stateNames,
    onPhase: (phase, event) => {
      if (phase !== 'srpm' && phase !== 'build') return;
      if (event === 'start') log.start(stateNames[phase]);
      else log.finish(stateNames[phase]);
    },
    onOutput: (_, chunk) => log.output(chunk),
    onImageProgress: (progress) => log.output(`${describeProgress(progress)}\n`),
    onWarning: (warning) => log.warning(warning),
  };
}

export function finishBuild(
  log: MockEvents,
  report: BuildReport,
  what: string,
  root: string,
): number {
  const seconds = Math.round((Date.now() - report.started.getTime()) / 1000);
  const time = `${Math.floor(seconds / 60)} minutes ${seconds % 60} seconds`;
  const { failure, resultDirectory } = report;
  if (failure === undefined) {
    log.info(`Done(${what}) Config(${root}) ${time}`);
    log.info(`Results and/or logs in: ${resultDirectory}`);
    return 0;
  }
  log.error(`Exception(${what}) Config(${root}) ${time}`);
  log.info(`Results and/or logs in: ${resultDirectory}`);
  const status = statusOf(report);
  log.failure(failure, status);
  const { lastLines } = report;
  for (const line of log.hasShown(lastLines) ? [] : lastLines) log.error(`  ${line}`);
  return status;
}

function statusOf({ failure, limitHit, end }: BuildReport): number {
  if (limitHit === 'timeout' || limitHit === 'stall') return MOCK_STATUS.timeout;
  // rpmbuild's own status, which mock passes on.
  if (failure?.code === 'E_BUILD_FAILED') return end?.exitCode || MOCK_STATUS.build;
  return mockStatus(failure);
}
