/** Signs built packages with a key that no sandbox and no confined child sees. */

import { closeSync, fchmodSync, fchownSync, fstatSync } from 'node:fs';
import { type Owner, resultDirectoryError } from '../../../artifacts/destination.ts';
import { openStaging } from '../../../artifacts/staging.ts';
import { defined } from '../../../defined.ts';
import { KilnError } from '../../../errors.ts';
import { closing } from '../../../host/calls/descriptor.ts';
import { fileError } from '../../../host/confine/frame.ts';
import { FILE_BELOW, NEW_FILE, openat2 } from '../../../host/files/at.ts';
import { type HeldPath, openFolder } from '../../../host/files/held.ts';
import { MAX_FDS } from '../../../packages/rpm/package.ts';
import { takeApart, writeSigned } from '../../../packages/rpm/signature/sign.ts';
import { openSigningKey, type PackageSigner } from '../../../packages/rpm/signature/signing-key.ts';
import type { BuildJob } from '../build-job.ts';
import type { Built, BuiltPackage } from '../outcome/report.ts';
import type { BuildOptions } from '../request.ts';
import { builtPackages } from './write.ts';

/** What an engine knows of its caller's keys. */
interface SigningEngine {
  signingPassphrase(): string | undefined;
}

export async function packageSigner(
  engine: SigningEngine,
  { signKey, signPassphraseFile }: BuildOptions,
): Promise<PackageSigner | undefined> {
  if (signKey === undefined) return undefined;
  const files = { key: signKey, ...defined({ passphraseFile: signPassphraseFile }) };
  return await openSigningKey(files, engine.signingPassphrase());
}

/** What a build made, signed if it has a key. */
export async function signStep(
  job: BuildJob,
  signer: PackageSigner | undefined,
  built: Built,
): Promise<Built> {
  if (signer === undefined) return built;
  const { resultDirectory: directory, caller: owner } = job.request;
  const where = { directory, owner, signer, signal: job.signal };
  const packages = builtPackages(built);
  const signed = await job.phase('sign', () => signPackages({ ...where, packages }));
  const byFile = new Map(signed.map((entry) => [entry.file, entry]));
  return {
    packages: built.packages.map((entry) => byFile.get(entry.file) ?? entry),
    sourcePackage: built.sourcePackage && byFile.get(built.sourcePackage.file),
    artifacts: built.artifacts.map((artifact) => {
      const now = byFile.get(artifact.path);
      return now === undefined ? artifact : { ...artifact, size: now.size, sha256: now.sha256 };
    }),
  };
}

const PERMISSIONS = 0o777;

interface SignRequest {
  readonly directory: HeldPath;
  readonly owner: Owner;
  readonly packages: readonly BuiltPackage[];
  readonly signer: PackageSigner;
  readonly signal?: AbortSignal | undefined;
}

/**
 * Replaces packages in a result directory by signed ones, each as a whole, and none unless all are signed. Only
 * files with their collected digest are signed.
 * @returns the packages as they are now, in their order
 * @throws KilnError E_BUILD_OUTPUT for a package that changed since; E_RPM_…; E_RESULTDIR
 */
export async function signPackages(request: SignRequest): Promise<BuiltPackage[]> {
  const { directory, owner, packages } = request;
  if (packages.length === 0) return [];
  await using staging = await openStaging(directory, owner);
  using from = closing(openFolder(directory));
  const signed: BuiltPackage[] = [];
  for (let at = 0; at < packages.length; at += MAX_FDS) {
    const batch = packages.slice(at, at + MAX_FDS);
    signed.push(...(await signBatch({ ...request, packages: batch }, from.fd, staging.fd)));
  }
  staging.publish();
  return signed;
}

async function signBatch(
  { directory, owner, packages, signer, signal }: SignRequest,
  from: number,
  to: number,
): Promise<BuiltPackage[]> {
  using opened = new DisposableStack();
  const fds = packages.map(({ file }) => opened.adopt(openPackage(from, file), closeSync));
  const signed = new Map<string, BuiltPackage>();
  const takenApart = takeApart(fds, signal, (index) => packages[index]!.file);
  for await (const { index, parts, error } of takenApart) {
    const before = packages[index]!;
    const { file } = before;
    if (error !== undefined) throw fileError(file, error);
    const fd = fds[index]!;
    try {
      using target = closing(openat2(to, file, NEW_FILE));
      const copy = await writeSigned(fd, target.fd, parts, signer, signal);
      if (copy.from !== before.sha256) throw changedError(file);
      fchownSync(target.fd, owner.uid, owner.gid);
      fchmodSync(target.fd, fstatSync(fd).mode & PERMISSIONS);
      signed.set(file, { ...before, sha256: copy.sha256, size: copy.size });
    } catch (cause) {
      if (signal?.aborted || cause instanceof KilnError) throw cause;
      throw resultDirectoryError(directory, cause);
    }
  }
  return packages.map(({ file }) => {
    const entry = signed.get(file);
    if (entry !== undefined) return entry;
    throw new KilnError('E_CONFINE_PROTOCOL', `${file}: the confined child said nothing of it`);
  });
}

function openPackage(directory: number, file: string): number {
  try {
    return openat2(directory, file, FILE_BELOW);
  } catch (cause) {
    throw changedError(file, cause);
  }
}

function changedError(file: string, cause?: unknown): KilnError {
  return new KilnError('E_BUILD_OUTPUT', `${file} changed before it could be signed`, {
    hint: 'nothing else may write to the result folder of a build that runs',
    cause,
  });
}
