/** What compilers, linkers, rpmlint and test drivers said in a log, one thing a line. */
import { stripVTControlCharacters } from 'node:util';

/** A complaint that names a place in a source. */
export interface Finding {
  readonly severity: 'error' | 'warning';
  /** As the tool called it; where it is below rpmbuild's folder, without that. */
  readonly file: string;
  /** From 1; 1 where the tool names none. */
  readonly line: number;
  readonly column?: number;
  readonly message: string;
  readonly tool: 'compiler' | 'make' | 'rpmlint' | 'rpm';
}

/** What a test of `%check` came to. */
export interface CheckedTest {
  readonly name: string;
  readonly outcome: 'passed' | 'failed' | 'skipped';
}

/** Findings of one severity that are kept. */
const FINDINGS_MAX = 1000;
const TESTS_MAX = 20_000;
/** Characters of a line that are looked at. */
const LINE_MAX = 4096;

/** Where rpmbuild unpacks sources: topdir/BUILD, with a folder of the package's own since rpm 4.20. */
const BUILD_FOLDER = /^\/builddir\/build\/BUILD\/(?:[^/]+-build\/)?(?:[^/]+\/)?(?=[^/])/;

/** gcc, clang, ld: `file:line[:column]: error: text`. */
const COMPILER =
  /^(?<file>[^\s:]*[^\s:\d][^\s:]*):(?<line>\d{1,7}):(?:(?<column>\d{1,5}):)? (?:fatal )?(?<severity>error|warning): (?<message>.+)$/;
/** GNU make: `make: *** [Makefile:12: all] Error 2`. */
const MAKE = /^make(?:\[\d+\])?: \*\*\* \[(?<file>[^\s:]+):(?<line>\d{1,7}): (?<message>.+)$/;
/** rpmlint 2: `name.arch: E: check-name details`; a spec is named with its line. */
const RPMLINT =
  /^(?<file>[\w.+~-]+(?:\.spec)?):(?:(?<line>\d+):)? (?<severity>[EW]): (?<message>[a-z0-9-]+(?: .*)?)$/;
/** rpmbuild of a spec: `error: line 12: text`. */
const RPM = /^(?<severity>error|warning): line (?<line>\d{1,7}): (?<message>.+)$/;

const PATTERNS = [
  ['compiler', COMPILER],
  ['make', MAKE],
  ['rpmlint', RPMLINT],
  ['rpm', RPM],
] as const;

/** automake's drivers and many scripts: `PASS: name`; XFAIL is a failure that was expected. */
const AUTOMAKE = /^(?<outcome>PASS|FAIL|XFAIL|XPASS|SKIP|ERROR): (?<name>\S.*)$/;
/** CTest: ` 3/12 Test  #3: name ......   Passed    0.01 sec`. */
const CTEST = /^\s*\d+\/\d+ Test\s+#\d+: (?<name>\S+) \.*\s*(?<outcome>Passed|\*\*\*\w+)/;
/** TAP (testanything.org): `not ok 3 - name # SKIP why`. */
const TAP =
  /^(?<outcome>ok|not ok) \d+(?: -)? (?<name>[^#]+?)(?:\s*#\s*(?<directive>SKIP|TODO).*)?$/i;

/** Reads a log as it is written. Only so much of it is kept as the limits here say. */
export class LogReader {
  readonly tests: CheckedTest[] = [];
  readonly #found = new Map<string, Finding>();
  readonly #count = { error: 0, warning: 0 };
  readonly #decoder = new TextDecoder();
  readonly #spec: string;
  #rest = '';

  /** @param spec what a line of rpm's that names none is about */
  constructor(spec: string) {
    this.#spec = spec;
  }

  /** Each one once, in the order of the log. */
  get findings(): readonly Finding[] {
    return [...this.#found.values()];
  }

  push(chunk: Buffer): void {
    const lines = (this.#rest + this.#decoder.decode(chunk, { stream: true })).split('\n');
    this.#rest = (lines.pop() ?? '').slice(0, LINE_MAX);
    for (const line of lines) this.#read(line);
  }

  #read(raw: string): void {
    const line = stripVTControlCharacters(raw.slice(0, LINE_MAX)).trimEnd();
    const found = findingIn(line, this.#spec);
    if (found !== undefined) {
      const key = JSON.stringify(found);
      if (this.#found.has(key) || this.#count[found.severity] >= FINDINGS_MAX) return;
      this.#found.set(key, found);
      this.#count[found.severity]++;
      return;
    }
    const test = testIn(line);
    if (test !== undefined && this.tests.length < TESTS_MAX) this.tests.push(test);
  }
}

/** The finding of one line of a log; undefined where it is none. */
function findingIn(line: string, spec: string): Finding | undefined {
  for (const [tool, pattern] of PATTERNS) {
    const groups = pattern.exec(line)?.groups;
    if (groups === undefined) continue;
    const { file = spec, line: number = '1', column, severity = 'error', message = '' } = groups;
    return {
      tool,
      severity: severity === 'warning' || severity === 'W' ? 'warning' : 'error',
      file: file.replace(BUILD_FOLDER, ''),
      line: Number(number),
      ...(column === undefined ? {} : { column: Number(column) }),
      message,
    };
  }
  return undefined;
}

function testIn(line: string): CheckedTest | undefined {
  const { outcome, name, directive } =
    (AUTOMAKE.exec(line) ?? CTEST.exec(line) ?? TAP.exec(line))?.groups ?? {};
  if (outcome === undefined || name === undefined) return undefined;
  const skipped = directive !== undefined || outcome === 'SKIP';
  const passed = ['PASS', 'XFAIL', 'Passed', 'ok'].includes(outcome);
  return { name, outcome: skipped ? 'skipped' : passed ? 'passed' : 'failed' };
}
