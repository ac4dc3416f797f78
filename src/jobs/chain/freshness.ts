/** Tells whether a package would be built from the same inputs as before. */
import { readContents } from '../../image/store/manifest.ts';
import { digestOf } from '../../result/digest.ts';
import type { Engine } from '../../sandbox/open.ts';
import type { BuildBase } from '../rpmbuild/buildroot/base.ts';
import { buildRepositories, solveLayer } from '../rpmbuild/buildroot/layer.ts';
import type { BuildReport } from '../rpmbuild/outcome/report.ts';
import type { BuildRequest } from '../rpmbuild/request.ts';
import type { ChainRequest } from './request.ts';

/**
 * The digest of the options that can change a build's packages.
 * @param signer fingerprint of the key that signs the packages
 */
export function optionsDigest(
  { build }: Pick<ChainRequest, 'build'>,
  signer: string | undefined,
): string {
  const { defines, with: having, without, nocheck, target, rpmbuildOptions } = build;
  const { shortCircuit, network, additionalPackages, hostname } = build;
  return digestOf([
    ...[defines, having, without, nocheck, target, rpmbuildOptions],
    ...[shortCircuit, network, additionalPackages, hostname],
    ...(signer === undefined ? [] : [signer]),
  ]);
}

/**
 * The digest of a build root: its base image, which covers files, users and environment, and all packages. rpm
 * decides their order.
 */
function rootDigest(base: string, packages: readonly { readonly digest: string }[]): string {
  return digestOf([base, packages.map(({ digest }) => digest).sort()]);
}

/** A build root's digest, and the digests of its packages (`sha256:…`). */
export interface BuildRoot {
  readonly digest: string;
  readonly packages: ReadonlySet<string>;
}

/** The root that a build of `request` would have now. @throws what solving throws */
export async function plannedRoot(
  engine: Engine,
  base: BuildBase,
  request: BuildRequest,
  requires: readonly string[],
  signal: AbortSignal | undefined,
): Promise<BuildRoot> {
  const context = { engine, base, offline: request.offline ?? false, signal };
  const set = await buildRepositories(context, request);
  const additionalPackages = request.additionalPackages ?? [];
  const layer = await solveLayer(set, context, { requires, additionalPackages });
  const added = layer.lock?.packages ?? [];
  const packages = layer.whole ? added : [...base.packages, ...added];
  return describe(base.image.manifest.id, packages);
}

/** The root that a build had. */
export async function usedRoot(engine: Engine, report: BuildReport): Promise<BuildRoot> {
  const { base, image } = report;
  if (base === undefined || image === undefined) throw new TypeError('it was not built');
  const { packages } = await readContents(engine.paths, image.id);
  return describe(base.id, packages);
}

function describe(base: string, packages: readonly { readonly digest: string }[]): BuildRoot {
  return {
    digest: rootDigest(base, packages),
    packages: new Set(packages.map(({ digest }) => digest)),
  };
}
