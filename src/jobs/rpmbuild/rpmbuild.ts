import type { CommandEnd } from '../../sandbox/door/supervise.ts';
import type { BuildJob } from './build-job.ts';
import type { BuildSandbox } from './build-sandbox.ts';
import { type BuildStart, buildPackages, MISSING_BUILDREQUIRES } from './commands.ts';
import {
  BuildFailure,
  failedSection,
  notForThisMachine,
  summedUp,
  unmetRequires,
  whichLimit,
} from './outcome/outcome.ts';
import type { BuildPhase } from './outcome/report.ts';

/**
 * Makes the binary packages in a sandbox that has all requirements, and the source package anew where requirements are
 * generated.
 * @throws BuildFailure E_BUILD_FAILED, E_BUILD_REQUIRES, E_BUILD_ARCH
 */
export async function runRpmbuild(
  job: BuildJob,
  sandbox: BuildSandbox,
  start: BuildStart,
): Promise<CommandEnd> {
  return await job.phase('build', async () => {
    const stages = new Stages(job);
    const command = job.command('build.log');
    const argv = buildPackages(sandbox.topDirectory, job.request, start);
    const onOutput = (chunk: Buffer) => {
      command.onOutput(chunk);
      stages.push(chunk);
    };
    const end = await job.logged(sandbox, argv, { ...command, onOutput }).catch((error) => {
      stages.end(true);
      throw error;
    });
    const { exitCode, signal, timeLimit } = end;
    const limit = whichLimit(end);
    const { section } = stages;
    const isUnmet = exitCode === MISSING_BUILDREQUIRES && limit === null;
    // rpmbuild asks for what is missing before any part of its run.
    if (isUnmet) job.timeline.fail('build');
    stages.end(exitCode !== 0);
    if (exitCode === 0 && limit === null) return { exitCode, signal, timeLimit };
    if (isUnmet) throw unmetRequires(end);
    const elsewhere = limit === null ? notForThisMachine(end) : undefined;
    if (elsewhere !== undefined) throw elsewhere;
    const lines = end.output.lines();
    const scriptlet = failedSection(lines);
    const what = scriptlet ?? section ?? 'rpmbuild';
    const mistake = scriptlet === undefined ? summedUp(lines) : undefined;
    const hint = mistake === undefined ? undefined : `mend the spec: ${mistake}`;
    throw new BuildFailure('E_BUILD_FAILED', `${what} failed`, end, hint);
  });
}

const SECTIONS: Readonly<Record<string, BuildPhase>> = {
  prep: 'prep',
  generate_buildrequires: 'dynamic-buildrequires',
  build: 'compile',
  install: 'install',
  check: 'check',
};

/** Bytes of a line that are examined. */
const LINE_LENGTH = 200;

/** The part of rpmbuild's run that begins with this line of its log. */
export function partBegunBy(
  line: string,
): { readonly section?: string; readonly phase: BuildPhase | undefined } | undefined {
  if (line.startsWith(PROCESSING)) return { phase: 'package' };
  const section = /^Executing\(%(\w{1,64})\): /.exec(line)?.[1];
  return section === undefined ? undefined : { section: `%${section}`, phase: SECTIONS[section] };
}

/** Whether more of a line may make it the beginning of a part. */
export function mayBeginPart(line: string): boolean {
  const isBegun = (part: string) => part.startsWith(line) || line.startsWith(part);
  return line.length < PART_LENGTH && ['Executing(%', PROCESSING].some(isBegun);
}

const PROCESSING = 'Processing files: ';

/** Bytes of the beginning of a part, at most. */
const PART_LENGTH = 80;

/** Tells the parts of rpmbuild's run, for people and times only: a package can write the same lines. */
class Stages {
  readonly #job: BuildJob;
  current: BuildPhase | undefined;
  section: string | undefined;
  #since = 0;
  #line = '';

  constructor(job: BuildJob) {
    this.#job = job;
  }

  push(chunk: Buffer): void {
    const lines = (this.#line + chunk.toString('latin1')).split('\n');
    this.#line = (lines.pop() ?? '').slice(0, LINE_LENGTH);
    for (const line of lines) this.#look(line);
  }

  end(failed: boolean): void {
    if (failed) this.#job.timeline.fail(this.current ?? 'build');
    this.#leave(failed ? 'fail' : 'finish');
  }

  #look(line: string): void {
    const begun = partBegunBy(line);
    if (begun === undefined) return;
    this.section = begun.section;
    this.#enter(begun.phase);
  }

  #enter(phase: BuildPhase | undefined): void {
    if (phase === undefined || phase === this.current) return;
    this.#leave('finish');
    this.current = phase;
    this.#since = performance.now();
    this.#job.hooks.onPhase?.(phase, 'start');
  }

  #leave(event: 'finish' | 'fail'): void {
    if (this.current === undefined) return;
    this.#job.timeline.note(this.current, this.#since);
    this.#job.hooks.onPhase?.(this.current, event);
    this.current = undefined;
  }
}
