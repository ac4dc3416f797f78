import type { ErrorCode } from '../../../error-codes.ts';
import { KilnError } from '../../../errors.ts';
import type { Executed } from '../../../sandbox/door/io.ts';
import { relevantLines } from './relevant-lines.ts';
import type { BuildReport } from './report.ts';

/** Which limit a command failed by. A build that came out well needs none. */
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

/** A command of a build that failed, with the lines of its log that tell why. */
export class BuildFailure extends KilnError {
  readonly end: Executed;
  readonly limitHit: BuildReport['limitHit'];
  /** Oldest first. */
  readonly lastLines: readonly string[];

  constructor(
    code: ErrorCode,
    what: string,
    end: Executed,
    limitHit: BuildReport['limitHit'],
    hint?: string,
  ) {
    const limit = limitHit === null ? undefined : LIMITS[limitHit];
    const advice = limit?.[1] ?? hint;
    super(code, `${what}: ${limit?.[0] ?? howItEnded(end)}`, {
      hint: advice,
      details: { exitCode: end.exitCode, signal: end.signal, limitHit },
    });
    this.end = end;
    this.limitHit = limitHit;
    this.lastLines = relevantLines(end.output.lines());
  }
}

function howItEnded({ exitCode, signal }: Executed): string {
  return signal === null ? `exit status ${exitCode}` : `killed by ${signal}`;
}

/** What rpmbuild says of a spec whose ExclusiveArch, ExcludeArch, ExclusiveOS or ExcludeOS forbid it. */
const NOT_HERE = /^error: (?:Architecture|OS) is (?:not included|excluded): (\S+)$/;

/**
 * The failure of rpmbuild with a spec that is not for this architecture.
 * @returns undefined for any other failure
 */
export function notForThisMachine(end: Executed): BuildFailure | undefined {
  for (const line of end.output.lines()) {
    const arch = NOT_HERE.exec(line)?.[1];
    if (arch === undefined) continue;
    const what = `the package is not for ${arch}: its ExclusiveArch or ExcludeArch says so`;
    const hint = 'build it where it is for, or for another architecture with --target';
    return new BuildFailure('E_BUILD_ARCH', what, end, null, hint);
  }
  return undefined;
}

/** The section of a spec that rpmbuild says failed, such as `%build`. */
export function failedSection(lines: readonly string[]): string | undefined {
  for (const line of lines.toReversed()) {
    const match = /Bad exit status from \S+ \((%\w+)\)/.exec(line);
    if (match !== null) return match[1];
  }
  return undefined;
}

/** The first of the mistakes in a spec that rpmbuild sums up at its end, on one line. */
export function summedUp(lines: readonly string[]): string | undefined {
  const start = lines.lastIndexOf('RPM build errors:') + 1;
  if (start === 0) return undefined;
  const [first, ...more] = lines.slice(start).map((line) => line.trim());
  if (first === undefined || first === '') return undefined;
  return (first.endsWith(':') ? `${first} ${more.slice(0, 3).join(' ')}` : first)
    .trim()
    .slice(0, 300);
}
