/** `kiln farm step`: the command of a worker. */
import { hostname } from 'node:os';
import { dirname, join, resolve } from 'node:path';
import { Command } from 'commander';
import { KilnError } from '../../errors.ts';
import { STEP_STATUS, stepStatus } from '../../farm/exit-status.ts';
import { runStep, type StepPlaces } from '../../farm/run-step.ts';
import { MAX_STEP, parseStep, type Step } from '../../farm/step.ts';
import { readUserFile } from '../../host/files/user-file.ts';
import { buildStatus } from '../../jobs/rpmbuild/outcome/exit-status.ts';
import type { Caller } from '../caller/caller.ts';
import { listenForInterruption } from '../caller/interruption.ts';
import { printError } from '../output/errors.ts';
import { BuildOutput } from '../rpmbuild/build-output.ts';
import { admitOptions, admitWorker, fetchPath } from '../users/user-guard.ts';
import type { PathKind } from '../users/user-rules.ts';

interface StepOptions {
  readonly resultdir: string;
  readonly worker?: string;
}

export function stepCommand(caller: Caller): Command {
  return new Command('step')
    .description('Do one step of a chain on this machine; workers run this.')
    .argument('<step>', 'a step.json, with what it names beside it')
    .option('--resultdir <dir>', 'write packages and logs to this directory', 'out')
    .option('--worker <name>', 'call this machine by this name in results')
    .addHelpText(
      'after',
      '\nExit status: 0 done; 65 the package’s fault; 75 this machine’s fault: try it elsewhere.\n\nExamples:\n  kiln farm step step.json --resultdir out',
    )
    .action((file: string, options: StepOptions) => doStep(file, options, caller));
}

/** Runs the step in a file, shows the build, and sets the exit status: 0, 65 or 75. */
async function doStep(file: string, options: StepOptions, caller: Caller): Promise<void> {
  try {
    caller.exitStatus = await attempt(file, options, caller);
  } catch (error) {
    printError(error, caller.stderr);
    const isWrong = error instanceof KilnError && error.code === 'E_FARM_STEP';
    caller.exitStatus = isWrong ? STEP_STATUS.package : stepStatus(buildStatus(error));
  }
}

async function attempt(file: string, options: StepOptions, caller: Caller): Promise<number> {
  admitWorker('farm step', caller.user);
  const fetch = async (kind: PathKind, path: string) =>
    caller.user === undefined ? resolve(path) : String(await fetchPath(kind, path, caller.user));
  const step = readStep(await fetch('file', file), file);
  if (caller.user !== undefined) admitOptions('build', optionsOf(step), caller.user);
  await using engine = caller.openEngine({ hurry: true });
  const beside = (name: string) => join(dirname(file), name);
  const sources: string[] = [];
  for (const member of step.members) sources.push(await fetch('file', beside(member.file)));
  const { results } = step;
  // A user's result directory was opened before the command began.
  const resultDirectory = resolve(options.resultdir);
  const places: StepPlaces = {
    sources,
    results: results === null ? undefined : await fetch('sources', beside(results.folder)),
    resultDirectory,
    work: caller.user?.files?.folder ?? resultDirectory,
    owner: caller.ids,
    worker: options.worker ?? hostname(),
  };
  using interruption = listenForInterruption(caller);
  const shown = step.members[0]?.name ?? '';
  const output = new BuildOutput({ quiet: false, ci: 'none', source: shown }, caller);
  const hooks = { ...output.hooks, signal: interruption.signal };
  const { status, report } = await runStep(engine, step, places, hooks);
  if (report !== undefined) await output.finish(report);
  return status;
}

function readStep(path: string, shown: string): Step {
  let content: string;
  try {
    content = readUserFile(path, MAX_STEP).toString('utf8');
  } catch (cause) {
    throw new KilnError('E_FARM_STEP', `cannot read the step ${shown}`, {
      cause,
      hint: 'name a step.json that `kiln build --chain --farm` wrote',
    });
  }
  return parseStep(content, shown);
}

/** A step's options by their names in `kiln build`. */
function optionsOf({ options }: Step): Readonly<Record<string, unknown>> {
  const { limits, time, disk, additionalPackages, provenance } = options;
  const builderId = provenance?.builder;
  return { ...limits, ...time, disk, additionalPackage: additionalPackages, builderId };
}
