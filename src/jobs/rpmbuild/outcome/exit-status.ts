import type { ErrorCode } from '../../../error-codes.ts';
import { KilnError } from '../../../errors.ts';
import { BuildFailure } from './outcome.ts';

/** What `kiln build` exits with, beside 0; docs/builds.md lists them. */
const BUILD_STATUS = {
  /** The package does not build: a section of the spec failed, or a limit stopped it. */
  failed: 1,
  /** What was to be built is no source package, or no spec that rpmbuild takes. */
  source: 3,
  /** What it requires cannot be had. */
  requires: 4,
  /** It was built, and what was built does not pass: --postinstall, --verify. */
  check: 5,
  /** --timeout, --stall-timeout. */
  timeout: 124,
  /** kiln could not do its part. */
  kiln: 125,
  interrupted: 130,
} as const;

const BY_CODE: Readonly<Partial<Record<ErrorCode, number>>> = {
  E_BUILD_FAILED: BUILD_STATUS.failed,
  E_BUILD_ARCH: BUILD_STATUS.source,
  E_BUILD_OUTPUT: BUILD_STATUS.failed,
  E_BUILD_LOOP: BUILD_STATUS.failed,
  E_BUILD_SOURCE: BUILD_STATUS.source,
  E_BUILD_SRPM: BUILD_STATUS.source,
  E_CHAIN_DUPLICATE: BUILD_STATUS.source,
  E_BUILD_SPEC: BUILD_STATUS.source,
  E_BUILD_REQUIRES: BUILD_STATUS.requires,
  E_SOLVER_PROBLEM: BUILD_STATUS.requires,
  E_CHAIN_CYCLE: BUILD_STATUS.requires,
  E_SOLVER_NO_MATCH: BUILD_STATUS.requires,
  E_SOLVER_REQUEST: BUILD_STATUS.requires,
  E_BUILD_POSTINSTALL: BUILD_STATUS.check,
  E_BUILD_DIFFERS: BUILD_STATUS.check,
  E_INTERRUPTED: BUILD_STATUS.interrupted,
};

/** The exit status for what ended a build. */
export function buildStatus(failure: unknown): number {
  if (failure === undefined) return 0;
  if (!(failure instanceof KilnError)) return BUILD_STATUS.kiln;
  if (failure instanceof BuildFailure) {
    const { limitHit } = failure;
    if (limitHit === 'timeout' || limitHit === 'stall') return BUILD_STATUS.timeout;
  }
  return BY_CODE[failure.code] ?? BUILD_STATUS.kiln;
}
