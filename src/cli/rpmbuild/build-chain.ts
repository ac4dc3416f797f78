import { join } from 'node:path';
import { isKilnCode, type KilnError } from '../../errors.ts';
import { asKilnError } from '../../host/calls/system-error.ts';
import type { HeldPath } from '../../host/files/held.ts';
import { packageCount } from '../../image/progress.ts';
import { buildChain } from '../../jobs/chain/chain.ts';
import {
  type AskedChain,
  type ChainMemberReport,
  type ChainReport,
  type ChainRequest,
  chainJson,
  type MemberState,
  type ToldBuild,
  type ToldChain,
} from '../../jobs/chain/request.ts';
import { buildStatus } from '../../jobs/rpmbuild/outcome/outcome.ts';
import type { BuildOptions, ChainOptions } from '../../options/build.ts';
import { writeChainResult } from '../../report/write.ts';
import { type Caller, listenForInterruption, type OptionCaller } from '../caller/caller.ts';
import type { KilnCommand } from '../options/command.ts';
import { CiOutput } from '../output/ci-output.ts';
import { noteFailure, printEgressRefusals, printError, printWarning } from '../output/errors.ts';
import { printJson, printLines } from '../output/print.ts';
import {
  hasColours,
  imageProgress,
  isLive,
  type LiveRow,
  LiveTable,
  progressText,
} from '../output/progress.ts';
import { printTable } from '../output/table.ts';
import { isAtWork, printWhereToLook } from './build-output.ts';
import { buildRequest } from './build-request.ts';

/** A user's files have the user's names. */
export async function writeChain(
  directory: HeldPath,
  value: object,
  { paths, ids }: OptionCaller,
): Promise<void> {
  const text = `${JSON.stringify(paths.renamed(value), undefined, 2)}\n`;
  await writeChainResult(directory, text, ids);
}

/** Of a chain that ended before it began. */
export type UnbuiltChain = ChainReport<never>;

interface ToldAs<Report> {
  readonly directory: HeldPath;
  readonly json: boolean;
  readonly describe: (report: Report | UnbuiltChain) => object;
  readonly tellService: (report: Report) => Promise<void>;
}

/** Builds a chain, tells what came of it, and takes its exit status. */
export async function tellChain<Report extends ToldChain>(
  build: () => Promise<Report>,
  { directory, json, describe, tellService }: ToldAs<Report>,
  table: ChainTable,
  caller: Caller,
): Promise<void> {
  const startedAt = new Date();
  let report: Report | undefined;
  try {
    report = await build();
    table[Symbol.dispose]();
    printChain(report, caller);
    const value = describe(report);
    await writeChain(directory, value, caller);
    await tellService(report);
    if (json) printJson(caller.stderr, value);
    caller.exitStatus = report.exitStatus;
  } catch (error) {
    table[Symbol.dispose]();
    const exitStatus = buildStatus(error);
    printError(error, caller.stderr, exitStatus);
    caller.exitStatus = exitStatus;
    const failure = asKilnError(error);
    const repository = join(directory, 'repository/current');
    const durationMs = Date.now() - startedAt.getTime();
    const ended = report ?? { startedAt, durationMs, members: [], repository };
    const value = describe({ ...ended, exitStatus, failure });
    // Another chain writes it, or it cannot be written.
    if (!isKilnCode(failure, 'E_CHAIN_BUSY', 'E_RESULTDIR'))
      await writeChain(directory, value, caller).catch(() => undefined);
    if (json) printJson(caller.stderr, value);
  }
}

export async function runChain(
  sources: readonly HeldPath[],
  options: BuildOptions & ChainOptions & { readonly allowHost?: boolean },
  command: KilnCommand,
  caller: Caller,
  begin: () => void,
): Promise<void> {
  const asked = chainRequest(sources, options, command, caller);
  const directory = await caller.paths.loneResults(options.resultDirectory);
  const request: ChainRequest = { ...asked, resultDirectory: directory };
  const paths = sources.map((path) => caller.paths.renamed<string>(path));
  for (const path of new Set(paths.filter((path, index) => paths.indexOf(path) !== index))) {
    const message = `${path} is named more than once: it is built once`;
    printWarning({ code: 'named-twice', message }, caller.stderr);
  }
  await using engine = caller.openEngine({ allowHost: options.allowHost });
  using interruption = listenForInterruption(caller);
  using progress = imageProgress(caller);
  using table = new ChainTable(request.sources.length, caller);
  const note = (text: string) => {
    progress[Symbol.dispose]();
    caller.stderr.say(`kiln: ${text}\n`);
  };
  const ci = CiOutput.for(options.ci, caller);
  if (!caller.isQuiet)
    note(`chain of ${packageCount(request.sources.length)}, ${request.jobs} at a time`);
  const build = () =>
    buildChain(engine, request, {
      signal: interruption.signal,
      onImageProgress: progress.report,
      takeRoom: caller.takeRoom,
      onMember: (member) => {
        progress[Symbol.dispose]();
        if (member.state === 'building') ci?.restart(member.name);
        table.show(member, () => noteMember(member, note, caller));
      },
      buildHooks: (name) => ({
        samples: options.samples,
        onOutput: (log, chunk) => {
          if (log === 'build.log') ci?.read(name, `${name}.spec`, chunk);
        },
        onImageProgress: (step) => {
          if (table.isLive) table.tell(name, progressText(step));
          else progress.report(step);
        },
        onWarning: (warning) => {
          // The others are in each package's result.json.
          if (warning.code !== 'killed') return;
          ci?.restart(name);
          progress[Symbol.dispose]();
          if (table.isLive) table.tell(name, 'killed, once more');
          else printWarning(warning, caller.stderr);
        },
        onPhase: (phase, event) => {
          if (event === 'start') table.tell(name, phase);
          if (isAtWork(phase)) begin();
        },
      }),
    });
  const told = {
    ...{ directory, json: options.json === true },
    describe: (report: ChainReport | UnbuiltChain) => chainJson(request, report),
    tellService: async ({ members }: ChainReport) => ci?.finishChain(members, directory),
  };
  await tellChain(build, told, table, caller);
}

