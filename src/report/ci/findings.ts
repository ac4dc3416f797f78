/** What logs of builds say: errors of compilers and tools, and tests. */
import { hash } from 'node:crypto';
import { constants, fstatSync, openSync } from 'node:fs';
import { basename, join } from 'node:path';
import { stripVTControlCharacters } from 'node:util';
import { closing } from '../../host/calls/descriptor.ts';
import { unlessErrno } from '../../host/calls/libc.ts';
import { readInto } from '../../host/files/content.ts';
import type { Folder } from '../../host/files/folder.ts';

export interface Finding extends FoundLine {
  /** Line of the log, from 1; the first where it says the same again. */
  readonly at: number;
}

interface FoundLine {
  readonly severity: 'error' | 'warning';
  readonly file: string;
  /** From 1; 1 where the tool names none. */
  readonly line: number;
  readonly column?: number;
  readonly message: string;
  readonly tool: 'compiler' | 'make' | 'rpmlint' | 'rpm';
}

export interface CheckedTest extends TestLine {
  /** Line of the log, from 1. */
  readonly at: number;
}

interface TestLine {
  readonly name: string;
  readonly outcome: 'passed' | 'failed' | 'skipped';
}

const FINDINGS_MAX = 1000;
const TESTS_MAX = 20_000;
const LINE_MAX = 4096;

/** Where rpmbuild unpacks sources: topdir/BUILD, with a folder of the package's own since rpm 4.20. */
const BUILD_FOLDER = /^\/builddir\/build\/BUILD\/(?:[^/]+-build\/)?(?:[^/]+\/)?(?=[^/])/;

// Logs are hostile: the time that a pattern takes grows no faster than the line.

/** gcc, clang, ld: `file:line[:column]: error: text`. */
const COMPILER =
  /^(?<file>(?!\d*:)[^\s:]+):(?<line>\d{1,7}):(?:(?<column>\d{1,5}):)? (?:fatal )?(?<severity>error|warning): (?<message>.+)$/;
