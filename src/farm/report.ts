/** How it stands with the members of a chain on a pool, as chain.json has it. */
import { join } from 'node:path';
import { KilnError } from '../errors.ts';
import type { FarmChain, FarmFiles, FarmMember } from './chain.ts';
import type { BuildOutcome } from './outcome.ts';

/** One package of a chain on a pool. */
export interface FarmMemberReport {
  readonly name: string;
  readonly source: string;
  readonly state: 'built' | 'unchanged' | 'failed' | 'skipped';
  readonly reason: string | undefined;
  readonly needs: readonly { readonly member: string; readonly capabilities: readonly string[] }[];
  readonly resultDirectory: string;
  readonly packages: readonly { readonly file: string; readonly sha256: string }[];
  readonly durationMs: number;
  readonly exitStatus: number;
  /** The machine that built it in this run. */
  readonly worker: string | undefined;
  readonly outcome: BuildOutcome | undefined;
  /** For chain.json: of the build in this run. */
  readonly report:
    | {
        readonly exitStatus: number;
        readonly failure: KilnError | undefined;
        readonly failedPhase: string | undefined;
        readonly lastLines: readonly string[];
      }
    | undefined;
}

/** What came of a chain on a pool. */
export interface FarmReport {
  readonly id: string;
  readonly members: readonly FarmMemberReport[];
  readonly repository: string;
  readonly exitStatus: number;
  readonly failure: KilnError | undefined;
  readonly durationMs: number;
}

/** What a step's failure is where no machine could do it. */
const NO_MACHINE = 125;

/** How it stands with a member by now; `skipped` for what has not been built, whatever the reason. */
export function reportOf(chain: FarmChain, member: FarmMember, files: FarmFiles): FarmMemberReport {
  const { name, path, node, needs, current } = member;
  const outcome = node === null ? undefined : files.outcome(node);
  const head = {
    name,
    source: path,
    needs,
    resultDirectory: join(chain.resultDirectory, name),
    worker: outcome?.worker,
    outcome,
  };
  const before = { packages: member.packages, durationMs: member.durationMs, report: undefined };
  const nothing = { packages: [], durationMs: 0, report: undefined };
  if (current) {
    return { ...head, ...before, state: 'unchanged', reason: undefined, exitStatus: 0 };
  }
  if (outcome === undefined) return { ...head, ...nothing, ...whyNot(chain, member, files) };
  const { packages, durationMs, exitStatus, failedPhase, lastLines } = outcome;
  if (outcome.state === 'unchanged') {
    return { ...head, ...before, state: 'unchanged', reason: undefined, exitStatus: 0 };
  }
  const failure =
    outcome.failure === null
      ? undefined
      : new KilnError(outcome.failure.code, outcome.failure.message, {
          ...(outcome.failure.hint === null ? {} : { hint: outcome.failure.hint }),
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

function whyNot(chain: FarmChain, member: FarmMember, files: FarmFiles) {
  const lost = member.needs.find((need) => {
    const other = chain.members.find(({ name }) => name === need.member);
    if (other === undefined || other.current) return false;
    const outcome = other.node === null ? undefined : files.outcome(other.node);
    return outcome === undefined || outcome.state === 'failed';
  });
  if (lost !== undefined) {
    const what = lost.capabilities.length === 0 ? '' : `${lost.capabilities.join(', ')} of `;
    return skipped(`it needs ${what}${lost.member}, which is not there`);
  }
  if (member.node === null || files.isStopped) return skipped('the chain had ended');
  using folder = files.node(member.node);
  const tried = (folder.read('tried', MAX_TRIED) ?? '').split('\n').filter(Boolean);
  if (tried.length === 0) return skipped('the chain had ended');
  const reason = `no machine could build it: ${tried.join(', ')} tried`;
  return { state: 'failed', reason, exitStatus: NO_MACHINE } as const;
}

const MAX_TRIED = 1 << 20;

function skipped(reason: string) {
  return { state: 'skipped', reason, exitStatus: 0 } as const;
}
