import type { Stats } from 'node:fs';
import { readdir, stat } from 'node:fs/promises';
import { hostname } from 'node:os';
import { dirname, join } from 'node:path';
import { defined } from '../../defined.ts';
import type { Engine } from '../../engine.ts';
import { isKilnCode, KilnError } from '../../errors.ts';
import { DIGEST_DIGITS } from '../../farm/dag.ts';
import { prepareStep } from '../../farm/prepare.ts';
import { publishStep } from '../../farm/publish.ts';
import { runStep, type StepPlaces } from '../../farm/run-step.ts';
import { MAX_STEP, parseStep, STEP_STATUS, type Step, stepStatus } from '../../farm/step.ts';
import type { HeldPath } from '../../host/files/held.ts';
import { readUserText } from '../../host/files/user-file.ts';
import { KILN_VERSION } from '../../host/state/paths.ts';
import { visibleImages } from '../../image/store/images.ts';
import { findContents } from '../../image/store/manifest.ts';
import { buildStatus } from '../../jobs/rpmbuild/outcome/outcome.ts';
import { BUILDS } from '../../options/build.ts';
import { text } from '../../options/kind.ts';
import { opened } from '../../options/places.ts';
import { row, type ValuesOf } from '../../options/row.ts';
import { type PathKind, path } from '../../options/rules.ts';
import { allowedMissing, OPTIONAL_LAYERS, whyUnavailable } from '../../sandbox/policy/layers.ts';
import { type Caller, listenForInterruption } from '../caller/caller.ts';
import { KilnCommand } from '../options/command.ts';
import { exitStatusHelp } from '../options/exit-statuses.ts';
import { printError } from '../output/errors.ts';
import { buildOutput } from '../rpmbuild/build-output.ts';
import { admitOptions, admitWorker, fetchPath } from '../users/user-guard.ts';
import {
  cancelCommand,
  checkCommand,
  filesIn,
  logsCommand,
  resumeCommand,
  statusCommand,
} from './look.ts';

const EXAMPLES = `
A chain goes to a pool with “kiln build --chain --farm”; docs/farm.md explains it.

Examples:
  kiln farm check
  kiln build --chain --farm -r debian-build --resultdir out *.src.rpm
  kiln farm status 3fa9c1d2
  kiln farm logs -f 3fa9c1d2 app-1-1`;

export function command(caller: Caller): KilnCommand {
  const it = new KilnCommand('farm')
    .description('Build chains on a pool of machines, which HTCondor schedules.')
    .addHelpText('after', EXAMPLES);
  const commands = [
    ...[checkCommand, statusCommand, logsCommand, cancelCommand, resumeCommand],
    ...[stepCommand, advertiseCommand],
  ];
  for (const make of commands) it.addCommand(make(caller));
  it.addCommand(prepareCommand(caller), { hidden: true });
  it.addCommand(publishCommand(caller), { hidden: true });
  return it;
}

/** How many packages a worker advertises, the last used ones. Several daemons hold a ClassAd in memory. */
const PACKAGES = 4000;

function prepareCommand(caller: Caller): KilnCommand {
  return new KilnCommand('prepare')
    .description('Write the plan of a step, before it is submitted.')
    .argument('<dir>')
    .argument('<step>')
    .action(async (directory: string, node: string) => {
      using files = await filesIn(directory, caller);
      caller.exitStatus = await prepareStep(files, node, allowedMissing(caller.env));
    });
}

function publishCommand(caller: Caller): KilnCommand {
  const it = new KilnCommand('publish')
    .description('Take the results of a step that has ended.')
    .argument('<dir>')
    .argument('<step>')
    .argument('<status>', 'what the step ended with');
  // A signal's number is negative.
  return it.allowUnknownOption().action(async (directory: string, node: string, status: string) => {
    using files = await filesIn(directory, caller);
    caller.exitStatus = await publishStep(files, node, Number(status), caller.ids);
  });
}

