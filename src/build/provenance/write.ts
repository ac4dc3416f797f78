import { createHash } from 'node:crypto';
import { existsSync } from 'node:fs';
import { basename, join } from 'node:path';
import { writeTexts } from '../../artifacts/staging.ts';
import { readContents } from '../../image/store/contents.ts';
import { digestFile } from '../../repository/cache.ts';
import type { Engine } from '../../sandbox/open.ts';
import { KILN_VERSION } from '../../state/package-root.ts';
import type { BuildReport } from '../report.ts';
import type { BuildRequest } from '../request.ts';
import { attestBuild } from './attest.ts';
import { CHECKSUMS_FILE, checksumManifest, digestFiles } from './checksums.ts';
import { readSigningKey, type SigningKey } from './signing-key.ts';

/** What a build leaves beside its packages, as far as it is there. */
const BYPRODUCTS = [
  ...(['build.log', 'root.log', 'state.log', 'hw_info.log', 'installed_pkgs.log'] as const),
  ...(['lock.json', 'buildroot_lock.json', 'result.json'] as const),
];

/**
 * Puts SBOM, provenance and SHA256SUMS into the result directory of a build that went well: the
 * last thing that is done there.
 * @throws KilnError E_PROVENANCE_KEY, E_RESULTDIR
 */
export async function writeProvenance(engine: Engine, report: BuildReport): Promise<void> {
  const { image, resultDirectory, request, packages, sourcePackage } = report;
  if (image === undefined) return;
  const { builder, sourceDateEpoch } = request.provenance ?? {};
  const key = await signingKey(request);
  const { packages: root } = await readContents(engine.paths, image.id);
  const there = BYPRODUCTS.filter((name) => existsSync(join(resultDirectory, name)));
  const byproducts = await digestFiles(
    resultDirectory,
    there.map((path) => ({ path })),
  );
  const { path: source } = request.source;
  const digest = report.sourceDigest ?? (await digestFile(source, 'sha256'));
  const attestations = attestBuild({
    report,
    root,
    sources: [{ name: basename(source), sha256: digest.slice('sha256:'.length) }],
    byproducts,
    kiln: KILN_VERSION,
    key,
    ...(builder === undefined ? {} : { builder }),
    ...(sourceDateEpoch === undefined ? {} : { sourceDateEpoch }),
  });
  const built = [...packages, ...(sourcePackage === undefined ? [] : [sourcePackage])];
  const manifest = checksumManifest([
    ...built.map((entry) => ({ path: entry.file, sha256: entry.sha256 })),
    ...byproducts,
    ...attestations.map(({ name, content }) => ({ path: name, sha256: digestOf(content) })),
  ]);
  const files = [...attestations, { name: CHECKSUMS_FILE, content: manifest }];
  await writeTexts(resultDirectory, files, request.caller);
}

/** The key that a request names. @throws KilnError E_PROVENANCE_KEY */
export async function signingKey({ provenance }: BuildRequest): Promise<SigningKey | undefined> {
  return provenance?.key === undefined ? undefined : await readSigningKey(provenance.key);
}

function digestOf(content: string | Buffer): string {
  return createHash('sha256').update(content).digest('hex');
}
