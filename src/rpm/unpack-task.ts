/** The confined side of unpackRpms. Its root is the destination. */
import { closeSync, mkdirSync, rmdirSync } from 'node:fs';
import { flattenError } from '../confine/flat-error.ts';
import type { HandedFile } from '../confine/handout.ts';
import type { ConfinedTask } from '../confine/task.ts';
import { describePackage } from './describe.ts';
import { checkDigests, loadHashes } from './digests.ts';
import { assertTrusted, type SignaturePolicy } from './inspect.ts';
import { Keyring } from './keyring.ts';
import { loadLibrpmio } from './librpmio.ts';
import type { RpmPackage } from './package.ts';
import { CpioParser } from './payload/cpio.ts';
import { decompressPayload } from './payload/decompress.ts';
import { loadNativeCodecs } from './payload/native-codec.ts';
import { planUnpack, type UnpackLimits } from './payload/plan.ts';
import { type OwnerMap, PackageWriter } from './payload/writer.ts';
import { loadZstd } from './payload/zstd.ts';
import { readSections } from './sections.ts';
import { checkSignatures } from './signatures.ts';
import { toWire } from './wire.ts';

export interface UnpackTaskInput {
  /** One directory for each package, relative to the root; `.` for the root itself. */
  readonly into: readonly string[];
  readonly keys: readonly string[];
  readonly policy: SignaturePolicy;
  readonly limits: UnpackLimits;
  readonly owners?: OwnerMap;
}

/** Bytes written between two messages about progress. */
const PROGRESS_STEP = 8 * 1024 * 1024;

loadHashes();

export const task: ConfinedTask = {
  prepare() {
    loadNativeCodecs();
    loadZstd();
    loadLibrpmio();
  },

  async run(input, { arriving, emit }) {
    const options = input as UnpackTaskInput;
    const keyring = new Keyring(loadLibrpmio(), options.keys);
    for (const { index, fd } of flatten(arriving)) {
      const onProgress = (bytes: number) => emit({ index, progress: bytes });
      try {
        const done = await unpack(fd, options.into[index]!, keyring, options, onProgress);
        emit({ index, package: toWire(done.package), warnings: done.warnings });
      } catch (error) {
        emit({ index, error: flattenError(error) });
      } finally {
        closeSync(fd);
      }
    }
  },
};

function* flatten(groups: Iterable<readonly HandedFile[]>): Generator<HandedFile> {
  for (const group of groups) yield* group;
}

/**
 * Digests and signature come first: with a policy that requires one, no byte of a package that its
 * maker did not sign ever reaches a decompressor.
 */
async function unpack(
  fd: number,
  into: string,
  keyring: Keyring,
  { policy, limits, owners }: UnpackTaskInput,
  onProgress: (bytes: number) => void,
): Promise<{ package: RpmPackage; warnings: readonly string[] }> {
  const sections = readSections(fd);
  const digests = checkDigests(fd, sections, 'payload');
  const signatures = checkSignatures(fd, sections, keyring, true);
  assertTrusted({ digests, signatures }, policy);
  const description = describePackage(fd, sections);
  const plan = planUnpack(description, limits);

  if (into !== '.') mkdirSync(into, 0o755);
  const writer = new PackageWriter(plan, into, {
    algorithm: description.fileDigestAlgorithm,
    owners,
    unpackedSize: limits.unpackedSize,
  });
  try {
    const parser = new CpioParser(writer);
    let reported = 0;
    for await (const piece of decompressPayload(fd, description.payload)) {
      parser.push(piece);
      if (parser.finished) break;
      if (writer.written - reported < PROGRESS_STEP) continue;
      reported = writer.written;
      onProgress(reported);
    }
    parser.finish();
    writer.finish();
  } catch (error) {
    writer.undo();
    if (into !== '.') rmdirSync(into);
    throw error;
  }
  return { package: { ...description, digests, signatures }, warnings: writer.warnings };
}
