/** Builds one package of a chain, unless it was already built from the same inputs. */
import { basename, dirname, join } from 'node:path';
import { type Owner, unusableResultDirectory } from '../../artifacts/destination.ts';
import { writeText } from '../../artifacts/staging.ts';
import { KilnError } from '../../errors.ts';
import { Folder } from '../../host/files/folder.ts';
import type { RepositoryFile } from '../../packages/repository/publish/snapshot.ts';
import type { Engine } from '../../sandbox/open.ts';
import { buildPackage } from '../rpmbuild/build.ts';
import type { BuildBase } from '../rpmbuild/buildroot/base.ts';
import type { BuildHooks, BuildReport } from '../rpmbuild/outcome/report.ts';
import type { BuildRequest } from '../rpmbuild/request.ts';
import { plannedRoot, usedRoot } from './freshness.ts';
import type { Member } from './member.ts';
import { type MemberRecord, packagesAreThere, type Records } from './records.ts';
import type { Results, ResultsInUse } from './results.ts';

/** What all members of a chain are built with. */
export interface MemberContext {
  readonly engine: Engine;
  readonly base: BuildBase;
  readonly records: Records;
  readonly results: Results;
  /** Digest of the options. */
  readonly options: string;
}

/** The outcome of a member. */
export type MemberOutcome =
  | { readonly kind: 'unchanged'; readonly record: MemberRecord }
  | { readonly kind: 'built'; readonly record: MemberRecord; readonly report: BuildReport }
  | { readonly kind: 'failed'; readonly report: BuildReport; readonly failure: KilnError };

/** How one member is to be built. */
export interface MemberBuild {
  readonly member: Member;
  readonly request: BuildRequest;
  readonly results: ResultsInUse;
  readonly hooks: BuildHooks;
  /** Called when the member must be built. */
  readonly onStart: () => void;
}

/** The record of an earlier build of this very source with these options. */
export async function usableRecord(
  { records, options }: Pick<MemberContext, 'records' | 'options'>,
  member: Member,
): Promise<MemberRecord | undefined> {
  const record = records.built(member.name);
  return record?.source === member.sha256 && record.options === options ? record : undefined;
}

/**
 * Builds a member, unless its inputs are those of its last build and its packages exist. Then adds its packages
 * to the results.
 */
export async function buildMember(
  context: MemberContext,
  build: MemberBuild,
): Promise<MemberOutcome> {
  const { member, request, hooks } = build;
  const { records, results } = context;
  const known = await usableRecord(context, member);
  if (known !== undefined && (await isCurrent(context, build, known))) {
    await results.add([[member.name, packageFiles(request.resultDirectory, known)]], hooks.signal);
    return { kind: 'unchanged', record: known };
  }
  build.onStart();
  records.forgetBuilt(member.name);
  await results.remove([member.name], hooks.signal);
  clearAway(request);
  const report = await buildPackage(context.engine, request, hooks);
  if (report.failure !== undefined) {
    if (!hooks.signal?.aborted) await mark(request, 'fail');
    return { kind: 'failed', report, failure: report.failure };
  }
  const root = await usedRoot(context.engine, report);
  const record: MemberRecord = {
    format: 1,
    source: member.sha256,
    options: context.options,
    root: root.digest,
    requires: [...report.buildRequires],
    uses: results.membersOf(root.packages),
    snapshot: build.results.snapshot,
    packages: report.packages.map(({ file, sha256 }) => ({ file, sha256 })),
    durationMs: Math.max(0, ...report.phases.map((phase) => phase.start + phase.duration)),
  };
  results.retain(record.snapshot);
  await results.add([[member.name, packageFiles(request.resultDirectory, record)]], hooks.signal);
  await mark(request, 'success');
  records.keepBuilt(member.name, record);
  return { kind: 'built', record, report };
}

async function isCurrent(
  { engine, base }: MemberContext,
  { request, hooks }: MemberBuild,
  record: MemberRecord,
): Promise<boolean> {
  if (!(await packagesAreThere(request.resultDirectory, record))) return false;
  try {
    const root = await plannedRoot(engine, base, request, record.requires, hooks.signal);
    return root.digest === record.root;
  } catch (error) {
    // If it cannot be solved any more, something has changed; the build reports what.
    if (error instanceof KilnError && !hooks.signal?.aborted) return false;
    throw error;
  }
}

/** The packages of a record, for the repository. */
export function packageFiles(directory: string, { packages }: MemberRecord): RepositoryFile[] {
  return packages.map(({ file, sha256 }) => ({ path: join(directory, file), sha256 }));
}

const MARKS: readonly string[] = ['success', 'fail'];

/**
 * Removes files that could be mistaken for results of the new build. The member's folder lies in the chain's
 * and must not be a link to another place.
 * @throws KilnError E_RESULTDIR
 */
function clearAway({ resultDirectory, caller }: BuildRequest): void {
  try {
    using top = Folder.open(dirname(resultDirectory));
    using folder = top.inner(basename(resultDirectory), caller);
    for (const name of folder.names()) {
      if (name.endsWith('.rpm') || MARKS.includes(name)) folder.remove(name);
    }
  } catch (cause) {
    throw unusableResultDirectory(resultDirectory, cause);
  }
}

/** Marks the package as mock marks packages of a chain. */
async function mark(request: BuildRequest, name: 'success' | 'fail'): Promise<void> {
  const owner: Owner = request.caller;
  await writeText(request.resultDirectory, name, '', owner);
}