/** GNU make: `make: *** [Makefile:12: all] Error 2`. */
const MAKE = /^make(?:\[\d+\])?: \*\*\* \[(?<file>[^\s:]+):(?<line>\d{1,7}): (?<message>.+)$/;
/** rpmlint 2: `name.arch: E: check-name details`, also `no-%prep-section`; a spec is named with its line. */
const RPMLINT =
  /^(?<file>[\w.+~-]+(?:\.spec)?):(?:(?<line>\d+):)? (?<severity>[EW]): (?<message>[\w%-]+(?: .*)?)$/;
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
  /^(?<outcome>ok|not ok) \d+(?: -)? (?<name>[^#]+)(?:#\s*(?<directive>(?i:SKIP|TODO)).*)?$/;

export class LogReader {
  readonly tests: CheckedTest[] = [];
  readonly #found = new Map<string, Finding>();
  readonly #count = { error: 0, warning: 0 };
  readonly #decoder = new TextDecoder();
  readonly #spec: string;
  #rest = '';
  #at: number;

  /** @param spec what a line of rpm's that names none is about @param before lines of the log that are not read */
  constructor(spec: string, before = 0) {
    this.#spec = spec;
    this.#at = before;
  }

  get findings(): readonly Finding[] {
    return [...this.#found.values()];
  }

  push(chunk: Buffer): void {
    const lines = (this.#rest + this.#decoder.decode(chunk, { stream: true })).split('\n');
    this.#rest = (lines.pop() ?? '').slice(0, LINE_MAX);
    for (const line of lines) this.#read(line);
  }

  #read(raw: string): void {
    const at = ++this.#at;
    const line = stripVTControlCharacters(raw.slice(0, LINE_MAX)).trimEnd();
    const found = findingIn(line, this.#spec);
    if (found !== undefined) {
      const key = JSON.stringify(found);
      if (this.#found.has(key) || this.#count[found.severity] >= FINDINGS_MAX) return;
      this.#found.set(key, { at, ...found });
      this.#count[found.severity]++;
      return;
    }
    const test = testIn(line);
    if (test !== undefined && this.tests.length < TESTS_MAX) this.tests.push({ at, ...test });
  }
}

function findingIn(line: string, spec: string): FoundLine | undefined {
  for (const [tool, pattern] of PATTERNS) {
    const groups = pattern.exec(line)?.groups;
    if (groups === undefined) continue;
    const { file = spec, line: number = '1', column, severity = 'error', message = '' } = groups;
    return {
      tool,
      severity: severity === 'warning' || severity === 'W' ? 'warning' : 'error',
      // rpmlint knows the spec's name, and the checkout its folder.
      file: file === basename(spec) ? spec : file.replace(BUILD_FOLDER, ''),
      line: Number(number),
      ...(column === undefined ? {} : { column: Number(column) }),
      message,
    };
  }
  return undefined;
}

function testIn(line: string): TestLine | undefined {
  const { outcome, name, directive } =
    (AUTOMAKE.exec(line) ?? CTEST.exec(line) ?? TAP.exec(line))?.groups ?? {};
  if (outcome === undefined || name === undefined) return undefined;
  const skipped = directive !== undefined || outcome === 'SKIP';
  const passed = ['PASS', 'XFAIL', 'Passed', 'ok'].includes(outcome);
  return { name: name.trimEnd(), outcome: skipped ? 'skipped' : passed ? 'passed' : 'failed' };
}

/** rpmbuild says so before each part of a spec that it executes. */
const PART = '\nExecuting(%';

/** Bytes of a log in a report: its beginning and its end, if it is longer. A page with more is slow to make and to open. */
const HEAD = 8 << 20;
const TAIL = 24 << 20;
const END_LINES = 200;

export interface LogFailures {
  readonly findings: LogReader['findings'];
  readonly tests: LogReader['tests'];
}

/** As the report has it: a line says how much is left out. */
export function readLog(folder: Folder, name: string): Buffer | undefined {
  const flags = constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK;
  const opened = () => closing(openSync(join(folder.path, name), flags));
  using file = unlessErrno(['ENOENT', 'ELOOP', 'ENXIO'], opened);
  if (file === undefined) return undefined;
  const { fd } = file;
  const stats = fstatSync(fd);
  if (!stats.isFile() || stats.size === 0) return undefined;
  if (stats.size <= HEAD + TAIL) return readInto(Buffer.alloc(stats.size), fd, 0);
  const read = readInto(Buffer.alloc(HEAD), fd, 0);
  const head = read.subarray(0, read.lastIndexOf(10) + 1 || read.length);
  const end = readInto(Buffer.alloc(TAIL), fd, stats.size - TAIL);
  const tail = end.subarray(end.indexOf(10) + 1);
  const leftOut = stats.size - head.length - tail.length;
  const note = `[${leftOut} bytes of ${name} are not in this report]\n`;
  return Buffer.concat([head, Buffer.from(note), tail]);
}

/** Errors and failed tests of a failed build: those of the last part of the spec, because that is the one that failed. */
export function failuresOf(log: Buffer, spec: string): LogFailures {
  const start = Math.max(0, log.lastIndexOf(PART));
  let before = 0;
  for (let at = log.indexOf(10); at !== -1 && at < start; at = log.indexOf(10, at + 1)) before++;
  const reader = new LogReader(spec, before);
  reader.push(log.subarray(start));
  reader.push(Buffer.from('\n'));
  return {
    findings: reader.findings.filter(({ severity }) => severity === 'error'),
    tests: reader.tests.filter(({ outcome }) => outcome === 'failed'),
  };
}

/** For paper and for browsers without scripts. */
export function lastLines(log: Buffer): string[] {
  // A line of a log is seldom longer than this on average.
  const text = log.subarray(-END_LINES * 200).toString('utf8');
  return stripVTControlCharacters(text).trimEnd().split('\n').slice(-END_LINES);
}

/** A finding keeps its fingerprint while its file, tool and text stay: lines move. */
export function codeQuality(findings: readonly Finding[]): string {
  const seen = new Map<string, number>();
  const issues = findings.map(({ tool, severity, file, line, message }) => {
    const identity = JSON.stringify([tool, file, message]);
    const count = seen.get(identity) ?? 0;
    seen.set(identity, count + 1);
    return {
      description: message,
      check_name: checkName(tool, message),
      fingerprint: hash('sha256', `${identity}${count}`, 'hex'),
      severity: severity === 'error' ? 'major' : 'minor',
      location: { path: file, lines: { begin: line } },
    };
  });
  return `${JSON.stringify(issues, undefined, 2)}\n`;
}

function checkName(tool: Finding['tool'], message: string): string {
  if (tool === 'rpmlint') return message.split(' ')[0] ?? tool;
  return /\[(-W[\w=+-]+)\]$/.exec(message)?.[1] ?? tool;
}
