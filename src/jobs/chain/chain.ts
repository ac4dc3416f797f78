import { join } from 'node:path';
import type { Engine } from '../../engine.ts';
import { KilnError } from '../../errors.ts';
import { below } from '../../host/files/held.ts';
import type { RepositoryFile } from '../../packages/repository/publish/snapshot.ts';
import { type BuildBase, openBase } from '../rpmbuild/buildroot/base.ts';
import { packageSigner } from '../rpmbuild/provenance/sign.ts';
import type { BuildRequest } from '../rpmbuild/request.ts';
import { optionsDigest, packageFiles } from './build-member.ts';
import { cycleError, findCycles } from './graph.ts';
import { type Member, readMembers, type Scan, scanKey, scanMembers } from './member.ts';
import { type MemberRecord, packagesAreThere, Records } from './records.ts';
import type { ChainHooks, ChainReport, ChainRequest } from './request.ts';
import { Results } from './results.ts';
import { ChainRun } from './run.ts';

/**
 * Builds source packages that require each other, in an order in which each finds its requirements among the
 * results of the others, several at a time. An interrupted chain continues where it was; packages whose inputs
 * have not changed are not built again.
 * @throws KilnError E_SIGN_KEY, E_BUILD_SOURCE, E_CHAIN_DUPLICATE, E_CHAIN_CYCLE, E_CHAIN_BUSY,
 * E_RESULTDIR, and what opening the base image throws: then nothing was built
 */
export async function buildChain(
  engine: Engine,
  request: ChainRequest,
  hooks: ChainHooks = {},
): Promise<ChainReport> {
  const startedAt = new Date();
  const started = performance.now();
  const { signal, onImageProgress: onProgress } = hooks;
  const signer = await packageSigner(engine, request.build);
  const members = await readMembers(request.sources, signal);
  using records = Records.make(request.resultDirectory, request.build.caller);
  await using _lock = await records.lock();
  await using base = await openBase(engine, request.build.image, {
    update: request.build.update ?? false,
    onProgress,
    signal,
  });
  const scans = await scanAll(engine, base, request, members, records, signal);
  const options = optionsDigest(request.build, signer?.fingerprint);
  const known = new Map<string, MemberRecord>();
  for (const member of members) {
    const record = records.builtFrom(member, options);
    if (record !== undefined) known.set(member.name, record);
  }
  const snapshots = [...known.values()].flatMap(({ snapshot }) => snapshot ?? []);
  const repository = join(request.resultDirectory, 'repository');
  await using results = new Results(repository, snapshots);
  await recall(results, request, members, known, signal);
  const run = new ChainRun({ engine, base, records, results, options }, request, scans, hooks);
  for (const [name, record] of known) run.remember(name, record);
  refuseCycles(run, request);
  await run.run();
  await results.remove(run.lost());
  const interrupted = signal?.aborted ? interruptionError(signal.reason) : undefined;
  return {
    startedAt,
    members: run.reports(),
    repository: results.current,
    exitStatus: interrupted === undefined ? run.exitStatus : INTERRUPTED,
    failure: interrupted,
    durationMs: performance.now() - started,
  };
}

async function recall(
  results: Results,
  { resultDirectory }: ChainRequest,
  members: readonly Member[],
  known: ReadonlyMap<string, MemberRecord>,
  signal: AbortSignal | undefined,
): Promise<void> {
  const files: [string, RepositoryFile[]][] = [];
  for (const { name } of members) {
    const record = known.get(name);
    const directory = below(resultDirectory, name);
    if (record === undefined || !(await packagesAreThere(directory, record))) return;
    files.push([name, packageFiles(directory, record)]);
  }
  await results.add(files, signal);
}

const INTERRUPTED = 130;

function interruptionError(reason: unknown): KilnError {
  if (reason instanceof KilnError) return reason;
  return new KilnError('E_INTERRUPTED', 'interrupted', { cause: reason });
}

/** Members that need each other are an error; with --continue the others are built, with --recurse all. */
function refuseCycles(run: ChainRun, request: ChainRequest): void {
  if (request.recurse) return;
  const edges = run.edges();
  const cycles = findCycles(edges);
  if (cycles.length === 0) return;
  const error = cycleError(edges, cycles);
  if (!request.continue) throw error;
  run.refuse(cycles.flat(), error);
}

async function scanAll(
  engine: Engine,
  base: BuildBase,
  request: ChainRequest,
  members: readonly Member[],
  records: Records,
  signal: AbortSignal | undefined,
): Promise<Map<Member, Scan>> {
  const { resultDirectory } = request;
  const source = { kind: 'srpm', path: members[0]!.path } as const;
  const build: BuildRequest = { ...request.build, source, resultDirectory };
  const key = (member: Member) => scanKey(member.sha256, base.image.manifest.id, build);
  const scans = new Map<Member, Scan>();
  for (const member of members) {
    const record = records.scanned(member.name);
    if (record?.key === key(member)) scans.set(member, { problem: undefined, ...record });
  }
  const fresh = members.filter((member) => !scans.has(member));
  for (const [member, scan] of await scanMembers(engine, base, build, fresh, signal)) {
    scans.set(member, scan);
    records.keepScanned(member.name, key(member), scan);
  }
  return new Map(members.map((member) => [member, scans.get(member)!]));
}
