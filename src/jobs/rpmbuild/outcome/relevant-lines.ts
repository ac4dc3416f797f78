/** How many lines a person is shown, and how long one may be. */
const LINES = 15;
const LENGTH = 240;

/** What rpmbuild adds at its end: it repeats what stands above. */
const EPILOGUE = /^RPM build (errors|warnings):$/;

/** What compilers, linkers, make, interpreters and rpm write in front of what went wrong. */
const ERROR =
  /(^|[\s:])(fatal )?error( [A-Z]+\d+)?:|undefined reference to|ld returned \d|\*\*\* |command not found|No such file or directory|No space left on device|Cannot allocate memory|Resource temporarily unavailable|^Traceback |^FAIL(ED)?\b|Segmentation fault|(^|\W)Killed($|\W)|is needed by|nothing provides|File not found|Permission denied/;

/** Only rpmbuild's summary of the failure. */
const SUMMARY = /^(error| {4})?:?\s*Bad exit status from /;

/** A line of `set -x`, which every section of a spec is run with. */
const TRACE = /^\+{1,9} /;

/**
 * The lines of a build's output that tell why it failed: from the first error of the part that
 * failed on. Long ones are cut in their middle.
 * @param lines the end of the output, oldest first
 */
export function relevantLines(lines: readonly string[]): string[] {
  const epilogue = lines.findIndex((line) => EPILOGUE.test(line));
  const told = (epilogue < 0 ? lines : lines.slice(0, epilogue)).filter((line) => line !== '');
  const part = lastPart(told);
  const first = part.findIndex((line) => isError(line));
  // Context: who is meant often stands in the line above (“In function ‘main’”).
  const from = first < 0 ? part.length - LINES : Math.max(0, first - 2);
  return head(part.slice(Math.max(0, from))).map(shorten);
}

function isError(line: string): boolean {
  return ERROR.test(line) && !TRACE.test(line) && !SUMMARY.test(line);
}

/** What the section that ran last has written. */
function lastPart(lines: readonly string[]): readonly string[] {
  const start = lines.findLastIndex((line) => /^Executing\(%?\w+\): /.test(line));
  return lines.slice(start + 1);
}

/** Errors first, but the end is always there: it tells how it ended. */
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
