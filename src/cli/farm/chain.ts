/** `kiln build --chain --farm`, and `kiln farm resume`. */

import { join } from 'node:path';
import type { Command } from 'commander';
import { writeText } from '../../artifacts/staging.ts';
import { defined } from '../../defined.ts';
import { KilnError } from '../../errors.ts';
import { rememberChain } from '../../farm/known-chains.ts';
import { requirePool } from '../../farm/pool.ts';
import type { FarmMemberReport } from '../../farm/report.ts';
import { buildFarmChain, type FarmRequest } from '../../farm/run-chain.ts';
import { STEP_FILE, type StepOptions } from '../../farm/step.ts';
import { startProgram } from '../../host/process/child-process.ts';
import { packageRoot } from '../../host/state/paths.ts';
import { chainJson } from '../../jobs/chain/json.ts';
import type { ChainRequest } from '../../jobs/chain/request.ts';
import { buildStatus } from '../../jobs/rpmbuild/outcome/exit-status.ts';
import type { Caller } from '../caller/caller.ts';
import { listenForInterruption } from '../caller/interruption.ts';
import { printError } from '../output/errors.ts';
import { printJson } from '../output/print.ts';
import { CHAIN_FILE, chainRequest, printChain, seconds } from '../rpmbuild/build-chain.ts';
import type { ChainOptions } from '../rpmbuild/build-chain-options.ts';
import type { BuildOptions } from '../rpmbuild/build-options.ts';

/** Builds source packages as a chain on a pool, shows the progress, and sets kiln's exit status. */
export async function runFarmChain(
  sources: readonly string[],
  options: BuildOptions & ChainOptions,
  command: Command,
  caller: Caller,
): Promise<void> {
  const request = chainRequest(sources, options, command, caller);
  refuseWhatStays(command);
  const jobs = command.getOptionValueSource('jobs') === 'cli' ? options.jobs : null;
  await run(farmRequest(request, jobs), caller, { json: options.json === true });
}

/** Options whose files, keys and networks exist only on this machine. */
const STAYS = [
  ...['signKey', 'signPassphraseFile', 'provenanceKey', 'enableNetwork', 'network', 'egress'],
  ...['addrepo', 'cache', 'keep'],
];

/** @throws KilnError E_ARGUMENT */
function refuseWhatStays(command: Command): void {
  const given = command.options.filter(
    (option) =>
      STAYS.includes(option.attributeName()) &&
      command.getOptionValueSource(option.attributeName()) === 'cli',
  );
  if (given.length === 0) return;
  throw new KilnError('E_ARGUMENT', `--farm takes no ${given.map(({ long }) => long).join(', ')}`, {
    hint: 'keys, caches, networks and kept sandboxes are of one machine; sign the packages when they are back',
  });
}

function farmRequest(request: ChainRequest, jobs: number | null): FarmRequest {
  const { build } = request;
  const { defines, nocheck, target, rpmbuildOptions, shortCircuit, limits, disk, time } = build;
  const { additionalPackages, postinstall, offline, update, provenance } = build;
  const { builder, sourceDateEpoch } = provenance ?? {};
  const options = {
    ...{ defines, with: build.with, without: build.without, nocheck, target, rpmbuildOptions },
    ...{ shortCircuit, additionalPackages, limits, disk, time, postinstall, offline, update },
    provenance: defined({ builder, sourceDateEpoch }),
  };
  return {
    sources: request.sources,
    resultDirectory: request.resultDirectory,
    image: build.image,
    options: defined(options) as StepOptions,
    jobs,
    continue: request.continue,
    recurse: request.recurse,
  };
}

/** @throws nothing: failures are printed */
export async function run(
  request: FarmRequest,
  caller: Caller,
  { json = false, goesOn = false }: { readonly json?: boolean; readonly goesOn?: boolean },
): Promise<void> {
  using interruption = listenForInterruption(caller);
  const note = (text: string) => caller.stderr.say(`kiln: ${text}\n`);
  const program = join(packageRoot(), 'bin/kiln');
  try {
    await requirePool(caller.ids.uid);
    const context = {
      owner: caller.ids,
      doStep: (folder: string) => stepHere(program, folder),
      program,
      environment: hookEnvironment(caller),
      signal: interruption.signal,
      onMember: (member: FarmMemberReport) => noteMember(member, note, caller),
      onNote: note,
      onChain: (id: string) => rememberChain(caller.environment, id, request.resultDirectory),
    };
    const report = await buildFarmChain(request, context, goesOn);
    printChain(report, caller);
    const asked = { jobs: request.jobs ?? 0, continue: request.continue, recurse: request.recurse };
    const value = {
      ...chainJson({ ...asked, build: { image: request.image } }, report),
      farm: {
        id: report.id,
        workers: Object.fromEntries(
          report.members.map(({ name, worker }) => [name, worker ?? null]),
        ),
      },
    };
    const text = `${JSON.stringify(value, undefined, 2)}\n`;
    await writeText(request.resultDirectory, CHAIN_FILE, text, caller.ids);
    if (json) printJson(caller.stderr, value);
    if (report.failure !== undefined)
      note(`kiln farm resume ${report.id} goes on with what is left`);
    caller.exitStatus = report.exitStatus;
  } catch (error) {
    printError(error, caller.stderr);
    caller.exitStatus = buildStatus(error);
  }
}

/** The caller's environment for DAGMan's scripts, which DAGMan does not pass on. */
function hookEnvironment({ environment }: Caller): Record<string, string> {
  const names = ['PATH', 'KILN_STATE', 'KILN_ALLOW_MISSING', 'KILN_FROM_SOURCE', 'CONDOR_CONFIG'];
  return Object.fromEntries(
    names.flatMap((name) => {
      const value = environment[name];
      return value === undefined ? [] : [[name, value]];
    }),
  );
}

/** Runs a step on this machine with its own kiln; output goes to stderr. */
function stepHere(program: string, folder: string): Promise<number> {
  const argv = ['farm', 'step', STEP_FILE, '--resultdir', 'out'];
  const child = startProgram(program, argv, {
    cwd: folder,
    stdio: ['ignore', 'ignore', 'inherit'],
  });
  return new Promise((resolve, reject) => {
    child.on('error', reject).on('exit', (code) => resolve(code ?? 125));
  });
}

function noteMember(member: FarmMemberReport, note: (text: string) => void, caller: Caller): void {
  const { name, state, reason, durationMs, report, worker } = member;
  if (state === 'failed') {
    for (const line of report?.lastLines ?? []) caller.stderr.say(`  | ${line}\n`);
  }
  const time = state === 'built' ? ` in ${seconds(durationMs)} on ${worker}` : '';
  note(`${name}: ${state}${time}${reason === undefined ? '' : `: ${reason}`}`);
  if (state !== 'failed' || report === undefined) return;
  const logs = ['build.log', 'root.log'].map((log) => `${member.resultDirectory}/${log}`);
  caller.stderr.say(`  see ${logs.join(', ')}\n`);
}
