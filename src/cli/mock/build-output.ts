import { describeProgress } from '../../image/progress.ts';
import type { BuildHooks, BuildReport } from '../../jobs/rpmbuild/outcome/report.ts';
import { MOCK_STATUS, mockStatus } from './exit-status.ts';
import type { MockLog } from './log.ts';
import type { MockSession } from './session.ts';

/** Phases of a build with a name in mock. */
const STATES: Readonly<Record<string, string>> = {
  srpm: 'build setup for',
  build: 'rpmbuild',
};

/** Reports a build in mock's words. */
export function buildHooks({ log, signal }: MockSession, what: string): BuildHooks {
  return {
    signal,
    onPhase: (phase, event) => {
      const state = STATES[phase];
      if (state === undefined) return;
      if (event === 'start') log.start(`${state} ${what}`);
      else log.finish(`${state} ${what}`);
    },
    onOutput: (_, chunk) => log.output(chunk),
    onImageProgress: (progress) => log.output(`${describeProgress(progress)}\n`),
    onWarning: ({ message }) => log.warning(message),
    stateNames: {
      whole: `build phase for ${what}`,
      image: 'chroot init',
      srpm: `build setup for ${what}`,
      build: `rpmbuild ${what}`,
      'dynamic-buildrequires': `rpmbuild -br ${what}`,
    },
  };
}

/** Reports how a build ended, and returns mock's exit status for it. */
export function finishBuild(log: MockLog, report: BuildReport, what: string, root: string): number {
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
  log.failure(failure);
  const { lastLines } = report;
  for (const line of log.hasShown(lastLines) ? [] : lastLines) log.error(`  ${line}`);
  return statusOf(report);
}

function statusOf({ failure, limitHit, end }: BuildReport): number {
  if (limitHit === 'timeout' || limitHit === 'stall') return MOCK_STATUS.timeout;
  // rpmbuild's own status, which mock passes on.
  if (failure?.code === 'E_BUILD_FAILED') return end?.exitCode || MOCK_STATUS.build;
  return mockStatus(failure);
}
