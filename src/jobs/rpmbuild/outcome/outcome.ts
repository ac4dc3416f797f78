import type { ErrorCode } from '../../../error-codes.ts';
import { KilnError } from '../../../errors.ts';
import type { CommandEnd, Executed } from '../../../sandbox/door/supervise.ts';
import type { BuildReport } from './report.ts';

export function whichLimit({ exitCode, timeLimit, limitHit }: Executed): BuildReport['limitHit'] {
  return exitCode === 0 ? timeLimit : limitHit;
}

const LIMITS: Readonly<Record<NonNullable<BuildReport['limitHit']>, readonly [string, string]>> = {
  timeout: ['it ran out of time', 'give it more with --timeout'],
  stall: ['it wrote nothing for too long', 'give it more time with --stall-timeout'],
  memory: ['it ran out of memory', 'give it more with --memory'],
  pids: ['it started too many processes', 'allow it more with --pids'],
  disk: ['it filled its file system', 'give it more room with --disk'],
};

export class BuildFailure extends KilnError {
  readonly limitHit: BuildReport['limitHit'];
  readonly lastLines: readonly string[];
  readonly end: CommandEnd;

  constructor(
    code: ErrorCode,
    what: string,
    end: Executed,
    hint?: string,
    limitHit = whichLimit(end),
  ) {
    const limit = limitHit === null ? undefined : LIMITS[limitHit];
    const { exitCode, signal, timeLimit } = end;
    const how = signal === null ? `exit status ${exitCode}` : `killed by ${signal}`;
    super(code, `${what}: ${limit?.[0] ?? how}`, {
      hint: limit?.[1] ?? hint,
      details: { exitCode, signal, limitHit },
    });
    this.limitHit = limitHit;
    this.end = { exitCode, signal, timeLimit };
    this.lastLines = relevantLines(end.output.lines());
  }
}

/** rpmbuild's message for a spec whose ExclusiveArch, ExcludeArch, ExclusiveOS or ExcludeOS forbid it. */
const NOT_HERE = /^error: (?:Architecture|OS) is (?:not included|excluded): (\S+)$/;

export function notForThisMachine(end: Executed): BuildFailure | undefined {
  for (const line of end.output.lines()) {
    const arch = NOT_HERE.exec(line)?.[1];
    if (arch === undefined) continue;
    const what = `the package is not for ${arch}: its ExclusiveArch or ExcludeArch says so`;
    const hint = 'build it where it is for, or for another architecture with --target';
    return new BuildFailure('E_BUILD_ARCH', what, end, hint, null);
  }
  return undefined;
}

/** rpmbuild's line for a package that is there although the spec's BuildConflicts rule it out. */
const RULED_OUT = /^\s+(\S.*) conflicts with \S+$/;

/** Why rpmbuild ended with MISSING_BUILDREQUIRES. */
export function unmetRequires(end: Executed): BuildFailure {
  const ruledOut = end.output.lines().flatMap((line) => RULED_OUT.exec(line)?.[1] ?? []);
  if (ruledOut.length === 0) {
    const hint = 'the lines above name it; a lock is good only for what it was made for';
    return new BuildFailure(
      'E_BUILD_REQUIRES',
      'the image lacks what the package requires',
      end,
      hint,
    );
  }
  const what = `the image has what BuildConflicts of the package rule out: ${ruledOut.join(', ')}`;
  const hint = 'leave them out of the image and of BuildRequires; what needs them brings them, too';
  return new BuildFailure('E_BUILD_REQUIRES', what, end, hint);
}

export function failedSection(lines: readonly string[]): string | undefined {
  for (const line of lines.toReversed()) {
    const match = /Bad exit status from \S+ \((%\w+)\)/.exec(line);
    if (match !== null) return match[1];
  }
  return undefined;
}

export function summedUp(lines: readonly string[]): string | undefined {
  const start = lines.lastIndexOf('RPM build errors:') + 1;
  if (start === 0) return undefined;
  const [first, ...more] = lines.slice(start).map((line) => line.trim());
  if (first === undefined || first === '') return undefined;
  return (first.endsWith(':') ? `${first} ${more.slice(0, 3).join(' ')}` : first)
    .trim()
    .slice(0, 300);
}

const LINES = 15;
const LENGTH = 240;

const EPILOGUE = /^RPM build (errors|warnings):$/;

const ERROR =
  /(^|[\s:])(fatal )?error( [A-Z]+\d+)?:|undefined reference to|ld returned \d|\*\*\* |command not found|No such file or directory|No space left on device|Cannot allocate memory|Resource temporarily unavailable|^Traceback |^FAIL(ED)?\b|Segmentation fault|(^|\W)Killed($|\W)|is needed by|nothing provides|File not found|Permission denied/;

const EXECUTING = /^Executing\(%?\w+\): /;

const SUMMARY = /^(error| {4})?:?\s*Bad exit status from /;

/** A line of `set -x`, which every section of a spec has. */
const TRACE = /^\+{1,9} /;

function relevantLines(lines: readonly string[]): string[] {
  const epilogue = lines.findIndex((line) => EPILOGUE.test(line));
  const told = (epilogue < 0 ? lines : lines.slice(0, epilogue)).filter((line) => line !== '');
  const part = told.slice(told.findLastIndex((line) => EXECUTING.test(line)) + 1);
  const first = part.findIndex(
    (line) => ERROR.test(line) && !TRACE.test(line) && !SUMMARY.test(line),
  );
  // The line above often has the context (“In function ‘main’”).
  const from = first < 0 ? part.length - LINES : Math.max(0, first - 2);
  return head(part.slice(Math.max(0, from))).map(shorten);
}

function head(lines: readonly string[]): string[] {
  if (lines.length <= LINES) return [...lines];
  const end = lines.slice(-4);
  return [...lines.slice(0, LINES - end.length - 1), '[…]', ...end];
}

function shorten(line: string): string {
  if (line.length <= LENGTH) return line;
  const half = Math.floor(LENGTH / 2) - 2;
  return `${line.slice(0, half)} … ${line.slice(-half)}`;
}

/** Exit statuses of `kiln build`, and what is told by each: see src/cli/options/exit-statuses.ts. */
const STATUSES: readonly (readonly [status: number, codes: readonly ErrorCode[]])[] = [
  [1, ['E_BUILD_FAILED', 'E_BUILD_OUTPUT', 'E_BUILD_LOOP']],
  [3, ['E_BUILD_ARCH', 'E_BUILD_SOURCE', 'E_BUILD_SRPM', 'E_BUILD_SPEC', 'E_CHAIN_DUPLICATE']],
  [4, ['E_BUILD_REQUIRES', 'E_SOLVER_PROBLEM', 'E_SOLVER_NO_MATCH', 'E_SOLVER_REQUEST']],
  [4, ['E_CHAIN_CYCLE']],
  [5, ['E_BUILD_POSTINSTALL', 'E_BUILD_DIFFERS']],
  [130, ['E_INTERRUPTED']],
];

const TIMED_OUT = 124;
/** Of a build of which nobody knows whether it would have failed. */
export const KILN_FAILED = 125;

export function buildStatus(failure: unknown): number {
  if (failure === undefined) return 0;
  if (!(failure instanceof KilnError)) return KILN_FAILED;
  if (failure instanceof BuildFailure) {
    const { limitHit } = failure;
    if (limitHit === 'timeout' || limitHit === 'stall') return TIMED_OUT;
  }
  const known = STATUSES.find(([, codes]) => codes.includes(failure.code));
  return known?.[0] ?? KILN_FAILED;
}
