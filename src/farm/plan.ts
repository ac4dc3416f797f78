import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import { KilnError } from '../errors.ts';
import { Folder } from '../host/files/folder.ts';
import { below } from '../host/files/held.ts';
import { removeTree } from '../host/files/remove-tree.ts';
import { cycleError, type Edges, edgesOf, findCycles, withoutCycles } from '../jobs/chain/graph.ts';
import { scanKey } from '../jobs/chain/member.ts';
import { packagesAreThere, type Records } from '../jobs/chain/records.ts';
import type { ResultsInUse } from '../jobs/chain/results.ts';
import { LIMITS } from '../options/sandbox.ts';
import type { FarmChain, FarmFiles, FarmMember } from './chain.ts';
import { bringInputs, isDone, knownBuild, resultsOf } from './prepare.ts';
import {
  type KnownBuild,
  MAX_STEP,
  OUTCOME_FILE,
  parseScanOutcome,
  type ScanOutcome,
  STEP_FILE,
  serializeStep,
} from './step.ts';

/** Does a step in a folder, with results in `out` there. @returns its exit status */
export type DoStep = (folder: string) => Promise<number>;

export interface PlanContext {
  readonly files: FarmFiles;
  readonly records: Records;
  readonly doStep: DoStep;
  readonly lost: ReadonlySet<string>;
}

/**
 * Asks this machine's kiln what would be built in the same root as before, and plans the rest. @throws
 * KilnError E_CHAIN_CYCLE, E_FARM_STEP
 */
export async function planRound(chain: FarmChain, context: PlanContext): Promise<FarmChain> {
  const { records, files, lost } = context;
  const recordOf = (member: FarmMember) => records.builtFrom(member, chain.optionsDigest);
  const there = new Set<string>();
  for (const member of chain.members) {
    const record = recordOf(member);
    const directory = below(files.top, member.name);
    if (record !== undefined && (await packagesAreThere(directory, record))) there.add(member.name);
  }
  await using results = await resultsOf(files, chain, records, ({ name }) => there.has(name));
  const known: KnownBuild[] = chain.members.flatMap((member) => {
    const record = there.has(member.name) ? recordOf(member) : undefined;
    if (record === undefined) return [];
    const chosen = results.chosenFor(record.requires, member.name);
    const wanted = [...(chain.options.packages ?? []), ...chosen];
    return [knownBuild(member.name, record, wanted)];
  });
  await using inUse = await results.use();
  const scan = await scanned(chain, { known, results: inUse }, context);
  const found = new Map(chain.members.map(({ name }) => [name, records.scanned(name)]));
  const members = chain.members.map((member) => {
    const { requires, provides } = found.get(member.name) ?? member;
    return {
      ...member,
      requires: [...(recordOf(member)?.requires ?? requires)],
      provides: [...(results.providesOf(member.name) ?? provides)],
    };
  });
  const { edges, refused } = orderOf(chain, members);
  const roots = new Map(scan.roots.map(({ member, root }) => [member, root]));
  const planned = members.map((member) => {
    const record = recordOf(member);
    const own = edges.get(member.name) ?? new Map<string, readonly string[]>();
    const used = (record?.uses ?? []).filter((name) => found.has(name) && !own.has(name));
    const needs = [...own, ...used.map((name) => [name, []] as const)];
    return {
      ...member,
      needs: needs.map(([name, what]) => ({ member: name, capabilities: [...what] })),
      packages: record?.packages ?? [],
      durationMs: record?.durationMs ?? 0,
    };
  });
  const changed = planned.filter(
    (member) => !there.has(member.name) || roots.get(member.name) !== recordOf(member)?.root,
  );
  const build = behind(planned, new Set(changed.map(({ name }) => name)));
  const never = behind(planned, new Set([...lost, ...refused]));
  let count = 0;
  const numbered = planned.map((member) => ({
    ...member,
    current: !build.has(member.name),
    node: build.has(member.name) && !never.has(member.name) ? `s${++count}` : null,
  }));
  files.forget([]);
  return { ...chain, image: { ...chain.image, ...scan.image }, members: numbered };
}

