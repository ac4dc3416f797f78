import { relative, resolve } from 'node:path';
import type { Command } from 'commander';
import { writeText } from '../../artifacts/staging.ts';
import { buildChain } from '../../jobs/chain/chain.ts';
import { chainJson } from '../../jobs/chain/json.ts';
import type { ChainMemberReport, ChainReport, ChainRequest } from '../../jobs/chain/request.ts';
import { buildStatus } from '../../jobs/rpmbuild/outcome/exit-status.ts';
import { resultOfBuild } from '../../jobs/rpmbuild/outcome/result.ts';
import { JUNIT_FILE, junitXml } from '../../report/ci/junit.ts';
import { ciProvider } from '../../report/ci/provider.ts';
import type { Caller } from '../caller/caller.ts';
import { listenForInterruption } from '../caller/interruption.ts';
import { imageProgress, type ProgressLine } from '../images/image-progress.ts';
import { printEgressRefusals } from '../output/egress-refusals.ts';
import { printError } from '../output/errors.ts';
import { printJson } from '../output/print.ts';
import { printTable } from '../output/table.ts';
import type { ChainOptions } from './build-chain-options.ts';
import type { BuildOptions } from './build-options.ts';
import { isAtWork } from './build-output.ts';
import { buildRequest } from './build-request.ts';

/** The name of the report in the result directory. */
export const CHAIN_FILE = 'chain.json';

/** Builds source packages as a chain, shows the progress, and sets kiln's exit status. */
export async function runChain(
  sources: readonly string[],
  options: BuildOptions & ChainOptions,
  command: Command,
  caller: Caller,
  begin: () => void,
): Promise<void> {
  const asked = chainRequest(sources, options, command, caller);
  // Each sandbox of a user has an equal share, and a command counts as one sandbox.
  const request = caller.user === undefined ? asked : { ...asked, jobs: 1 };
  const paths = sources.map((path) => resolve(path));
  for (const path of new Set(paths.filter((path, index) => paths.indexOf(path) !== index))) {
    caller.stderr.say(`kiln: warning: ${path} is named more than once: it is built once\n`);
  }
  await using engine = caller.openEngine();
  using interruption = listenForInterruption(caller);
  using progress = imageProgress(caller.stderr);
  const note = (text: string) => {
    progress[Symbol.dispose]();
    caller.stderr.say(`kiln: ${text}\n`);
  };
  note(`chain of ${request.sources.length} packages, ${request.jobs} at a time`);
  try {
    const report = await buildChain(engine, request, {
      signal: interruption.signal,
      onImageProgress: progress.report,
      onMember: (member) => noteMember(member, note, caller),
      buildHooks: () => hooksFor(progress, begin),
    });
    printChain(report, caller);
    const json = chainJson(request, report);
    const text = `${JSON.stringify(json, undefined, 2)}\n`;
    const own = caller.user?.files?.rename(text) ?? text;
    await writeText(request.resultDirectory, CHAIN_FILE, own, request.build.caller);
    if (ciProvider(options.ci, caller.environment) !== undefined) await writeJunit(request, report);
    if (options.json === true) printJson(caller.stderr, json);
    caller.exitStatus = report.exitStatus;
  } catch (error) {
    printError(error, caller.stderr);
    caller.exitStatus = buildStatus(error);
  }
}

/** Writes a test suite for each package that was built or tried. */
async function writeJunit(request: ChainRequest, { members }: ChainReport): Promise<void> {
  const suites = members.flatMap(({ name, report }) =>
    report === undefined ? [] : [{ name, result: resultOfBuild(report), tests: [] }],
  );
  await writeText(request.resultDirectory, JUNIT_FILE, junitXml(suites), request.build.caller);
}

/** The request of a command line. */
export function chainRequest(
  sources: readonly string[],
  options: BuildOptions & ChainOptions,
  command: Command,
  caller: Pick<Caller, 'env' | 'cwd' | 'ids'>,
): ChainRequest {
  const [first] = sources;
  if (first === undefined) return command.error('kiln: a chain needs source packages');
  const { source: _, resultDirectory, ...build } = buildRequest(first, options, command, caller);
  const paths = sources.map((path) => resolve(path));
  return {
    sources: [...new Set(paths)],
    resultDirectory,
    build,
    jobs: options.jobs,
    continue: options.continue === true,
    recurse: options.recurse === true,
  };
}

function hooksFor(progress: ProgressLine, begin: () => void) {
  return {
    onImageProgress: progress.report,
    onPhase: (phase: string) => {
      progress[Symbol.dispose]();
      if (isAtWork(phase)) begin();
    },
  };
}

/** Prints one line for each event. */
function noteMember(member: ChainMemberReport, note: (text: string) => void, caller: Caller): void {
  const { name, state, reason, durationMs, report } = member;
  if (state === 'failed') {
    for (const line of report?.lastLines ?? []) caller.stderr.say(`  | ${line}\n`);
  }
  const time = state === 'built' ? ` in ${seconds(durationMs)}` : '';
  note(`${name}: ${state}${time}${reason === undefined ? '' : `: ${reason}`}`);
  if (state === 'built' || state === 'failed')
    printEgressRefusals(report?.egress ?? [], caller.stderr);
  if (state !== 'failed' || report === undefined) return;
  const logs = ['build.log', 'root.log'].map((log) => `${member.resultDirectory}/${log}`);
  caller.stderr.say(`  see ${logs.join(', ')}\n`);
  if (report.kept) note(`kept as ${report.sandbox}: kiln shell ${report.sandbox}`);
}

/** Prints a table of the outcome, and where the results are. */
export function printChain({ members, repository, failure }: ChainSummary, caller: Caller): void {
  const rows = members.map((member) => [
    member.name,
    member.state,
    member.state === 'built' ? seconds(member.durationMs) : '',
    String(member.packages.length),
    member.needs.map((need) => need.member).join(' '),
  ]);
  printTable(caller.stdout, ['PACKAGE', 'STATE', 'TIME', 'RPMS', 'NEEDS'], rows);
  if (failure !== undefined) printError(failure, caller.stderr);
  if (members.some(({ packages }) => packages.length > 0)) {
    // A user's results are elsewhere while the job runs.
    const near = caller.user === undefined ? relative('', repository) : '';
    caller.stderr.say(`kiln: repository: ${near || repository}\n`);
  }
}

/** The content of the table. */
type ChainSummary = Pick<ChainReport, 'repository' | 'failure'> & {
  readonly members: readonly Pick<
    ChainMemberReport,
    'name' | 'state' | 'durationMs' | 'packages' | 'needs'
  >[];
};

export function seconds(ms: number): string {
  return `${(ms / 1000).toFixed(1)} s`;
}
