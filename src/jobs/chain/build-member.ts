import { basename, dirname, join } from 'node:path';
import { resultDirectoryError } from '../../artifacts/destination.ts';
import { writeText } from '../../artifacts/staging.ts';
import type { Engine } from '../../engine.ts';
import { KilnError } from '../../errors.ts';
import { Folder } from '../../host/files/folder.ts';
import { digestOf } from '../../image/key.ts';
import { readContents } from '../../image/store/manifest.ts';
import type { RepositoryFile } from '../../packages/repository/publish/snapshot.ts';
import { againIfKilled, buildPackage } from '../rpmbuild/build.ts';
import type { BuildBase } from '../rpmbuild/buildroot/base.ts';
import { buildRepositories, solveLayer } from '../rpmbuild/buildroot/layer.ts';
import type { BuildHooks, BuildReport } from '../rpmbuild/outcome/report.ts';
import type { BuildRequest } from '../rpmbuild/request.ts';
import { lengthOf } from '../run/timeline.ts';
import type { Member } from './member.ts';
import { type MemberRecord, packagesAreThere, type Records } from './records.ts';
import type { ChainRequest } from './request.ts';
import type { Results, ResultsInUse } from './results.ts';

export interface MemberContext {
  readonly engine: Engine;
  readonly base: BuildBase;
  readonly records: Records;
  readonly results: Results;
  readonly options: string;
}

export type MemberOutcome =
  | { readonly kind: 'unchanged'; readonly record: MemberRecord }
  | { readonly kind: 'built'; readonly record: MemberRecord; readonly report: BuildReport }
  | { readonly kind: 'failed'; readonly report: BuildReport; readonly failure: KilnError };

interface MemberBuild {
  readonly member: Member;
  readonly request: BuildRequest;
  readonly results: ResultsInUse;
  readonly hooks: BuildHooks;
  readonly onStart: () => void;
}

export async function buildMember(
  context: MemberContext,
  build: MemberBuild,
): Promise<MemberOutcome> {
  const { member, request, hooks } = build;
  const { records, results, options } = context;
  const known = records.builtFrom(member, options);
  if (known !== undefined && (await isCurrent(context, build, known))) {
    await results.add([[member.name, packageFiles(request.resultDirectory, known)]], hooks.signal);
    return { kind: 'unchanged', record: known };
  }
  build.onStart();
  records.forgetBuilt(member.name);
  await results.remove([member.name], hooks.signal);
  clearAway(request);
  const report = await againIfKilled(hooks, () => buildPackage(context.engine, request, hooks));
  if (report.failure !== undefined) {
    if (!hooks.signal?.aborted) await mark(request, 'fail');
    return { kind: 'failed', report, failure: report.failure };
  }
  const root = await usedRoot(context.engine, report);
  const record: MemberRecord = {
    format: 1,
    source: member.sha256,
    options,
    root: root.digest,
    requires: [...report.buildRequires],
    uses: results.membersOf(root.packages),
    snapshot: build.results.snapshot,
    packages: report.packages.map(({ file, sha256 }) => ({ file, sha256 })),
    durationMs: lengthOf(report.phases),
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
    throw resultDirectoryError(resultDirectory, cause);
  }
}

async function mark(request: BuildRequest, name: 'success' | 'fail'): Promise<void> {
  await writeText(request.resultDirectory, name, '', request.caller);
}

export function optionsDigest(build: ChainRequest['build'], signer: string | undefined): string {
  const { defines, with: having, without, nocheck, target, rpmbuildOptions } = build;
  const { shortCircuit, networkPhases, network, egress, packages, hostname } = build;
  return digestOf([
    ...[defines, having, without, nocheck === true, target, rpmbuildOptions],
    ...[shortCircuit, networkPhases && [networkPhases, network, egress], packages, hostname],
    ...(signer === undefined ? [] : [signer]),
  ]);
}

interface BuildRoot {
  readonly digest: string;
  readonly packages: ReadonlySet<string>;
}

export async function plannedRoot(
  engine: Engine,
  base: BuildBase,
  request: BuildRequest,
  requires: readonly string[],
  signal: AbortSignal | undefined,
): Promise<BuildRoot> {
  const context = { engine, base, offline: request.offline ?? false, signal };
  const set = await buildRepositories(context, request);
  const additionalPackages = request.packages ?? [];
  const layer = await solveLayer(set, context, { requires, additionalPackages });
  const added = layer.lock?.packages ?? [];
  const packages = layer.whole ? added : [...base.packages, ...added];
  return describe(base.image.manifest.id, packages);
}

export async function usedRoot(engine: Engine, report: BuildReport): Promise<BuildRoot> {
  const { base, image } = report;
  if (base === undefined || image === undefined) throw new TypeError('it was not built');
  const { packages } = await readContents(engine.paths, image.id);
  return describe(base.id, packages);
}

/** The base image covers files, users and environment. Packages are sorted, because rpm decides their order. */
function describe(base: string, packages: readonly { readonly digest: string }[]): BuildRoot {
  const digests = packages.map(({ digest }) => digest);
  return { digest: digestOf([base, digests.toSorted()]), packages: new Set(digests) };
}
