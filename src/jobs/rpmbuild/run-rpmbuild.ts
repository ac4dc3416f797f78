import { KilnError } from '../../errors.ts';
import type { BuildRun } from './build-run.ts';
import type { BuildSandbox } from './build-sandbox.ts';
import { runLogged } from './logged-command.ts';
import { collectPackages } from './outcome/collect.ts';
import type { Progress } from './outcome/finish.ts';
import {
  BuildFailure,
  failedSection,
  notForThisMachine,
  summedUp,
  whichLimit,
} from './outcome/outcome.ts';
import { Stages } from './outcome/stages.ts';
import { buildPackages, MISSING_BUILDREQUIRES } from './rpmbuild.ts';

/**
 * Has rpmbuild make the binary packages in a sandbox that has everything it needs.
 * @param prepDone %prep has run in this sandbox already
 * @throws BuildFailure E_BUILD_FAILED
 */
export async function runRpmbuild(
  run: BuildRun,
  progress: Progress,
  sandbox: BuildSandbox,
  prepDone: boolean,
): Promise<void> {
  const { request, hooks, timeline } = run;
  await run.phase('build', async () => {
    const stages = new Stages(timeline, (phase, event) => hooks.onPhase?.(phase, event));
    const command = run.command('build.log');
    const argv = buildPackages(sandbox.topDirectory, request, prepDone);
    const end = await runLogged(run, sandbox, argv, {
      ...command,
      onOutput: (chunk) => {
        command.onOutput(chunk);
        stages.push(chunk);
      },
    });
    progress.end = end;
    const failed = end.exitCode !== 0;
    const limit = whichLimit(end);
    const { section } = stages;
    if (failed) run.failedPhase = stages.current ?? 'build';
    stages.end(failed);
    if (!failed && limit === null) return;
    if (end.exitCode === MISSING_BUILDREQUIRES && limit === null) {
      run.failedPhase = 'build';
      const hint = 'the lines above name it; a lock is good only for what it was made for';
      const what = 'the image lacks what the package requires';
      throw new BuildFailure('E_BUILD_REQUIRES', what, end, limit, hint);
    }
    const elsewhere = limit === null ? notForThisMachine(end) : undefined;
    if (elsewhere !== undefined) throw elsewhere;
    const lines = end.output.lines();
    const scriptlet = failedSection(lines);
    const what = scriptlet ?? section ?? 'rpmbuild';
    const mistake = scriptlet === undefined ? summedUp(lines) : undefined;
    const hint = mistake === undefined ? undefined : `mend the spec: ${mistake}`;
    throw new BuildFailure('E_BUILD_FAILED', `${what} failed`, end, limit, hint);
  });
}

/**
 * Takes what was made out of the sandbox. A build without packages is a mistake in the spec, unless it
 * was not to get that far.
 * @throws KilnError E_BUILD_OUTPUT, and what {@link collectPackages} throws.
 */
export async function takePackages(
  run: BuildRun,
  progress: Progress,
  sandbox: BuildSandbox,
): Promise<void> {
  const { shortCircuit, stopAfter } = run.request;
  await run.phase('collect', async () => {
    const collected = await collectPackages(run, sandbox);
    progress.collected = collected;
    const whole = shortCircuit === undefined || shortCircuit === 'binary';
    if (collected.packages.length > 0 || stopAfter !== undefined || !whole) return;
    throw new KilnError('E_BUILD_OUTPUT', 'rpmbuild succeeded, but made no package', {
      hint: 'a spec makes a package for each %files section',
    });
  });
}
