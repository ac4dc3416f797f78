/** What became of one test. */
export interface TestResult {
  /** As ava prints it: the file's path below test/ and the title, joined by ` › `. */
  readonly name: string;
  readonly outcome: 'passed' | 'failed' | 'skipped' | 'todo';
  /** What ava printed below the result: of a failed test its error, in YAML. */
  readonly details: readonly string[];
}

const RESULT = /^(not ok|ok) \d+ - (.*?)(?: # (SKIP|TODO))?$/;
const DETAIL = /^ {2,}(?!---$|\.\.\.$)/;
const PLAN = /^1\.\.(\d+)$/;

/**
 * Reads the TAP 13 that ava's reporter writes, one line at a time.
 *
 * ava escapes nothing in a title, and indents everything that is not a result (details of an error,
 * logs), so a result is a line that begins with `ok` or `not ok` and a number.
 */
export class TapReader {
  readonly results: TestResult[] = [];
  /** The number of results announced at the end; undefined if ava never got there. */
  planned: number | undefined;
  #details: string[] = [];

  /** Takes one line, without its end; returns the result it holds, if it holds one. */
  line(text: string): TestResult | undefined {
    const plan = PLAN.exec(text);
    if (plan) {
      this.planned = Number(plan[1]);
      return undefined;
    }
    const match = RESULT.exec(text);
    if (match === null) {
      if (DETAIL.test(text)) this.#details.push(text);
      return undefined;
    }
    const [, status, name = '', directive] = match;
    this.#details = [];
    const outcome = outcomeOf(status === 'ok', directive);
    const result: TestResult = { name, outcome, details: this.#details };
    this.results.push(result);
    return result;
  }

  count(outcome: TestResult['outcome']): number {
    return this.results.filter((result) => result.outcome === outcome).length;
  }
}

function outcomeOf(ok: boolean, directive: string | undefined): TestResult['outcome'] {
  if (directive === 'SKIP') return 'skipped';
  if (directive === 'TODO') return 'todo';
  return ok ? 'passed' : 'failed';
}
