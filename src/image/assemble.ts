import { closeSync, constants, futimesSync, mkdirSync, openSync, renameSync } from 'node:fs';
import { join } from 'node:path';
import { KilnError } from '../errors.ts';
import { unlinkat } from '../kernel/at.ts';
import { hasErrno } from '../kernel/libc.ts';
import type { ScriptletPolicy } from '../recipe/load-image-recipe.ts';
import { encodeName } from '../rpm/filename.ts';
import { type Engine, ReservedBox } from '../sandbox/open.ts';
import { span } from '../trace/trace.ts';
import type { OnImageProgress } from './progress.ts';
import type { StoredPackage } from './store/entry.ts';
import type { TransactionKind } from './store/manifest.ts';
import { TransactionBox } from './transaction/box.ts';
import { reasonsForExact } from './transaction/choose.ts';
import { EarlyDatabase } from './transaction/early-database.ts';
import { installIntoEmptyRoot, rpmMissing } from './transaction/exact.ts';
import { findRpm, runFastTransaction } from './transaction/fast.ts';
import { type Composition, composeTree, packagedTime } from './tree/compose.ts';
import type { FolderFinisher } from './tree/folder-finisher.ts';
import { adoptFiles, type ClampTimes, cleanUpperTree, mergeOverlay } from './tree/merge-overlay.ts';
import { openInTree } from './tree/path.ts';
import { TreePlan } from './tree/plan.ts';
import { restoreCapabilities, settleOwners } from './tree/settle.ts';
import { Turns } from './tree/turns.ts';

/** File conflicts that a message lists. */
const SHOWN_PROBLEMS = 20;

/** What making a tree takes, whatever it is made of. */
export interface TreeOptions {
  readonly engine: Engine;
  readonly scriptlets: ScriptletPolicy;
  /** Gets the package files, in the same order: only rpm itself needs them. */
  readonly fetchFiles: () => Promise<readonly string[]>;
  /** A folder of the store's file system for what is half made. */
  readonly work: string;
  readonly onProgress?: OnImageProgress | undefined;
  readonly signal?: AbortSignal | undefined;
}

/** A tree of packages to make. */
export interface AssembleOptions extends TreeOptions {
  /** In installation order. */
  readonly packages: readonly StoredPackage[];
  /** The first box that is needed; without scriptlets none. It stays the caller's. */
  readonly reserved: ReservedBox | undefined;
  /** For the tree's folders; its thread ends when they are made. */
  readonly finisher: FolderFinisher;
}

/** A tree that is made. */
export interface AssembledTree {
  readonly path: string;
  readonly transaction: TransactionKind;
  readonly exactReasons: readonly string[];
  readonly warnings: readonly string[];
  /** Digests of the packages whose store inodes it has links to. */
  readonly linked: readonly string[];
  /** What is as old as the image: when its newest package was built, seconds since 1970. */
  readonly epoch: number;
  /** Bytes of all files, and of those that are not links to the package store. */
  readonly bytes: number;
  readonly ownBytes: number;
}

/**
 * Makes the tree that rpm would make of these packages in an empty root.
 * @throws KilnError E_FILE_CONFLICT, E_SCRIPTLET, E_RPM_MISSING, E_DISK.
 */
export async function assembleTree(options: AssembleOptions): Promise<AssembledTree> {
  using _ = span('assemble the tree');
  const { packages, scriptlets, work, finisher, onProgress } = options;
  // What is wrong with it shows when it is needed.
  if (scriptlets.mode !== 'none') TransactionBox.prepare(options.engine).catch(() => undefined);
  const early = { ...options, work: join(work, 'database'), disk: scriptlets.disk };
  await using database = scriptlets.mode === 'auto' ? EarlyDatabase.start(early) : undefined;
  await using more = new AsyncDisposableStack();
  const takeBox = () => (database ? more.use(new ReservedBox(options.engine)) : options.reserved);
  // rpm takes longer than all that is done meanwhile.
  await database?.begun;
  const plan = new TreePlan();
  const turns = new Turns();
  for (const { package: added } of packages) {
    plan.add(added);
    await turns.next();
  }
  if (plan.problems.length > 0) throw conflictError(plan.problems);
  const byPackage = new Map(packages.map((stored) => [stored.package, stored]));
  onProgress?.({ kind: 'compose', packages: packages.length });
  const composed = join(work, 'composed');
  const compose = () => composeTree(plan, composed, finisher, (of) => byPackage.get(of)!.tree);
  const parts = { options, plan, composed, compose, takeBox, database };
  if (scriptlets.mode === 'none') return await withoutScripts(parts);
  const reasons =
    scriptlets.mode === 'exact'
      ? ['the recipe asks for it']
      : reasonsForExact([...byPackage.keys()], plan);
  return reasons.length === 0 ? await fast(parts) : await exact(parts, reasons);
}