function orderOf(
  chain: FarmChain,
  members: readonly FarmMember[],
): { readonly edges: Edges; readonly refused: readonly string[] } {
  const edges = edgesOf(members);
  const cycles = findCycles(edges);
  if (cycles.length === 0) return { edges, refused: [] };
  const plain = withoutCycles(edges, cycles);
  if (chain.recurse) return { edges: plain, refused: [] };
  if (chain.continue) return { edges: plain, refused: cycles.flat() };
  throw cycleError(edges, cycles);
}

/** The names in `first`, and those of all members that need them, directly or through others. */
function behind(members: readonly FarmMember[], first: ReadonlySet<string>): Set<string> {
  const all = new Set(first);
  for (let before = -1; before < all.size; ) {
    before = all.size;
    for (const { name, needs } of members) {
      if (needs.some(({ member }) => all.has(member))) all.add(name);
    }
  }
  return all;
}

interface ScanInput {
  readonly known: KnownBuild[];
  readonly results: ResultsInUse;
}

/** What is known of a source package in the image, as it was when last looked at, is not asked again. */
async function scanned(
  chain: FarmChain,
  input: ScanInput,
  context: PlanContext,
): Promise<ScanOutcome> {
  const { files, records } = context;
  const before = files.existing()?.image;
  const image = before?.name === chain.image.name ? before.id : null;
  const key = (member: FarmMember, id: string) => scanKey(member.sha256, id, chain.options);
  const fresh = chain.members.filter(
    (member) => image === null || records.scanned(member.name)?.key !== key(member, image),
  );
  const first = await scanStep(chain, fresh, input, context);
  const isOther = first.image.id !== image && fresh.length < chain.members.length;
  const scan = isOther ? await scanStep(chain, chain.members, input, context) : first;
  const found = new Map(scan.members.map((member) => [member.name, member]));
  for (const member of chain.members) {
    const one = found.get(member.name);
    if (one === undefined) continue;
    const problem = one.problem ?? undefined;
    records.keepScanned(member.name, key(member, scan.image.id), { ...one, problem });
  }
  return scan;
}

async function scanStep(
  chain: FarmChain,
  asked: readonly FarmMember[],
  { known, results }: ScanInput,
  { files, doStep }: PlanContext,
): Promise<ScanOutcome> {
  const folder = join(files.path, 'scan');
  await removeTree(folder);
  await mkdir(folder);
  const inputs = await bringInputs(folder, asked, results);
  // Bounds are for builds: workers may be larger than this machine.
  const options = Object.fromEntries(
    Object.entries(chain.options).filter(([name]) => !Object.hasOwn(LIMITS, name)),
  );
  const image = { name: chain.image.name, id: null, lock: null };
  const step = { chain: chain.id, task: 'scan', image, ...inputs, options, known } as const;
  using inner = Folder.open(folder);
  inner.replace(STEP_FILE, serializeStep(step));
  const status = await doStep(join(files.title, 'scan'));
  using out = inner.existing('out');
  const outcome = parseScanOutcome(out?.read(OUTCOME_FILE, MAX_STEP));
  if (status === 0 && outcome !== undefined) {
    await removeTree(folder);
    return outcome;
  }
  throw new KilnError('E_FARM_STEP', 'what the source packages require cannot be found out here', {
    hint: 'the lines before say why; `kiln doctor` checks this machine',
  });
}

/** Something failed for want of results that are there now, or was built before what it asks for. */
export async function isWorthAnother(
  chain: FarmChain,
  files: FarmFiles,
  records: Records,
  lost: ReadonlySet<string>,
): Promise<boolean> {
  const outcomes = chain.members.map((member) => ({
    member,
    outcome: member.node === null ? undefined : files.outcome(member.node),
  }));
  if (!outcomes.some(({ outcome }) => outcome?.state === 'built')) return false;
  const never = behind(chain.members, lost);
  const waits = outcomes.some(
    ({ member, outcome }) => outcome?.state === 'failed' && !never.has(member.name),
  );
  if (waits) return true;
  await using results = await resultsOf(files, chain, records, (one) => isDone(files, one));
  return chain.members.some((member) => {
    const record = records.builtFrom(member, chain.optionsDigest);
    if (record === undefined || never.has(member.name)) return false;
    const unused = results
      .chosen(record.requires, member.name)
      .map((chosen) => chosen.member)
      .filter((name) => !record.uses.includes(name));
    return unused.some((name) => !behind(chain.members, new Set([name])).has(member.name));
  });
}