function advertiseCommand(caller: Caller): KilnCommand {
  return new KilnCommand('advertise')
    .description('Print what this machine offers, as attributes for HTCondor’s startd.')
    .examples('kiln farm advertise')
    .action(async () => {
      admitWorker('farm advertise', caller.user);
      await using engine = caller.openEngine();
      const images = (await visibleImages(engine)).map(({ manifest }) => manifest.id);
      const layers = OPTIONAL_LAYERS.filter((layer) => whyUnavailable(layer) === undefined);
      const list = (values: readonly string[]) => JSON.stringify(values.join());
      const short = (digests: readonly string[]) =>
        list(digests.map((digest) => digest.slice(0, DIGEST_DIGITS)));
      caller.stdout.say(
        [
          `KilnVersion = ${JSON.stringify(KILN_VERSION)}`,
          `KilnLayers = ${list(layers)}`,
          `KilnImages = ${short(images)}`,
          `KilnPackages = ${short(await newest(engine.paths.packages, packagesOf(engine, images)))}`,
          '',
        ].join('\n'),
      );
    });
}

function packagesOf({ paths }: Engine, images: readonly string[]): Set<string> {
  const packages = images.flatMap((id) => findContents(paths, id).value?.packages ?? []);
  return new Set(packages.map(({ digest }) => digest.replace(/^sha256:/, '')));
}

async function newest(folder: string, wanted: ReadonlySet<string>): Promise<string[]> {
  const names = (await readdir(folder).catch(() => [])).filter((name) => wanted.has(name));
  if (names.length <= PACKAGES) return names;
  const entries: { readonly name: string; readonly stats: Stats }[] = [];
  for (const name of names) {
    const stats = await stat(join(folder, name)).catch(() => undefined);
    if (stats !== undefined) entries.push({ name, stats });
  }
  entries.sort((a, b) => b.stats.mtimeMs - a.stats.mtimeMs);
  return entries.slice(0, PACKAGES).map(({ name }) => name);
}

const STEP = {
  resultdir: row(opened<string>('dir', path('results')), 'open', {
    help: 'write packages and logs to this folder',
    usual: 'out',
  }),
  worker: row(text('name'), 'open', { help: 'call this machine by this name in results' }),
};

type StepOptions = ValuesOf<typeof STEP>;

function stepCommand(caller: Caller): KilnCommand {
  return new KilnCommand('step')
    .description('Do one step of a chain on this machine; workers run this.')
    .argument('<step>', 'a step.json, with what it names beside it')
    .rows(STEP)
    .addHelpText(
      'after',
      `${exitStatusHelp('kiln farm step')}\nExamples:\n  kiln farm step step.json --resultdir out`,
    )
    .action((file: string, options: StepOptions) => doStep(file, options, caller));
}

async function doStep(file: string, options: StepOptions, caller: Caller): Promise<void> {
  try {
    caller.exitStatus = await attempt(file, options, caller);
  } catch (error) {
    printError(error, caller.stderr);
    const isWrong = isKilnCode(error, 'E_FARM_STEP');
    caller.exitStatus = isWrong ? STEP_STATUS.package : stepStatus(buildStatus(error));
  }
}

async function attempt(file: string, options: StepOptions, caller: Caller): Promise<number> {
  admitWorker('farm step', caller.user);
  const fetch = (kind: PathKind, path: string) => fetchPath(kind, path, caller.paths);
  const step = readStep(await fetch('text', file), file);
  if (caller.user !== undefined) admitOptions(BUILDS, { ...step.options }, caller.user);
  await using engine = caller.openEngine();
  const beside = (name: string) => join(dirname(file), name);
  const sources: HeldPath[] = [];
  for (const member of step.members) sources.push(await fetch('file', beside(member.file)));
  const { results } = step;
  const resultDirectory = await caller.paths.results(options.resultdir);
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
  using output = buildOutput({ quiet: false, ci: 'none', source: shown }, caller);
  const { samples } = step.options;
  const hooks = { ...output.hooks, signal: interruption.signal, ...defined({ samples }) };
  const { status, report } = await runStep(engine, step, places, hooks);
  if (report !== undefined) await output.finish(report);
  return status;
}

function readStep(path: string, shown: string): Step {
  const refusal = (cause: unknown) =>
    new KilnError('E_FARM_STEP', `cannot read the step ${shown}`, {
      cause,
      hint: 'name a step.json that `kiln build --chain --farm` wrote',
    });
  return parseStep(readUserText(path, MAX_STEP, refusal), shown);
}
