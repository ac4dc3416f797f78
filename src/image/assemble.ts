import { constants, futimesSync, lstatSync, mkdirSync, openSync, renameSync } from 'node:fs';
import { join } from 'node:path';
import type { Engine } from '../engine.ts';
import { KilnError } from '../errors.ts';
import { closing } from '../host/calls/descriptor.ts';
import { unlessErrno } from '../host/calls/libc.ts';
import { AT_FDCWD, existsInTree, openDirectory, openInTree, unlinkat } from '../host/files/at.ts';
import { span } from '../host/trace/trace.ts';
import { encodeName } from '../packages/rpm/filename.ts';
import type { ScriptletPolicy } from '../recipe/load-image-recipe.ts';
import type { OnImageProgress } from './progress.ts';
import type { StoredPackage } from './store/entry.ts';
import type { LeasedImage } from './store/images.ts';
import type { TransactionKind } from './store/manifest.ts';
import { installIntoEmptyRoot, installOnTop, rpmMissingError } from './transaction/exact.ts';
import { findRpm, RPM_PATHS, reasonsForExact, runFastTransaction } from './transaction/fast.ts';
import { TransactionSandbox } from './transaction/transaction-sandbox.ts';
import { restoreCapabilities, settleOwners } from './tree/accounts.ts';
import { cloneTree } from './tree/clone.ts';
import { type Composition, composeTree, packagedTime } from './tree/compose.ts';
import { type ClampTimes, cleanUpperTree, mergeOverlay } from './tree/merge-overlay.ts';
import { TreePlan } from './tree/plan.ts';

const SHOWN_PROBLEMS = 20;

export interface TreeOptions {
  readonly engine: Engine;
  readonly scriptlets: ScriptletPolicy;
  readonly fetchFiles: () => Promise<readonly string[]>;
  /** It lies on the store's file system. */
  readonly work: string;
  readonly onProgress?: OnImageProgress | undefined;
  readonly signal?: AbortSignal | undefined;
}

export interface AssembleOptions extends TreeOptions {
  readonly packages: readonly StoredPackage[];
}

export interface AssembledTree {
  readonly path: string;
  readonly transaction: TransactionKind;
  readonly exactReasons: readonly string[];
  readonly warnings: readonly string[];
  readonly linked: readonly string[];
  /** When its newest package was built, seconds since 1970. */
  readonly epoch: number;
  /** Bytes of all files, and of those that are no links into the package store. */
  readonly bytes: number;
  readonly ownBytes: number;
  /** Where files are that may be no links into the store; undefined where all may be none. */
  readonly own?: readonly string[];
}

/**
 * The tree that rpm would make of these packages in an empty root. @throws KilnError E_FILE_CONFLICT,
 * E_SCRIPTLET, E_RPM_MISSING, E_DISK
 */
export async function assembleTree(options: AssembleOptions): Promise<AssembledTree> {
  using _ = span('assemble the tree');
  const { packages, scriptlets, work, onProgress } = options;
  // Ignore errors here; opening the sandbox reports them.
  if (scriptlets.mode !== 'none') TransactionSandbox.prepare(options.engine).catch(() => undefined);
  const plan = new TreePlan();
  for (const { package: added } of packages) plan.add(added);
  if (plan.problems.length > 0) throw conflictError(plan.problems);
  const byPackage = new Map(packages.map((stored) => [stored.package, stored]));
  onProgress?.({ kind: 'compose', packages: packages.length });
  const composed = join(work, 'composed');
  const composition = composeTree(plan, composed, (of) => byPackage.get(of)!.tree);
  options.signal?.throwIfAborted();
  const parts = { options, plan, composed, composition };
  if (scriptlets.mode === 'none') return withoutScripts(parts);
  const reasons =
    scriptlets.mode === 'exact'
      ? ['the recipe asks for it']
      : reasonsForExact([...byPackage.keys()], plan);
  return reasons.length === 0 ? await fast(parts) : await exact(parts, reasons);
}

interface Parts {
  readonly options: AssembleOptions;
  readonly plan: TreePlan;
  readonly composed: string;
  readonly composition: Composition;
}

function withoutScripts({ options, composed, composition }: Parts): AssembledTree {
  const warnings = [...composition.warnings, ...settleOwners(composed, composition.deferred)];
  return {
    path: composed,
    transaction: 'none',
    exactReasons: [],
    warnings,
    linked: options.packages.map((stored) => stored.digest),
    epoch: newest(options.packages),
    bytes: composition.bytes,
    ownBytes: composition.copiedBytes,
    own: composition.copied,
  };
}

async function fast({ options, plan, composed, composition }: Parts): Promise<AssembledTree> {
  const { packages } = options;
  const clamp = clampTimes(newest(packages));
  using trash = closing(openSync(subdirectory(options.work, 'displaced'), constants.O_DIRECTORY));
  const { upper, warnings } = await runFastTransaction({
    ...options,
    tree: composed,
    plan,
    work: subdirectory(options.work, 'transaction'),
    deferred: composition.deferred,
  });
  removeMountPoints(upper, (name) => plan.find(`/${name}`) !== undefined);
  const merge = mergeOverlay(upper, composed, trash.fd, clamp);
  restoreCapabilities(composed, composition.deferred);
  setDirectoryTimes(plan, composed, merge.directories);
  return {
    path: composed,
    transaction: 'fast',
    exactReasons: [],
    warnings: [...composition.warnings, ...warnings],
    linked: packages.map((stored) => stored.digest),
    epoch: newest(packages),
    bytes: composition.bytes + merge.bytes,
    ownBytes: composition.copiedBytes + merge.bytes,
    own: [...composition.copied, ...merge.files],
  };
}

