import { join } from 'node:path';
import type { KilnError } from '../../errors.ts';
import type { BuildReport } from '../rpmbuild/outcome/report.ts';
import type { Edges } from './graph.ts';
import type { Member } from './member.ts';
import type { MemberRecord } from './records.ts';
import type { ChainMemberReport, MemberState } from './request.ts';
import type { Scan } from './scan.ts';

/** The state of one package. */
export class Progress {
  readonly member: Member;
  readonly directory: string;
  readonly scan: Scan;
  state: MemberState = 'waiting';
  reason: string | undefined;
  /** Its requirements, as far as they are known. */
  requires: readonly string[];
  /** Members whose packages were in its last build root. */
  uses: readonly string[];
  packages: ChainMemberReport['packages'] = [];
  durationMs = 0;
  report: BuildReport | undefined;
  /** It failed with this generation of results; newer ones may help. */
  failedIn: { readonly generation: number; readonly failure: KilnError } | undefined;
  /** The generation in which it was built or found unchanged. */
  doneIn = -1;
  /** It was built once more because newer packages came that it requires; there is no third time. */
  again = false;
  exitStatus = 0;

  constructor(member: Member, scan: Scan, resultDirectory: string) {
    this.member = member;
    this.scan = scan;
    this.requires = scan.requires;
    this.uses = [];
    this.directory = join(resultDirectory, member.name);
  }

  get name(): string {
    return this.member.name;
  }

  get isDone(): boolean {
    return this.state === 'built' || this.state === 'unchanged';
  }

  get isLost(): boolean {
    return this.state === 'failed' || this.state === 'skipped';
  }

  /** Takes over the findings of a build of this run or an earlier one. */
  remember({ requires, uses }: Pick<MemberRecord, 'requires' | 'uses'>): void {
    this.requires = requires;
    this.uses = uses;
  }

  /** Notes that it was built with this generation of results, or found unchanged. */
  finish(record: MemberRecord, generation: number, report: BuildReport | undefined): void {
    this.remember(record);
    this.packages = record.packages;
    this.durationMs = record.durationMs;
    this.doneIn = generation;
    this.failedIn = undefined;
    this.report = report;
  }

  /** The state for people. */
  describe(edges: Edges): ChainMemberReport {
    const needs = [...(edges.get(this.name) ?? [])];
    return {
      name: this.name,
      source: this.member.path,
      state: this.state,
      reason: this.reason,
      needs: needs.map(([member, capabilities]) => ({ member, capabilities })),
      resultDirectory: this.directory,
      packages: this.packages,
      durationMs: this.durationMs,
      report: this.report,
    };
  }
}