interface Parts {
  readonly options: AssembleOptions;
  readonly plan: TreePlan;
  /** Where the composed tree will be, and what makes it. */
  readonly composed: string;
  readonly compose: () => Promise<Composition>;
  /** Gives the box for the transaction, and has it started if that is another than the database's. */
  readonly takeBox: () => ReservedBox | undefined;
  readonly database: EarlyDatabase | undefined;
}

async function withoutScripts({ options, composed, compose }: Parts): Promise<AssembledTree> {
  const composition = await compose();
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

async function fast({
  options,
  plan,
  composed,
  compose,
  takeBox,
  database,
}: Parts): Promise<AssembledTree> {
  const { engine, packages, scriptlets, signal, onProgress } = options;
  const work = subdirectory(options.work, 'transaction');
  const clamp = clampTimes(newest(packages));
  const composition = await compose();
  // Not before: what it takes to start would keep rpm, or us, from a processor.
  const reserved = takeBox();
  const written = await database?.written();
  signal?.throwIfAborted();
  const trash = openSync(subdirectory(options.work, 'displaced'), constants.O_DIRECTORY);
  try {
    const isPlanned = (name: string) => plan.find(`/${name}`) !== undefined;
    if (written !== undefined) removeMountPoints(written.upper, isPlanned);
    const adopted = written && adoptFiles(written.upper, composed, trash, clamp);
    const { upper, warnings } = await runFastTransaction({
      engine,
      tree: composed,
      plan,
      work,
      reserved,
      packages,
      installed: adopted && written?.installed,
      deferred: composition.deferred,
      timeout: scriptlets.timeout,
      disk: scriptlets.disk,
      signal,
      onStep: (label) => onProgress?.({ kind: 'script', label }),
    });
    removeMountPoints(upper, isPlanned);
    const merge = mergeOverlay(upper, composed, trash, clamp);
    restoreCapabilities(composed, composition.deferred);
    setDirectoryTimes(plan, composed, merge.directories);
    const bytes = merge.bytes + (adopted?.bytes ?? 0);
    return {
      path: composed,
      transaction: 'fast',
      exactReasons: [],
      warnings: [...composition.warnings, ...warnings],
      linked: packages.map((stored) => stored.digest),
      epoch: newest(packages),
      bytes: composition.bytes + bytes,
      ownBytes: composition.copiedBytes + bytes,
    };
  } finally {
    closeSync(trash);
  }
}

async function exact(
  { options, plan, composed, compose, takeBox, database }: Parts,
  reasons: readonly string[],
): Promise<AssembledTree> {
  const { engine, packages, scriptlets, signal, onProgress } = options;
  const rpm = findRpm(plan);
  if (rpm === undefined) throw rpmMissing(reasons);
  // rpm writes another one.
  await database?.[Symbol.asyncDispose]();
  const reserved = takeBox();
  await compose();
  onProgress?.({ kind: 'exact', reasons });
  const work = subdirectory(options.work, 'transaction');
  const clamp = clampTimes(newest(packages));
  const { root, warnings } = await installIntoEmptyRoot({
    engine,
    tree: composed,
    rpm,
    work,
    reserved,
    packages: await options.fetchFiles(),
    hasDev: plan.find('/dev') !== undefined,
    // rpm cannot be told to watch each script.
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

/** What packages bring, they bring with its time; what scripts make is as old as the newest package. */
export function clampTimes(epoch: number): ClampTimes {
  const second = 1_000_000_000n;
  // Some file systems keep times by the tick: a second of room.
  return { after: (BigInt(Date.now()) / 1000n - 1n) * second, to: BigInt(epoch) * second };
}

function newest(packages: readonly StoredPackage[]): number {
  return packages.reduce((time, stored) => Math.max(time, stored.package.buildTime ?? 0), 0);
}

/** Making and removing entries changed the times of these directories: they get what their package says. */
function setDirectoryTimes(plan: TreePlan, tree: string, changed: ReadonlySet<string>): void {
  const root = openSync(tree, constants.O_RDONLY | constants.O_DIRECTORY);
  try {
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
  } finally {
    closeSync(root);
  }
}

/** A box needs these; where the tree below has none, they are no part of the image. */
export function removeMountPoints(upper: string, exists: (name: string) => boolean): void {
  const root = openSync(upper, constants.O_RDONLY | constants.O_DIRECTORY | constants.O_NOFOLLOW);
  try {
    for (const name of ['proc', 'dev']) {
      if (exists(name)) continue;
      try {
        unlinkat(root, name, { directory: true });
      } catch (error) {
        if (!hasErrno(error, 'ENOENT', 'ENOTEMPTY', 'ENOTDIR')) throw error;
      }
    }
  } finally {
    closeSync(root);
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
