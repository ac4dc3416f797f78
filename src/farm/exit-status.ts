/** What `kiln farm step` ends with: whoever schedules steps decides by it. Names and numbers are sysexits.h's. */
export const STEP_STATUS = {
  done: 0,
  /** EX_DATAERR: another machine would say the same. */
  package: 65,
  /** EX_TEMPFAIL: another machine, or this one later, may do it. */
  machine: 75,
} as const;

/** Of a build that ended with this status of `kiln build`. */
export function stepStatus(buildStatus: number): number {
  if (buildStatus === 0) return STEP_STATUS.done;
  // kiln failed, or was interrupted.
  return buildStatus === 125 || buildStatus === 130 ? STEP_STATUS.machine : STEP_STATUS.package;
}
