import { join } from 'node:path';
import { defined } from '../defined.ts';
import { KilnError } from '../errors.ts';
import { below, type HeldPath } from '../host/files/held.ts';
import type { ChainMemberReport, ChainReport, ToldBuild } from '../jobs/chain/request.ts';
import type { SuiteResult } from '../report/ci/provider.ts';
import { resultIn } from '../report/write.ts';
import type { FarmChain, FarmFiles, FarmMember } from './chain.ts';
import type { BuildOutcome } from './step.ts';

export interface FarmMemberReport extends ChainMemberReport<ToldBuild> {
  readonly exitStatus: number;
  readonly worker: string | undefined;
  readonly outcome: BuildOutcome | undefined;
}

export interface FarmReport extends ChainReport<FarmMemberReport> {
  readonly id: string;
}

const NO_MACHINE = 125;

/** What came of members by now; each file is read once. */
export class Reporter {
  readonly #chain: FarmChain;
  readonly #files: FarmFiles;
  readonly #byName: ReadonlyMap<string, FarmMember>;
  readonly #outcomes = new Map<string, BuildOutcome | undefined>();

  constructor(chain: FarmChain, files: FarmFiles) {
    this.#chain = chain;
    this.#files = files;
    this.#byName = new Map(chain.members.map((member) => [member.name, member]));
  }

  /** `skipped` for what has not been built, whatever the reason. */
  reportOf(member: FarmMember): FarmMemberReport {
    const { name, path, node, needs, current } = member;
    const outcome = this.#outcome(node);
    const resultDirectory = join(this.#chain.resultDirectory, name);
    const head = { name, source: path, needs, resultDirectory, worker: outcome?.worker, outcome };
    const before = { packages: member.packages, durationMs: member.durationMs, report: undefined };
    const nothing = { packages: [], durationMs: 0, report: undefined };
    if (current || outcome?.state === 'unchanged') {
      return { ...head, ...before, state: 'unchanged', reason: undefined, exitStatus: 0 };
    }
    if (outcome === undefined) return { ...head, ...nothing, ...this.#whyNot(member) };
    const { packages, durationMs, exitStatus, failedPhase, lastLines } = outcome;
    const failure =
      outcome.failure === null
        ? undefined
        : new KilnError(outcome.failure.code, outcome.failure.message, {
            hint: outcome.failure.hint ?? undefined,
          });
    return {
      ...head,
      state: outcome.state,
      reason: failure?.message,
      packages,
      durationMs,
      exitStatus,
      report: { exitStatus, failure, failedPhase: failedPhase ?? undefined, lastLines },
    };
  }

  #outcome(node: string | null): BuildOutcome | undefined {
    if (node === null) return undefined;
    if (!this.#outcomes.has(node)) this.#outcomes.set(node, this.#files.outcome(node));
    return this.#outcomes.get(node);
  }

  #whyNot({ node, needs }: FarmMember) {
    const lost = needs.find((need) => {
      const other = this.#byName.get(need.member);
      if (other === undefined || other.current) return false;
      const outcome = this.#outcome(other.node);
      return outcome === undefined || outcome.state === 'failed';
    });
    if (lost !== undefined) {
      const what = lost.capabilities.length === 0 ? '' : `${lost.capabilities.join(', ')} of `;
      return skipped(`it needs ${what}${lost.member}, which is not there`);
    }
    if (node === null || this.#files.isStopped) return skipped('the chain had ended');
    const tried = this.#files.tried(node);
    if (tried.length === 0) return skipped('the chain had ended');
    const reason = `no machine could build it: ${tried.join(', ')} tried`;
    return { state: 'failed', reason, exitStatus: NO_MACHINE } as const;
  }
}

function skipped(reason: string) {
  return { state: 'skipped', reason, exitStatus: 0 } as const;
}

/** Results of the packages that were built in this run, or failed, by name. */
export function resultsOfRun(
  top: HeldPath,
  members: readonly FarmMemberReport[],
): Map<string, SuiteResult> {
  const made = members.filter(({ state }) => state === 'built' || state === 'failed');
  return new Map(made.map((member) => [member.name, resultOf(top, member)]));
}

/** By its worker's result.json. A step that no worker could do has left none. */
function resultOf(top: HeldPath, member: FarmMemberReport): SuiteResult {
  const { name, state, outcome, report, reason } = member;
  try {
    const result = outcome === undefined ? undefined : resultIn(below(top, name));
    // What lies there may be of an earlier build.
    if (result !== undefined && (result.failure === null) === (state === 'built')) return result;
  } catch (error) {
    if (!(error instanceof KilnError)) throw error;
  }
  const { failure, failedPhase = 'input', lastLines = [] } = report ?? {};
  const { code = 'E_FARM_STEP', hint } = failure ?? {};
  const said = { code, message: reason ?? '', phase: failedPhase, causes: [], lastLines };
  return {
    failure: { ...said, ...defined({ hint }) },
    phases: [],
    startedAt: new Date(outcome?.started ?? Date.now()).toISOString(),
    durationMs: 0,
  };
}
