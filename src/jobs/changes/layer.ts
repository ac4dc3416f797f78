/** The layers of a kept sandbox: its root's, and those of the caller's folders that are bound with `cow`. */
import { fstatSync } from 'node:fs';
import { resolve } from 'node:path';
import type { WithRights } from '../../artifacts/destination.ts';
import { type ByteString, fromText } from '../../artifacts/pattern.ts';
import { defined } from '../../defined.ts';
import type { Engine } from '../../engine.ts';
import { isKilnCode, KilnError } from '../../errors.ts';
import { closing } from '../../host/calls/descriptor.ts';
import { AT_FDCWD, openDirectory } from '../../host/files/at.ts';
import type { HeldPath } from '../../host/files/held.ts';
import { openFolder } from '../../host/files/held.ts';
import { leaseSnapshot, type Snapshot } from '../../image/store/snapshots.ts';
import type { LayeredFolder } from '../../sandbox/domain/sandbox-record.ts';
import type { PlannedSandbox } from '../../sandbox/door/planned-sandbox.ts';
import { leaseStack } from '../../snapshot/stack.ts';
import { openStack } from '../../snapshot/view.ts';
import { compareStacks, type Part, type Stack } from './compare.ts';
import { type Changes, readChanges } from './walk.ts';

export interface Layer {
  /** A folder of the caller's; undefined for the root. */
  readonly folder: LayeredFolder | undefined;
  /** In it lie `upper` and what overlayfs works with. */
  readonly home: number;
  readonly upper: number;
  /** What is below: the caller's folder, or the image. */
  readonly lower: number;
  /** To whoever the lower folder belongs. */
  readonly rights: WithRights;
  /** When the sandbox began to see the folder below, by the clock that files have (ctime), ns. */
  readonly since: bigint;
}

export interface LayerOptions {
  readonly image: string | undefined;
  /** Snapshots that the root stands on, above the image. */
  readonly layers?: readonly string[] | undefined;
  /** Opens a folder of the caller's. @throws KilnError E_BIND, E_CALLER_FILE */
  readonly place: (path: string) => Promise<HeldPath>;
  readonly rights: WithRights;
}

/** @throws KilnError E_ARGUMENT, E_CHANGES, E_SANDBOX_GONE, E_IMAGE_MISSING, and what opening the folder throws */
export async function openLayer(
  engine: Engine,
  sandbox: PlannedSandbox,
  target: string,
  options: LayerOptions,
): Promise<Layer & AsyncDisposable> {
  await using stack = new AsyncDisposableStack();
  const folder = target === '/' ? undefined : folderAt(sandbox, target);
  const home = stack.use(closing(await sandbox.layers.open(folder?.target ?? '/'))).fd;
  const upper = stack.use(closing(openDirectory(home, 'upper'))).fd;
  const { rights } = options;
  const lower =
    folder === undefined
      ? await openBelow(engine, options, stack)
      : stack.use(closing(await openCallers(folder, options))).fd;
  const since = fstatSync(home, { bigint: true }).mtimeNs;
  const layer = { folder, home, upper, lower, since };
  const all = stack.move();
  return {
    ...layer,
    rights: folder === undefined ? (act) => act() : rights,
    [Symbol.asyncDispose]: () => all.disposeAsync(),
  };
}

function folderAt({ id, layers: { folders } }: PlannedSandbox, target: string): LayeredFolder {
  const found = folders.find((folder) => resolve(folder.target) === resolve('/', target));
  if (found !== undefined) return found;
  const all = folders.map((folder) => folder.target).join(', ');
  throw new KilnError('E_ARGUMENT', `sandbox ${id} has no folder bound with cow at ${target}`, {
    hint:
      all === ''
        ? 'bind one: `kiln run --keep --bind .:/src:cow`; without a TARGET, `kiln diff` is about the root'
        : `it has: ${all}`,
  });
}

/** By its name, as it was bound, and the same folder still. */
async function openCallers(
  { source, device, inode }: LayeredFolder,
  { place, rights }: LayerOptions,
): Promise<number> {
  const held = await place(source);
  const fd = rights(() => openFolder(held));
  const { dev, ino } = fstatSync(fd, { bigint: true });
  if (`${dev}` === device && `${ino}` === inode) return fd;
  using _ = closing(fd);
  throw new KilnError('E_CHANGES', `${source} is another folder than the sandbox was given`, {
    hint: 'move the folder back to where it was when the sandbox began',
  });
}