export function chainRequest(
  sources: readonly HeldPath[],
  options: BuildOptions & ChainOptions,
  command: KilnCommand,
  caller: OptionCaller,
): AskedChain {
  const [first] = sources;
  if (first === undefined) return command.error('kiln: a chain needs source packages');
  const { source: _, ...build } = buildRequest(first, options, command, caller);
  // By what the caller calls them: each is opened by itself.
  const paths = new Map(sources.map((path) => [caller.paths.renamed<string>(path), path]));
  return {
    sources: [...paths.values()],
    build,
    jobs: options.jobs,
    continue: options.continue === true,
    recurse: options.recurse === true,
  };
}

/** Rows of the terminal that are left to what is above the table. */
const LEFT = 4;

/** What a chain is at, on a terminal that can show it. */
export class ChainTable implements Disposable {
  readonly isLive: boolean;
  readonly #total: number;
  readonly #caller: Caller;
  readonly #began = performance.now();
  readonly #states = new Map<string, MemberState>();
  readonly #building = new Map<string, { readonly since: number; at: string }>();
  #table: LiveTable | undefined;

  constructor(total: number, caller: Caller) {
    this.#total = total;
    this.#caller = caller;
    this.isLive = isLive(caller) && !caller.isQuiet;
  }

  /** @param say prints what stays of the change */
  show({ name, state }: { name: string; state: MemberState }, say: () => void): void {
    this.#states.set(name, state);
    if (state === 'building') this.#building.set(name, { since: performance.now(), at: '' });
    else this.#building.delete(name);
    // The table shows what begins.
    if (state !== 'building' || !this.isLive) this.note(say);
    else this.#table ??= new LiveTable(this.#caller, () => this.#rows());
  }

  /** @param say prints a line that stays */
  note(say: () => void): void {
    if (this.isLive) this.#table ??= new LiveTable(this.#caller, () => this.#rows());
    if (this.#table === undefined) say();
    else this.#table.above(say);
  }

  tell(name: string, at: string): void {
    const member = this.#building.get(name);
    if (member !== undefined) member.at = at;
  }

  #rows(): LiveRow[] {
    const counts = Map.groupBy(this.#states.values(), (state) => state);
    const count = (state: MemberState) => counts.get(state)?.length ?? 0;
    const [building, failed] = [count('building'), count('failed')];
    const done = count('built') + count('unchanged');
    const left = this.#total - done - building - failed - count('skipped');
    const bad = failed === 0 ? '' : `, ${failed} failed`;
    const time = `${seconds(performance.now() - this.#began)}`;
    const head = `kiln: ${done} of ${this.#total} done, ${building} building, ${left} to go${bad}, ${time}`;
    const members = [...this.#building].map(([name, { since, at }]) => ({
      cells: [`  ${name}`, at, seconds(performance.now() - since)],
    }));
    const room = Math.max(1, this.#caller.windowSize.rows - LEFT);
    return [{ cells: [head], style: failed === 0 ? 'bold' : 'red' }, ...members.slice(0, room)];
  }

  [Symbol.dispose](): void {
    this.#table?.[Symbol.dispose]();
    this.#table = undefined;
  }
}

export function noteMember(
  { name, state, reason, durationMs, report, resultDirectory }: ChainMemberReport<ToldBuild>,
  note: (text: string) => void,
  caller: Caller,
  where = '',
): void {
  if (caller.isQuiet && state !== 'failed' && state !== 'skipped') return;
  const { stderr } = caller;
  if (state === 'failed') printLines(report?.lastLines ?? [], stderr);
  const time = state === 'built' ? ` in ${seconds(durationMs)}${where}` : '';
  note(`${name}: ${state}${time}${reason === undefined ? '' : `: ${reason}`}`);
  if (state === 'built' || state === 'failed') printEgressRefusals(report?.egress ?? [], stderr);
  if (state !== 'failed' || report === undefined) return;
  printWhereToLook({ ...report, resultDirectory }, caller);
  if (report.kept) note(`kept as ${report.sandbox}: kiln shell ${report.sandbox}`);
}

function printChain({ members, repository, failure, exitStatus }: ToldChain, caller: Caller): void {
  const rows = members.map((member) => [
    member.name,
    member.state,
    member.state === 'built' ? seconds(member.durationMs) : '',
    String(member.packages.length),
    member.needs.map((need) => need.member).join(' '),
  ]);
  const styles = { failed: 'red', skipped: 'dim', built: 'green' } as const;
  const style = ([, state = '']: readonly string[]) => styles[state as keyof typeof styles];
  const columns = ['PACKAGE', 'STATE', 'TIME', 'RPMS', 'NEEDS'];
  printTable(caller.stdout, columns, rows, hasColours(caller.stdout, caller) ? style : undefined);
  if (failure !== undefined) printError(failure, caller.stderr, exitStatus);
  else noteFailure(firstFailure(members), exitStatus);
  if (members.some(({ packages }) => packages.length > 0))
    caller.stderr.say(`kiln: repository: ${repository}\n`);
}

/** Of the package whose exit status is the chain's. */
export function firstFailure(members: ToldChain['members']): KilnError | undefined {
  return members.find(({ report }) => report?.failure !== undefined)?.report?.failure;
}

function seconds(ms: number): string {
  return `${(ms / 1000).toFixed(1)} s`;
}
