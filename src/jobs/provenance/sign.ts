/** Signs built packages with a key that no sandbox and no confined child sees. */
import { openSigningKey, type PackageSigner } from '../../packages/rpm/signature/signing-key.ts';
import type { Engine } from '../../sandbox/open.ts';
import type { BuildRun } from '../rpmbuild/build-run.ts';
import type { Progress } from '../rpmbuild/outcome/finish.ts';
import type { BuildHooks, BuildReport } from '../rpmbuild/outcome/report.ts';
import type { BuildRequest } from '../rpmbuild/request.ts';
import { type SignRequest, signPackages } from './sign-packages.ts';

/** Opens the key of a request. @throws KilnError E_SIGN_KEY */
export async function packageSigner(
  engine: Pick<Engine, 'signingPassphrase'>,
  { signing }: Pick<BuildRequest, 'signing'>,
): Promise<PackageSigner | undefined> {
  if (signing === undefined) return undefined;
  return await openSigningKey(signing, engine.signingPassphrase());
}

/** Signs the packages of a build and its source package, if signing is requested. */
export async function signCollected(run: BuildRun, progress: Progress): Promise<void> {
  const { signer, request, signal } = run;
  const { collected } = progress;
  if (signer === undefined || collected === undefined) return;
  await run.phase('sign', async () => {
    const { collection } = collected;
    const { artifacts, ...packages } = await signBuilt(
      { ...collected, artifacts: collection.artifacts },
      { directory: request.resultDirectory, owner: request.caller, signer, signal },
    );
    progress.collected = { ...packages, collection: { ...collection, artifacts } };
  });
}

/**
 * Signs the packages of an ended build. @returns the updated report @throws what {@link signPackages} throws
 */
export async function signReport(
  report: BuildReport,
  signer: PackageSigner,
  { signal, onPhase }: BuildHooks,
): Promise<BuildReport> {
  const { resultDirectory: directory, request } = report;
  const from = performance.now();
  onPhase?.('sign', 'start');
  try {
    const signed = await signBuilt(report, { directory, owner: request.caller, signer, signal });
    onPhase?.('sign', 'finish');
    const duration = performance.now() - from;
    const start = Date.now() - report.started.getTime() - duration;
    return { ...report, ...signed, phases: [...report.phases, { name: 'sign', start, duration }] };
  } catch (error) {
    onPhase?.('sign', 'fail');
    throw error;
  }
}

type Built = Pick<BuildReport, 'packages' | 'sourcePackage' | 'artifacts'>;

async function signBuilt(
  { packages, sourcePackage, artifacts }: Built,
  where: Omit<SignRequest, 'packages'>,
): Promise<Built> {
  const all = [...packages, ...(sourcePackage === undefined ? [] : [sourcePackage])];
  const signed = await signPackages({ ...where, packages: all });
  const byFile = new Map(signed.map((entry) => [entry.file, entry]));
  return {
    packages: packages.map((entry) => byFile.get(entry.file) ?? entry),
    sourcePackage: sourcePackage && byFile.get(sourcePackage.file),
    artifacts: artifacts.map((artifact) => {
      const now = byFile.get(artifact.path);
      return now === undefined ? artifact : { ...artifact, size: now.size, sha256: now.sha256 };
    }),
  };
}