async function openBelow(
  { paths }: Engine,
  { image = '', layers = [] }: Pick<LayerOptions, 'image' | 'layers'>,
  stack: AsyncDisposableStack,
): Promise<number> {
  const below = stack.use(await leaseStack(paths, image, layers));
  return stack.use(closing(openStack(below, below.layers))).fd;
}

/** A snapshot and what it stands on. @throws KilnError E_NO_SNAPSHOT, E_IMAGE_MISSING, E_SNAPSHOT */
export async function openSnapshotLayer(
  engine: Engine,
  { id, record }: Snapshot,
): Promise<Layer & AsyncDisposable> {
  await using stack = new AsyncDisposableStack();
  const { tree } = stack.use(await leaseSnapshot(engine.paths, id));
  const upper = stack.use(closing(openDirectory(AT_FDCWD, tree))).fd;
  const lower = await openBelow(engine, record, stack);
  const all = stack.move();
  return {
    ...{ folder: undefined, home: upper, upper, lower, since: 0n },
    rights: (act) => act(),
    [Symbol.asyncDispose]: () => all.disposeAsync(),
  };
}

/** The most changes that are told of at once. */
const MOST = 100_000;

/** @param sandbox none of a snapshot @throws KilnError E_CHANGES, the signal's reason */
export async function changesOf(
  sandbox: PlannedSandbox | undefined,
  { folder, upper, lower, rights }: Layer,
  only: readonly ByteString[],
  signal?: AbortSignal,
): Promise<Changes> {
  const top = folder === undefined ? '/' : `${resolve(folder.target)}/`;
  const below = (path: string) =>
    path.startsWith(top) && path.length > top.length ? [fromText(path.slice(top.length))] : [];
  const request = {
    ...{ upper, lower, rights, only, signal, most: MOST },
    mounts: sandbox?.facts.mounts.flatMap(({ path }) => below(path)) ?? [],
    protectedPaths: folder === undefined ? [] : (sandbox?.protectedPaths.map(fromText) ?? []),
    // In a snapshot, files have the owners that they have in images.
    ...defined({ base: folder === undefined ? (sandbox?.facts.uidMap[1] ?? 0) : undefined }),
  };
  return await notTooMuch(top, () => readChanges(request));
}

export interface StackRequest {
  readonly image: string;
  /** Snapshots, the lowest first. */
  readonly layers: readonly string[];
  /** What is above them: the upper folder of a sandbox. */
  readonly top?: Part;
}

/** @throws KilnError E_NO_SNAPSHOT, E_IMAGE_MISSING */
export async function openParts(
  { paths }: Engine,
  { image, layers, top }: StackRequest,
): Promise<{ readonly parts: Stack } & AsyncDisposable> {
  await using stack = new AsyncDisposableStack();
  const leased = stack.use(await leaseStack(paths, image, layers));
  const trees = [...leased.layers.map(({ tree }) => tree).reverse(), leased.tree];
  const below = trees.map((tree) => {
    return { fd: stack.use(closing(openDirectory(AT_FDCWD, tree))).fd, base: 0 };
  });
  const all = stack.move();
  const parts = top === undefined ? below : [top, ...below];
  return { parts, [Symbol.asyncDispose]: () => all.disposeAsync() };
}

/** What has changed between two stacks. @throws KilnError E_CHANGES, the signal's reason */
export async function changesBetween(
  now: Stack,
  before: Stack,
  {
    sandbox,
    only,
    signal,
  }: {
    readonly sandbox: PlannedSandbox | undefined;
    readonly only: readonly ByteString[];
    readonly signal?: AbortSignal;
  },
): Promise<Changes> {
  const mounts = sandbox?.facts.mounts.map(({ path }) => fromText(path.slice(1))) ?? [];
  return await notTooMuch('/', () =>
    compareStacks({ now, before, only, mounts, signal, most: MOST }),
  );
}

async function notTooMuch(top: string, look: () => Promise<Changes>): Promise<Changes> {
  try {
    return await look();
  } catch (cause) {
    if (!isKilnCode(cause, 'E_ARTIFACT_LIMIT')) throw cause;
    throw new KilnError('E_CHANGES', `what was written at ${top} is too much to look at`, {
      hint: 'name a path in it: `kiln diff ID TARGET PATH`',
      cause,
    });
  }
}
