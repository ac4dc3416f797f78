/** The confined side of unpackRpms. Its root is the destination. */
import { mkdirSync, rmdirSync } from 'node:fs';
import type { QueueTask } from '../../host/confine/task.ts';
import { loadZstd } from '../../host/files/zstd.ts';
import { describePackage } from './describe.ts';
import { checkDigests } from './digests.ts';
import { assertTrusted, type SignaturePolicy } from './inspect.ts';
import type { RpmPackage } from './package.ts';
import { CpioParser } from './payload/cpio.ts';
import { decompressPayload } from './payload/decompress.ts';
import { loadNativeCodecs } from './payload/native-codec.ts';
import { planUnpack, type UnpackRoom } from './payload/plan.ts';
import { PackageWriter } from './payload/writer.ts';
import { readSections } from './sections.ts';
import { Keyring } from './signature/keyring.ts';
import { loadLibrpmio } from './signature/librpmio.ts';
import { checkSignatures } from './signature/package-signatures.ts';

export interface UnpackTaskInput extends UnpackRoom {
  readonly keys: readonly string[];
  readonly policy: SignaturePolicy;
}

const PROGRESS_STEP = 8 * 1024 * 1024;

export const task: QueueTask = {
  prepare() {
    loadNativeCodecs();
    loadZstd();
    loadLibrpmio();
  },

  begin(input) {
    const options = input as UnpackTaskInput;
    const keyring = new Keyring(loadLibrpmio(), options.keys);
    return (work, emit) => unpack(work.fds[0]!, work.input as string, keyring, options, emit);
  },
};

/**
 * Unpacks into a directory relative to the root, or `.` for the root itself. Digests and signature come first: with a
 * policy that requires one, no byte of a package that its maker did not sign reaches a decompressor.
 */
async function unpack(
  fd: number,
  into: string,
  keyring: Keyring,
  { policy, ...room }: UnpackTaskInput,
  onProgress: (bytes: number) => void,
): Promise<{ package: RpmPackage; warnings: readonly string[] }> {
  const sections = readSections(fd);
  const digests = checkDigests(fd, sections, 'payload');
  const signatures = checkSignatures(fd, sections, keyring, true);
  assertTrusted({ digests, signatures }, policy);
  const description = describePackage(fd, sections);
  const plan = planUnpack(description, room);

  // Whatever ends this process from here on, nobody may try again where something is left.
  onProgress(0);
  if (into !== '.') mkdirSync(into, 0o755);
  const { fileDigestAlgorithm: algorithm } = description;
  const writer = new PackageWriter(plan, into, { algorithm, unpackedSize: room.unpackedSize });
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
