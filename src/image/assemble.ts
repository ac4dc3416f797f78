import { closeSync, constants, futimesSync, mkdirSync, openSync, renameSync } from 'node:fs';
import { join } from 'node:path';
import { KilnError } from '../errors.ts';
import { closing } from '../host/calls/descriptor.ts';
import { hasErrno } from '../host/calls/libc.ts';
import { unlinkat } from '../host/files/at.ts';
import { span } from '../host/trace/trace.ts';
import { encodeName } from '../packages/rpm/filename.ts';
import type { ScriptletPolicy } from '../recipe/load-image-recipe.ts';
import type { Engine } from '../sandbox/open.ts';
import type { OnImageProgress } from './progress.ts';
import type { StoredPackage } from './store/entry.ts';
import type { TransactionKind } from './store/manifest.ts';
import { reasonsForExact } from './transaction/choose.ts';
import { installIntoEmptyRoot, rpmMissing } from './transaction/exact.ts';
import { findRpm, runFastTransaction } from './transaction/fast.ts';
import { TransactionSandbox } from './transaction/transaction-sandbox.ts';
import { restoreCapabilities, settleOwners } from './tree/accounts.ts';
import { type Composition, composeTree, packagedTime } from './tree/compose.ts';
import { type ClampTimes, cleanUpperTree, mergeOverlay } from './tree/merge-overlay.ts';
import { openInTree } from './tree/path.ts';
import { TreePlan } from './tree/plan.ts';

/** How many file conflicts a message lists. */
const SHOWN_PROBLEMS = 20;

/** What making any tree needs. */
export interface TreeOptions {
  readonly engine: Engine;
  readonly scriptlets: ScriptletPolicy;
  /** Gets the package files in the same order; only rpm itself needs them. */
  readonly fetchFiles: () => Promise<readonly string[]>;
  /** A folder on the store's file system for unfinished files. */
  readonly work: string;
  readonly onProgress?: OnImageProgress | undefined;
  readonly signal?: AbortSignal | undefined;
}

/** A tree to be made of packages. */
export interface AssembleOptions extends TreeOptions {
  /** In installation order. */
  readonly packages: readonly StoredPackage[];
}

export interface AssembledTree {
  readonly path: string;
  readonly transaction: TransactionKind;
  readonly exactReasons: readonly string[];
  readonly warnings: readonly string[];
  /** Digests of the packages whose store inodes the tree links to. */
  readonly linked: readonly string[];
  /** The image's time: when its newest package was built, seconds since 1970. */
  readonly epoch: number;
  /** Bytes of all files, and of files that are not links into the package store. */
  readonly bytes: number;
  readonly ownBytes: number;
}

/**
 * Makes the tree that rpm would make of these packages in an empty root.
 * @throws KilnError E_FILE_CONFLICT, E_SCRIPTLET, E_RPM_MISSING, E_DISK.
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
  /** The folder with the tree of all payloads. */
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
  };
}

async function fast({ options, plan, composed, composition }: Parts): Promise<AssembledTree> {
  const { engine, packages, scriptlets, signal, onProgress } = options;
  const work = subdirectory(options.work, 'transaction');
  const clamp = clampTimes(newest(packages));
  const trash = openSync(subdirectory(options.work, 'displaced'), constants.O_DIRECTORY);
  using _trash = closing(trash);
  const { upper, warnings } = await runFastTransaction({
    engine,
    tree: composed,
    plan,
    work,
    packages,
    deferred: composition.deferred,
    timeout: scriptlets.timeout,
    disk: scriptlets.disk,
    signal,
    onStep: (label) => onProgress?.({ kind: 'script', label }),
  });
  removeMountPoints(upper, (name) => plan.find(`/${name}`) !== undefined);
  const merge = mergeOverlay(upper, composed, trash, clamp);
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
  };
}

async function exact(
  { options, plan, composed }: Parts,
  reasons: readonly string[],
): Promise<AssembledTree> {
  const { engine, packages, scriptlets, signal, onProgress } = options;
  const rpm = findRpm(plan);
  if (rpm === undefined) throw rpmMissing(reasons);
  onProgress?.({ kind: 'exact', reasons });
  const work = subdirectory(options.work, 'transaction');
  const clamp = clampTimes(newest(packages));
  const { root, warnings } = await installIntoEmptyRoot({
    engine,
    tree: composed,
    rpm,
    work,
    packages: await options.fetchFiles(),
    hasDev: plan.find('/dev') !== undefined,
    // rpm has no time limit for a single script.
    timeout: scriptlets.timeout * (packages.length + 1),
    disk: scriptlets.disk,
    signal,
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
    epoch: newest(packages),
    bytes,
    ownBytes: bytes,
  };
}

/** Files of packages keep the package's time; files made by scripts get the time of the newest package. */
export function clampTimes(epoch: number): ClampTimes {
  const second = 1_000_000_000n;
  // Some file systems round times to a tick: allow a second.
  return { after: (BigInt(Date.now()) / 1000n - 1n) * second, to: BigInt(epoch) * second };
}

function newest(packages: readonly StoredPackage[]): number {
  return packages.reduce((time, stored) => Math.max(time, stored.package.buildTime ?? 0), 0);
}

/** Sets the times of directories whose entries changed to the times in their packages. */
function setDirectoryTimes(plan: TreePlan, tree: string, changed: ReadonlySet<string>): void {
  const root = openSync(tree, constants.O_RDONLY | constants.O_DIRECTORY);
  using _root = closing(root);
  for (const planned of plan.directories()) {
    const time = packagedTime(planned);
    if (time === null || !changed.has(planned.path)) continue;
    const path = encodeName(planned.path);
    const fd = openInTree(root, path, constants.O_RDONLY | constants.O_DIRECTORY);
    if (fd === undefined) continue;
    try {
      futimesSync(fd, time, time);
    } finally {
      closeSync(fd);
    }
  }
}

/** Removes mount points that only the sandbox needed: if the tree lacks them, they are no part of the image. */
export function removeMountPoints(upper: string, exists: (name: string) => boolean): void {
  const root = openSync(upper, constants.O_RDONLY | constants.O_DIRECTORY | constants.O_NOFOLLOW);
  using _root = closing(root);
  for (const name of ['proc', 'dev']) {
    if (exists(name)) continue;
    try {
      unlinkat(root, name, { directory: true });
    } catch (error) {
      if (!hasErrno(error, 'ENOENT', 'ENOTEMPTY', 'ENOTDIR')) throw error;
    }
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
