import { isKilnCode, KilnError } from '../errors.ts';
import type { ProcessEnd } from '../sandbox/command/process.ts';
import type { RestartPolicy, ServiceUnit } from './unit/read-unit.ts';
import type { ExitStatusSet } from './unit/unit-file.ts';

/** How a unit ended (systemd.service(5), $SERVICE_RESULT). */
export type UnitResult =
  | 'success'
  | 'exit-code'
  | 'signal'
  | 'core-dump'
  | 'timeout'
  | 'start-limit-hit';

/** Signals that end a service cleanly (systemd.service(5), SuccessExitStatus=). */
const CLEAN = new Set<NodeJS.Signals>(['SIGHUP', 'SIGINT', 'SIGTERM', 'SIGPIPE']);
/** Signals whose default is a core dump (signal(7)). */
const CORE = new Set<NodeJS.Signals>([
  ...(['SIGQUIT', 'SIGILL', 'SIGTRAP', 'SIGABRT', 'SIGBUS', 'SIGFPE', 'SIGSEGV'] as const),
  ...(['SIGXCPU', 'SIGXFSZ', 'SIGSYS'] as const),
]);

export function endText({ exitCode, signal }: ProcessEnd): string {
  return signal === null ? `status ${exitCode}` : `signal ${signal}`;
}

function contains(set: ExitStatusSet, { exitCode, signal }: ProcessEnd): boolean {
  return (exitCode !== null && set.has(exitCode)) || (signal !== null && set.has(signal));
}

export function resultOf(unit: ServiceUnit, end: ProcessEnd): UnitResult {
  if (end.exitCode === 0 || contains(unit.successExitStatus, end)) return 'success';
  if (end.signal === null) return 'exit-code';
  if (CLEAN.has(end.signal)) return 'success';
  return CORE.has(end.signal) ? 'core-dump' : 'signal';
}

/** The table of systemd.service(5), Restart=. */
const RESTARTED: Readonly<Record<RestartPolicy, readonly UnitResult[]>> = {
  no: [],
  always: ['success', 'exit-code', 'signal', 'core-dump', 'timeout'],
  'on-success': ['success'],
  'on-failure': ['exit-code', 'signal', 'core-dump', 'timeout'],
  'on-abnormal': ['signal', 'core-dump', 'timeout'],
  'on-abort': ['signal', 'core-dump'],
  'on-watchdog': [],
};

export function isRestarted(unit: ServiceUnit, result: UnitResult, end: ProcessEnd): boolean {
  if (result === 'start-limit-hit' || contains(unit.restartPrevent, end)) return false;
  return contains(unit.restartForce, end) || RESTARTED[unit.restart].includes(result);
}

export const LOGS_HINT = '`kiln service logs` shows what it said';

export class StartEnded extends KilnError {
  readonly end: ProcessEnd;

  constructor(message: string, end: ProcessEnd) {
    super('E_UNIT_FAILED', message, { hint: LOGS_HINT });
    this.end = end;
  }
}

export function resultOfStart(error: unknown): UnitResult {
  if (error instanceof StartEnded && error.end.signal !== null) return 'signal';
  if (isKilnCode(error, 'E_UNIT_LIMIT')) return 'start-limit-hit';
  return isKilnCode(error, 'E_UNIT_TIMEOUT') ? 'timeout' : 'exit-code';
}