async function exact(
  { options, plan, composed }: Parts,
  reasons: readonly string[],
): Promise<AssembledTree> {
  const rpm = findRpm(plan);
  if (rpm === undefined) throw rpmMissingError(reasons);
  options.onProgress?.({ kind: 'exact', reasons });
  const epoch = newest(options.packages);
  const clamp = clampTimes(epoch);
  const { root, warnings } = await installIntoEmptyRoot({
    ...options,
    tree: composed,
    rpm,
    work: subdirectory(options.work, 'transaction'),
    packages: await options.fetchFiles(),
    hasDev: plan.find('/dev') !== undefined,
  });
  const { bytes, directories } = cleanUpperTree(root, clamp);
  const path = join(options.work, 'installed');
  renameSync(root, path);
  setDirectoryTimes(plan, path, directories);
  return {
    path,
    transaction: 'exact',
    exactReasons: reasons,
    warnings,
    linked: [],
    epoch,
    bytes,
    ownBytes: bytes,
  };
}

/** Files of packages keep the package's time; files made by scripts get the time of the newest package. */
function clampTimes(epoch: number): ClampTimes {
  const second = 1_000_000_000n;
  // Some file systems round times to a tick: allow a second.
  return { after: (BigInt(Date.now()) / 1000n - 1n) * second, to: BigInt(epoch) * second };
}

function newest(packages: readonly StoredPackage[]): number {
  return packages.reduce((time, stored) => Math.max(time, stored.package.buildTime ?? 0), 0);
}

function setDirectoryTimes(plan: TreePlan, tree: string, changed: ReadonlySet<string>): void {
  using root = closing(openSync(tree, constants.O_RDONLY | constants.O_DIRECTORY));
  for (const planned of plan.directories()) {
    const time = packagedTime(planned);
    if (time === null || !changed.has(planned.path)) continue;
    const path = encodeName(planned.path);
    using directory = openInTree(root.fd, path, constants.O_RDONLY | constants.O_DIRECTORY);
    if (directory !== undefined) futimesSync(directory.fd, time, time);
  }
}

function removeMountPoints(upper: string, exists: (name: string) => boolean): void {
  using root = closing(openDirectory(AT_FDCWD, upper));
  for (const name of ['proc', 'dev']) {
    if (exists(name)) continue;
    const remove = () => unlinkat(root.fd, name, { directory: true });
    unlessErrno(['ENOENT', 'ENOTEMPTY', 'ENOTDIR'], remove);
  }
}

function subdirectory(work: string, name: string): string {
  const path = join(work, name);
  mkdirSync(path, { mode: 0o700 });
  return path;
}

function conflictError(problems: readonly string[]): KilnError {
  const shown = problems.slice(0, SHOWN_PROBLEMS).map((problem) => `  ${problem}`);
  const more = problems.length - shown.length;
  const rest = more > 0 ? `\n  and ${more} more` : '';
  return new KilnError(
    'E_FILE_CONFLICT',
    `the packages do not fit together:\n${shown.join('\n')}${rest}`,
    {
      hint: 'leave one of the packages out with `exclude`',
      details: { problems },
    },
  );
}

/**
 * Lets the base's own rpm install more packages: only these cost time. @throws KilnError E_SCRIPTLET,
 * E_RPM_MISSING, E_DISK
 */
export async function extendTree(
  options: TreeOptions & { readonly base: LeasedImage },
): Promise<AssembledTree> {
  const { base, work } = options;
  const { epoch } = base.manifest;
  const rpm = findInstalledRpm(base.tree);
  if (rpm === undefined) throw rpmMissingError([`${base.manifest.name} is extended`]);
  const path = join(work, 'extended');
  const packages = await options.fetchFiles();
  const clamp = clampTimes(epoch);
  const { upper, warnings } = await installOnTop({
    ...options,
    tree: base.tree,
    rpm,
    work: subdirectory(work, 'transaction'),
    packages,
    meanwhile: () => cloneTree(base.tree, path),
  });
  removeMountPoints(
    upper,
    (name) => lstatSync(join(base.tree, name), { throwIfNoEntry: false }) !== undefined,
  );
  using trash = closing(openSync(subdirectory(work, 'displaced'), constants.O_DIRECTORY));
  const { bytes } = mergeOverlay(upper, path, trash.fd, clamp);
  return {
    path,
    transaction: 'exact',
    exactReasons: [`it extends ${base.manifest.id}`],
    warnings,
    linked: [],
    epoch,
    bytes: base.manifest.bytes + bytes,
    ownBytes: bytes,
  };
}

function findInstalledRpm(tree: string): string | undefined {
  using root = closing(openSync(tree, constants.O_RDONLY | constants.O_DIRECTORY));
  return RPM_PATHS.find((path) => existsInTree(root.fd, path));
}
