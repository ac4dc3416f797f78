/** Before a step is submitted: its frozen plan, with the results that are there by now. DAGMan's PRE script. */
import { constants } from 'node:fs';
import { copyFile, link, mkdir, open, readdir, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { KilnError } from '../errors.ts';
import { hasErrno } from '../host/calls/libc.ts';
import { withLock } from '../host/files/flock.ts';
import { removeTree } from '../host/files/remove-tree.ts';
import { KILN_VERSION } from '../host/state/paths.ts';
import { Records } from '../jobs/chain/records.ts';
import type { OptionalLayer } from '../sandbox/policy/layers.ts';
import { type FarmChain, FarmFiles, type FarmMember } from './chain.ts';
import { submitFile, submitText } from './dag.ts';
import { isDone, recordOf, resultsOf } from './done.ts';
import { STEP_STATUS } from './exit-status.ts';
import { type KnownBuild, STEP_FILE, type Step, serializeStep } from './step.ts';

/** Held by whoever changes what is there of a chain. */
export function changesLock(files: FarmFiles): string {
  return join(files.path, 'lock');
}

/** @returns the exit status of the script */
export async function prepareStep(
  resultDirectory: string,
  node: string,
  allowMissing: readonly OptionalLayer[],
): Promise<number> {
  using files = FarmFiles.open(resultDirectory);
  if (files.isStopped) return STEP_STATUS.package;
  const chain = files.chain();
  const member = memberOf(chain, node);
  using records = Records.open(resultDirectory);
  return await withLock(changesLock(files), async () => {
    files.forgetOutcome(node);
    const folder = join(files.path, node);
    for (const name of ['in', 'out']) await removeTree(join(folder, name));
    const avoid = await failedOn(files, node);
    await using results = await resultsOf(chain, records, (one) => isDone(files, one));
    await using inUse = await results.use();
    const requires = recordOf(chain, member, records)?.requires ?? member.requires;
    const additionalPackages = [
      ...(chain.options.additionalPackages ?? []),
      ...results.chosenFor(requires, member.name),
    ];
    const folderIn = join(folder, 'in');
    await mkdir(folderIn);
    const file = `${member.name}.src.rpm`;
    await linkOrCopy(member.path, join(folderIn, file));
    const { source } = inUse.repository ?? {};
    if (source?.kind === 'directory') await copySnapshot(source.path, join(folderIn, 'results'));
    const known = recordOf(chain, member, records);
    const step: Step = {
      kind: 'kiln-farm-step',
      format: 1,
      chain: chain.id,
      task: 'build',
      image: chain.image,
      members: [{ name: member.name, file, sha256: member.sha256 }],
      results: inUse.snapshot === null ? null : { folder: 'results', snapshot: inUse.snapshot },
      options: { ...chain.options, additionalPackages },
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
        packages: results.chosenDigests(requires, member.name),
        avoid,
        options: chain.options,
      }),
    );
    return STEP_STATUS.done;
  });
}

/** @throws KilnError E_FARM_CHAIN */
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

/** A link costs nothing; what lies on another file system, or is somebody else's, is copied. */
export async function linkOrCopy(from: string, to: string): Promise<void> {
  try {
    await link(from, to);
  } catch (error) {
    if (!hasErrno(error, 'EXDEV', 'EPERM', 'EACCES', 'EMLINK')) throw error;
    await copyFile(from, to, constants.COPYFILE_EXCL | constants.COPYFILE_FICLONE);
  }
}

/** A snapshot in a folder of the step's: it stays whatever becomes of the repository. */
export async function copySnapshot(from: string, to: string): Promise<void> {
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

/** Machines on which this step has failed in this round, by what it has written to its log at its beginning. */
async function failedOn(files: FarmFiles, node: string): Promise<string[]> {
  using folder = files.node(node);
  const before = (folder.read(TRIED_FILE, MAX_TRIED) ?? '').split('\n').filter(Boolean);
  const last = await workerOf(join(files.path, node, 'log'));
  await rm(join(files.path, node, 'log'), { force: true });
  const tried = [...new Set([...before, ...(last === undefined ? [] : [last])])];
  folder.replace(TRIED_FILE, tried.join('\n'));
  return tried;
}

const TRIED_FILE = 'tried';
const MAX_TRIED = 1 << 20;

/** The machine that a step has run on, or runs on; undefined where it has not begun. */
export async function workerOf(log: string): Promise<string | undefined> {
  const file = await open(log, constants.O_RDONLY | constants.O_NOFOLLOW).catch(() => undefined);
  if (file === undefined) return undefined;
  await using opened = file;
  const { buffer, bytesRead } = await opened.read(Buffer.alloc(LOG_START), 0, LOG_START, 0);
  return /^kiln: worker ([\w.-]{1,255})$/m.exec(buffer.toString('utf8', 0, bytesRead))?.[1];
}
