import { join } from 'node:path';
import type { KilnError } from '../../errors.ts';
import type { BuildReport } from '../rpmbuild/outcome/report.ts';
import type { Edges } from './graph.ts';
import type { Member } from './member.ts';
import type { MemberRecord } from './records.ts';
import type { ChainMemberReport, MemberState } from './request.ts';
import type { Scan } from './scan.ts';

/** One package on its way. */
export class Progress {
  readonly member: Member;
  readonly directory: string;
  readonly scan: Scan;
  state: MemberState = 'waiting';
  reason: string | undefined;
  /** What it requires, as far as is known. */
  requires: readonly string[];
  /** Members whose packages it was built with the last time. */
  uses: readonly string[];
  packages: ChainMemberReport['packages'] = [];
  durationMs = 0;
  report: BuildReport | undefined;
  /** It failed in this generation of results, and may be tried with newer ones. */
  failedIn: { readonly generation: number; readonly failure: KilnError } | undefined;
  /** The generation it was built or found unchanged in. */
  doneIn = -1;
  /** It was done before newer results came that it asks for: it has had its second chance. */
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

  /** Takes over what a build, of this run or of an earlier one, has found out. */
  remember({ requires, uses }: Pick<MemberRecord, 'requires' | 'uses'>): void {
    this.requires = requires;
    this.uses = uses;
  }

  /** It is there: built in this generation of results, or found unchanged. */
  finish(record: MemberRecord, generation: number, report: BuildReport | undefined): void {
    this.remember(record);
    this.packages = record.packages;
    this.durationMs = record.durationMs;
    this.doneIn = generation;
    this.failedIn = undefined;
    this.report = report;
  }

  /** For whoever looks on. */
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
