/**
 * Takes mutants through the real reader and unpacker, many in one process, in a root of its own that
 * holds a canary beside the place to unpack to. Started by main.ts in a mount namespace of its own:
 * worker.ts ROOT FIRST COUNT CORPUS…. Writes a line of JSON after every batch; before each mutant its
 * seed goes into the shared file that main.ts reads when this process dies or hangs.
 */
import { createHash } from 'node:crypto';
import {
  closeSync,
  ftruncateSync,
  lstatSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  rmSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import { KilnError } from '../../../src/errors.ts';
import { changeRoot } from '../../../src/host/files/mount.ts';
import { loadZstd } from '../../../src/host/files/zstd.ts';
import { limitResource } from '../../../src/host/process/process.ts';
import { describePackage } from '../../../src/packages/rpm/describe.ts';
import { checkDigests, digestFaults } from '../../../src/packages/rpm/digests.ts';
import { CpioParser } from '../../../src/packages/rpm/payload/cpio.ts';
import { decompressPayload } from '../../../src/packages/rpm/payload/decompress.ts';
import { loadNativeCodecs } from '../../../src/packages/rpm/payload/native-codec.ts';
import { planUnpack } from '../../../src/packages/rpm/payload/plan.ts';
import { PackageWriter } from '../../../src/packages/rpm/payload/writer.ts';
import { readSections } from '../../../src/packages/rpm/sections.ts';
import { Keyring } from '../../../src/packages/rpm/signature/keyring.ts';
import { loadLibrpmio } from '../../../src/packages/rpm/signature/librpmio.ts';
import { checkSignatures } from '../../../src/packages/rpm/signature/package-signatures.ts';
import { mutate } from './mutate.ts';
import { readSpecimen } from './specimen.ts';

/** How far a mutant came; in the order of src/packages/rpm/unpack-task.ts. */
export const STAGES = [
  'headers',
  'digests',
  'description',
  'plan',
  'decompression',
  'archive',
  'whole',
] as const;

export type Stage = (typeof STAGES)[number];

/** What a batch of mutants came to. */
export interface Batch {
  readonly done: number;
  readonly resealed: number;
  /** How many came to an end in each stage. */
  readonly stages: Partial<Record<Stage, number>>;
  /** The same of those resealed. */
  readonly resealedStages: Partial<Record<Stage, number>>;
  readonly codes: Record<string, number>;
  /** What must never be: lines with the seed. */
  readonly wrong: readonly string[];
}

const BATCH = 250;
const UNPACKED_SIZE = 64 * 1024 * 1024;
const DESTINATION = 'dest/0';

/** Unpacks as the confined task does: the same parts in the same order. */
async function unpack(
  fd: number,
  keyring: Keyring,
  reached: (stage: Stage) => void,
): Promise<void> {
  reached('headers');
  const sections = readSections(fd);
  reached('digests');
  const digests = checkDigests(fd, sections, 'payload');
  const signatures = checkSignatures(fd, sections, keyring, true);
  const [fault] = digestFaults(digests);
  if (fault !== undefined) throw new KilnError('E_RPM_DIGEST', fault);
  reached('description');
  const description = describePackage(fd, sections);
  // What the parent gets of it.
  JSON.stringify({ ...description, digests, signatures });
  reached('plan');
  const plan = planUnpack(description, { unpackedSize: UNPACKED_SIZE, moreBy: '' });
  reached('decompression');
  mkdirSync(DESTINATION, 0o755);
  const writer = new PackageWriter(plan, DESTINATION, {
    algorithm: description.fileDigestAlgorithm,
    unpackedSize: UNPACKED_SIZE,
  });
  try {
    const parser = new CpioParser(writer);
    for await (const piece of decompressPayload(fd, description.payload)) {
      reached('archive');
      parser.push(piece);
      if (parser.finished) break;
    }
    parser.finish();
    writer.finish();
    reached('whole');
  } catch (error) {
    writer.undo();
    throw error;
  }
}

/** Everything outside of the destination, as one digest. */
function outside(): string {
  const digest = createHash('sha256');
  const visit = (path: string) => {
    const stat = lstatSync(path);
    // Of the root its times change with nothing; what is in it counts.
    digest.update(`${path} ${stat.mode} ${stat.uid}:${stat.gid} ${stat.nlink} ${stat.size}\n`);
    if (stat.isFile()) digest.update(readFileSync(path)).update(String(stat.mtimeMs));
    if (stat.isSymbolicLink()) digest.update(readlinkSync(path));
    if (!stat.isDirectory() || path === '/dest') return;
    for (const name of readdirSync(path).sort()) visit(`${path === '/' ? '' : path}/${name}`);
  };
  visit('/canary');
  for (const name of readdirSync('/').sort()) digest.update(`${name}\n`);
  return digest.digest('hex');
}

async function main(): Promise<void> {
  const [root = '', first = '', count = '', ...paths] = process.argv.slice(2);
  const corpus = paths.map(readSpecimen);
  loadNativeCodecs();
  loadZstd();
  const keyring = new Keyring(loadLibrpmio(), []);
  const seedFile = openSync(`${root}.seed`, 'w');
  mkdirSync(`${root}/dest`, 0o755);
  mkdirSync(`${root}/canary/inner`, { recursive: true });
  writeFileSync(`${root}/canary/file`, 'nobody may write here\n');
  writeFileSync(`${root}/package.rpm`, '');
  limitResource('core', 0);
  limitResource('data', 2 * 1024 ** 3);
  const rootFd = openSync(root, 'r');
  changeRoot(rootFd);
  closeSync(rootFd);
  process.umask(0);
  const file = openSync('package.rpm', 'r+');
  const untouched = outside();

  const end = Number(first) + Number(count);
  for (let from = Number(first); from < end; from += BATCH) {
    const stages: Partial<Record<Stage, number>> = {};
    const resealedStages: Partial<Record<Stage, number>> = {};
    const codes: Record<string, number> = {};
    const wrong: string[] = [];
    let resealed = 0;
    const last = Math.min(end, from + BATCH);
    for (let seed = from; seed < last; seed++) {
      const mutant = mutate(corpus, seed);
      if (mutant.resealed) resealed++;
      writeSync(seedFile, String(seed).padEnd(12), 0);
      ftruncateSync(file, 0);
      writeSync(file, mutant.bytes, 0, mutant.bytes.length, 0);
      let stage: Stage = 'headers';
      try {
        await unpack(file, keyring, (reached) => {
          stage = reached;
        });
        codes.none = (codes.none ?? 0) + 1;
      } catch (error) {
        if (error instanceof KilnError) codes[error.code] = (codes[error.code] ?? 0) + 1;
        else wrong.push(`seed ${seed}: ${stage}: ${(error as Error).stack ?? error}`);
        // undo() has taken away everything but the directory itself.
        const left = readdirSync('dest').length === 0 ? [] : readdirSync(DESTINATION);
        if (left.length > 0) wrong.push(`seed ${seed}: left behind: ${left.slice(0, 5)}`);
      }
      stages[stage] = (stages[stage] ?? 0) + 1;
      if (mutant.resealed) resealedStages[stage] = (resealedStages[stage] ?? 0) + 1;
      rmSync(DESTINATION, { recursive: true, force: true });
    }
    if (outside() !== untouched)
      wrong.push(`seeds ${from} to ${last}: something was written outside`);
    const done = last - from;
    const batch: Batch = { done, resealed, stages, resealedStages, codes, wrong };
    process.stdout.write(`${JSON.stringify(batch)}\n`);
  }
}

if (import.meta.main) await main();
