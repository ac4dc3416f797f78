import { mkdirSync, statSync } from 'node:fs';
import { join } from 'node:path';
/** What a run came to: told on stderr, and written as its result. */
import type { Owner } from '../../artifacts/destination.ts';
import type { Engine } from '../../engine.ts';
import { isKilnCode } from '../../errors.ts';
import { attempt } from '../../host/calls/libc.ts';
import type { HeldPath } from '../../host/files/held.ts';
import { writeRecord } from '../../host/state/checked-file.ts';
import type { ImageManifest } from '../../image/store/manifest.ts';
import { ownResults } from '../../jobs/run/collect.ts';
import { explainLayers } from '../../jobs/run/explain.ts';
import { explainRefusals, learnedOptions } from '../../jobs/run/explain-refusals.ts';
import type { RunRequest } from '../../jobs/run/request.ts';
import { describeRefusal, mayExplainFailure } from '../../jobs/run/result.ts';
import type { RunReport } from '../../jobs/run/run.ts';
import type { RunOptions } from '../../options/sandbox.ts';
import type { Result } from '../../result/schema.ts';
import type { Caller } from '../caller/caller.ts';
import type { KilnCommand } from '../options/command.ts';
import {
  commandStatus,
  KILN_FAILED,
  limitText,
  printEgressRefusals,
  printError,
} from './errors.ts';
import { jsonText, printJson } from './print.ts';
import { printTable } from './table.ts';

export function announce(
  report: RunReport,
  options: RunOptions,
  it: KilnCommand,
  caller: Caller,
): void {
  if (report.limitHit !== null) {
    caller.stderr.say(`kiln: ${limitText(report.limitHit, options, (name) => it.isGiven(name))}\n`);
  }
  caller.exitStatus = commandStatus(report.end);
  if (report.failure !== undefined) {
    printError(report.failure, caller.stderr);
    if (caller.exitStatus === 0) caller.exitStatus = KILN_FAILED;
  }
  if (options.explainRefusals !== true) mentionRefusals(report, caller);
  if (options.keep !== undefined) {
    caller.stderr.say(
      `kiln: kept as ${report.sandbox}: kiln shell ${options.name ?? report.sandbox}\n`,
    );
  }
}

function mentionRefusals(report: RunReport, caller: Caller): void {
  const calls = (report.refused ?? []).map(describeRefusal).filter(mayExplainFailure);
  if (caller.exitStatus !== 0 && calls.length > 0) {
    const text = calls.map(({ syscall, action }) => `${syscall} (${action})`).join(', ');
    caller.stderr.say(`kiln: refused system calls, which may be why: ${text}\n`);
  }
  printEgressRefusals(report.egress ?? [], caller.stderr);
}

/** Of `--explain-refusals` and `--egress-learn`. */
export async function tellRefusals(
  report: RunReport,
  request: RunRequest,
  options: RunOptions,
  { stderr }: Caller,
): Promise<void> {
  const egress = report.egress ?? [];
  if (options.egressLearn === true) {
    const learned = learnedOptions(egress);
    stderr.say(`kiln: it reached ${learned.length === 0 ? 'no host' : learned.join(' ')}\n`);
  }
  if (options.explainRefusals !== true) return;
  const { seccomp, profile, capabilities } = request;
  const nested = profile === 'nested' && seccomp === 'default';
  const filter = { profile: nested ? profile : seccomp, capabilities };
  const isOffline = report.measured.seccomp.endsWith('-offline');
  const calls = report.refused?.map(describeRefusal);
  for (const line of await explainRefusals({ calls, egress, filter, isOffline, request, report }))
    stderr.say(`kiln: ${line}\n`);
}

interface ResultsPlace {
  readonly resultDirectory?: HeldPath | undefined;
  readonly caller: Owner;
}

/** Where a result is written after an error: nowhere, if that has told that nothing can be. */
export function resultsPlace(request: ResultsPlace, error: unknown): ResultsPlace {
  const isUsable = !isKilnCode(error, 'E_RESULTDIR_BUSY') && !isKilnCode(error, 'E_RESULTDIR');
  return isUsable ? request : { caller: request.caller };
}

/**
 * Writes result.json into the result directory, if there is one, and prints it as one line on stderr for
 * `--json`. If it cannot be written, that is a failure of kiln, unless there is one already.
 */
export async function reportResult(
  { resultDirectory, caller: owner }: ResultsPlace,
  json: boolean,
  describe: (exitStatus: number) => Result,
  caller: Caller,
  results = ownResults,
): Promise<void> {
  const result = () => describe(caller.exitStatus ?? 0);
  try {
    if (resultDirectory !== undefined) await results.write(resultDirectory, result(), owner);
  } catch (error) {
    printError(error, caller.stderr);
    if (!caller.exitStatus) caller.exitStatus = KILN_FAILED;
  }
  if (json) caller.stderr.write(`${jsonText(result())}\n`);
}

export function printLayers(
  engine: Engine,
  request: RunRequest,
  image: ImageManifest,
  json: boolean,
  caller: Caller,
): void {
  const layers = explainLayers(engine, request, image);
  const rows = layers.map(({ layer, state, detail }) => [layer, state, detail]);
  if (json) printJson(caller.stdout, { planned: layers });
  else printTable(caller.stdout, ['LAYER', 'STATE', 'PLANNED'], rows);
}

const DAY = 24 * 3_600_000;

/** Says, once a day to each caller, what a command runs in where no image is named. */
export function tellUsualImage({ paths, owner }: Engine, caller: Caller): void {
  if (caller.isQuiet) return;
  const folder = join(paths.root, 'told');
  const file = join(folder, `host-${owner?.uid ?? 0}.json`);
  if (Date.now() - (attempt(() => statSync(file).mtimeMs) ?? 0) < DAY) return;
  attempt(() => {
    mkdirSync(folder, { recursive: true, mode: 0o700 });
    writeRecord(file, {});
  });
  caller.stderr.say(
    'kiln: no image is named, so this runs on the host’s own /usr, read-only; -r IMAGE names one\n',
  );
}
