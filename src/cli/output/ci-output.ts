/** A build's report to a CI service: in its output, its summary, and files of the result directory. */
import { closeSync, constants, fstatSync, openSync, writeSync } from 'node:fs';
import { writeText } from '../../artifacts/staging.ts';
import type { BuildPhase } from '../../jobs/rpmbuild/outcome/report.ts';
import { codeQuality } from '../../report/ci/code-quality.ts';
import { LogReader } from '../../report/ci/findings.ts';
import { JUNIT_FILE, junitXml } from '../../report/ci/junit.ts';
import { ANNOTATIONS_MAX, type CiProvider, summary } from '../../report/ci/provider.ts';
import type { Result } from '../../result/schema.ts';
import type { Caller } from '../caller/caller.ts';
import { plainText } from './print.ts';

/** The name in GitLab's documentation. */
const CODE_QUALITY_FILE = 'gl-code-quality-report.json';

/** The report of one build. Its log goes to stdout in between. */
export class CiOutput {
  readonly #provider: CiProvider;
  readonly #caller: Caller;
  readonly #log: LogReader;
  #open: string | undefined;

  constructor(provider: CiProvider, source: string, caller: Caller) {
    this.#provider = provider;
    this.#caller = caller;
    this.#log = new LogReader(source);
  }

  /** Begins a part of the log. */
  begin(phase: BuildPhase): void {
    this.#end();
    this.#open = phase;
    const { untrusted } = this.#provider;
    this.#caller.stdout.write(this.#provider.group(phase) + untrusted.begin);
  }

  read(chunk: Buffer): void {
    this.#log.push(chunk);
  }

  #end(): void {
    if (this.#open === undefined) return;
    const { untrusted } = this.#provider;
    this.#caller.stdout.write(untrusted.end + this.#provider.endGroup(this.#open));
    this.#open = undefined;
  }

  /**
   * Reports the outcome and writes the files.
   * @throws KilnError E_RESULTDIR
   */
  async finish(result: Result, directory: string): Promise<void> {
    this.#end();
    const { findings, tests } = this.#log;
    for (const severity of ['error', 'warning'] as const) {
      const some = findings.filter((finding) => finding.severity === severity);
      for (const finding of some.slice(0, ANNOTATIONS_MAX)) {
        this.#caller.stdout.write(plainText(this.#provider.annotate(finding)));
      }
    }
    this.#caller.stdout.write(plainText(this.#provider.failure(result)));
    const name = result.build?.name ?? 'kiln';
    const owner = this.#caller.ids;
    await writeText(directory, JUNIT_FILE, junitXml([{ name, result, tests }]), owner);
    await writeText(directory, CODE_QUALITY_FILE, codeQuality(findings), owner);
    if (this.#provider.name === 'github') this.#summarise(result);
  }

  /**
   * Appends Markdown to the file that GitHub names. Only for root: the daemon opens no path of another caller's
   * choice.
   */
  #summarise(result: Result): void {
    const path = this.#caller.variable('GITHUB_STEP_SUMMARY');
    if (!path || this.#caller.ids.uid !== 0) return;
    const { O_WRONLY, O_APPEND, O_NOFOLLOW, O_NONBLOCK } = constants;
    let fd: number | undefined;
    try {
      fd = openSync(path, O_WRONLY | O_APPEND | O_NOFOLLOW | O_NONBLOCK);
      if (fstatSync(fd).isFile()) writeSync(fd, summary(result));
    } catch (error) {
      const reason = error instanceof Error ? error.message : String(error);
      this.#caller.stderr.say(
        `kiln: warning: the summary of the step cannot be written: ${reason}\n`,
      );
    } finally {
      if (fd !== undefined) closeSync(fd);
    }
  }
}
