/** DAGMan's PRE script: a step's frozen plan, with the results that are there by now. */
import { constants, existsSync } from 'node:fs';
import { copyFile, link, mkdir, open, readdir, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { KilnError } from '../errors.ts';
import { hasErrno } from '../host/calls/libc.ts';
import { withLock } from '../host/files/flock.ts';
import { below } from '../host/files/held.ts';
import { removeTree } from '../host/files/remove-tree.ts';
import { KILN_VERSION } from '../host/state/paths.ts';
import { packageFiles } from '../jobs/chain/build-member.ts';
import { type MemberRecord, packagesAreThere, Records } from '../jobs/chain/records.ts';
import { Results, type ResultsInUse } from '../jobs/chain/results.ts';
import { pooledFile } from '../packages/repository/publish/pool.ts';
import type { OptionalLayer } from '../sandbox/policy/layers.ts';
import type { FarmChain, FarmFiles, FarmMember } from './chain.ts';
import { submitFile, submitText } from './dag.ts';
import { type KnownBuild, STEP_FILE, STEP_STATUS, type Step, serializeStep } from './step.ts';

/** Held by whoever changes what is there of a chain. */
export function changesLock(files: FarmFiles): string {
  return join(files.path, 'lock');
}

export async function prepareStep(
  files: FarmFiles,
  node: string,
  allowMissing: readonly OptionalLayer[],
): Promise<number> {
  if (files.isStopped) return STEP_STATUS.package;
  const chain = files.chain();
  const member = memberOf(chain, node);
  using records = Records.open(files.top);
  return await withLock(changesLock(files), async () => {
    files.forgetOutcome(node);
    const folder = join(files.path, node);
    for (const name of ['in', 'out']) await removeTree(join(folder, name));
    const avoid = await failedOn(files, node);
    await using results = await resultsOf(files, chain, records, (one) => isDone(files, one));
    await using inUse = await results.use();
    const known = records.builtFrom(member, chain.optionsDigest);
    const requires = known?.requires ?? member.requires;
    const additionalPackages = [
      ...(chain.options.packages ?? []),
      ...results.chosenFor(requires, member.name),
    ];
    const folderIn = join(folder, 'in');
    await mkdir(folderIn);
    const step = {
      ...({ chain: chain.id, task: 'build', image: chain.image } as const),
      ...(await bringInputs(folderIn, [member], inUse)),
      options: { ...chain.options, packages: additionalPackages },
      known: known === undefined ? [] : [knownBuild(member.name, known, additionalPackages)],
    };
    using inner = files.node(node);
    using to = inner.inner('in');
    to.replace(STEP_FILE, serializeStep(step));
    files.write(
      submitFile(node),
      submitText({
        chain: chain.id,
        node,
        member: member.name,
        version: KILN_VERSION,
        allowMissing,
        image: chain.image.id ?? '',
        packages: results.chosen(requires, member.name).map(({ sha256 }) => sha256),
        avoid,
        options: chain.options,
      }),
    );
    return STEP_STATUS.done;
  });
}

export function memberOf({ id, members }: FarmChain, node: string): FarmMember {
  const member = members.find((one) => one.node === node);
  if (member !== undefined) return member;
  throw new KilnError('E_FARM_CHAIN', `the chain ${id} has no step ${node}`, {
    hint: '`kiln farm resume` plans what is left anew',
  });
}

export function knownBuild(
  member: string,
  { requires, root }: { readonly requires: readonly string[]; readonly root: string },
  additionalPackages: readonly string[],
): KnownBuild {
  return { member, requires: [...requires], additionalPackages: [...additionalPackages], root };
}

/** Puts the source packages of a step and the results of the chain beside it. */
export async function bringInputs(
  folder: string,
  asked: readonly FarmMember[],
  { path: snapshot, snapshot: id }: ResultsInUse,
) {
  const members: Step['members'] = [];
  for (const { name, path, sha256 } of asked) {
    const file = `${name}.src.rpm`;
    await linkOrCopy(path, join(folder, file));
    members.push({ name, file, sha256 });
  }
  if (snapshot !== undefined) await copySnapshot(snapshot, join(folder, 'results'));
  return { members, results: id === null ? null : { folder: 'results', snapshot: id } };
}

/** What lies on another file system, or is somebody else's, is copied. */
async function linkOrCopy(from: string, to: string): Promise<void> {
  try {
    await link(from, to);
  } catch (error) {
    if (!hasErrno(error, 'EXDEV', 'EPERM', 'EACCES', 'EMLINK')) throw error;
    await copyFile(from, to, constants.COPYFILE_EXCL | constants.COPYFILE_FICLONE);
  }
}

async function copySnapshot(from: string, to: string): Promise<void> {
  await mkdir(to);
  for (const entry of await readdir(from, { withFileTypes: true })) {
    // The lease is for those that use the repository itself.
    if (entry.name.startsWith('.')) continue;
    const [source, target] = [join(from, entry.name), join(to, entry.name)];
    if (entry.isDirectory()) await copySnapshot(source, target);
    else await linkOrCopy(source, target);
  }
}

/** Bytes of a log that are looked at. */
const LOG_START = 4096;

/** In this round, by what a step writes to its log at its beginning. */
async function failedOn(files: FarmFiles, node: string): Promise<string[]> {
  const log = join(files.path, node, 'log');
  const last = await workerOf(log);
  await rm(log, { force: true });
  const tried = [...new Set([...files.tried(node), ...(last === undefined ? [] : [last])])];
  files.keepTried(node, tried);
  return tried;
}

export async function workerOf(log: string): Promise<string | undefined> {
  const file = await open(log, constants.O_RDONLY | constants.O_NOFOLLOW).catch(() => undefined);
  if (file === undefined) return undefined;
  await using opened = file;
  const { buffer, bytesRead } = await opened.read(Buffer.alloc(LOG_START), 0, LOG_START, 0);
  return /^kiln: worker ([\w.-]{1,255})$/m.exec(buffer.toString('utf8', 0, bytesRead))?.[1];
}

export function isDone(files: FarmFiles, { node, current }: FarmMember): boolean {
  if (node === null) return current;
  const outcome = files.outcome(node);
  return outcome !== undefined && outcome.state !== 'failed';
}

export async function resultsOf(
  { top }: FarmFiles,
  chain: FarmChain,
  records: Records,
  done: (member: FarmMember) => boolean,
): Promise<Results> {
  const all = chain.members.flatMap((member) => {
    const record = records.builtFrom(member, chain.optionsDigest);
    return record === undefined ? [] : [{ member, record }];
  });
  const keep = all.flatMap(({ record }) => record.snapshot ?? []);
  const repository = below(top, 'repository');
  const results = new Results(repository, keep);
  const added: [string, ReturnType<typeof packageFiles>][] = [];
  for (const { member, record } of all) {
    const directory = below(top, member.name);
    if (!done(member)) continue;
    if (!arePublished(repository, record) && !(await packagesAreThere(directory, record))) continue;
    added.push([member.name, packageFiles(directory, record)]);
  }
  await results.add(added);
  return results;
}

/** Read once, when they came: each step would read all packages of a long chain again, and workers check digests. */
function arePublished(repository: string, { packages }: MemberRecord): boolean {
  const pool = join(repository, 'pool');
  return packages.every(({ sha256 }) => existsSync(pooledFile(pool, sha256)));
}
