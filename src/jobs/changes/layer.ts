/** The layers of a sandbox: its root's, and those of the caller's folders that are bound with `cow`. */
import { fstatSync } from 'node:fs';
import { resolve } from 'node:path';
import { z } from 'zod';
import { type ByteString, fromText } from '../../artifacts/byte-string.ts';
import type { WithRights } from '../../artifacts/destination.ts';
import type { Engine } from '../../engine.ts';
import { isKilnCode, KilnError } from '../../errors.ts';
import { closing } from '../../host/calls/descriptor.ts';
import { openDirectory } from '../../host/files/at.ts';
import type { HeldPath } from '../../host/files/held.ts';
import { openFolder } from '../../host/files/held.ts';
import { beginStage, noteDone } from '../../host/process/work.ts';
import type { StatePaths } from '../../host/state/paths.ts';
import type { IdRange } from '../../host/state/reservation.ts';
import type { Stack } from '../../image/tree/merged.ts';
import type { LayeredFolder } from '../../sandbox/domain/sandbox-record.ts';
import type { LayeredSandbox } from '../../sandbox/door/visit.ts';
import { layerFolder, mappedMount } from '../../snapshot/folder.ts';
import { leaseStack } from '../../snapshot/stack.ts';
import type { Change, Changes } from './entry.ts';
import { readLayers } from './read-layers.ts';
import { changeSchema } from './told.ts';
import { readChanges } from './walk.ts';

export interface Layer {
  /** A folder of the caller's; undefined for the root. */
  readonly folder: LayeredFolder | undefined;
  /** In it lie `upper` and what overlayfs works with. */
  readonly home: number;
  readonly upper: number;
  /** The caller's folder; of the root none. */
  readonly lower: number;
  /** To whoever the lower folder belongs. */
  readonly rights: WithRights;
  /** When the sandbox began to see the folder below, by the clock that files have (ctime), ns. */
  readonly since: bigint;
  /** Fifos, sockets and devices that are not in `upper`, since a machine sends none. */
  readonly leftOut: number;
}

export interface LayerOptions {
  /** Opens a folder of the caller's. @throws KilnError E_BIND, E_CALLER_FILE */
  readonly place: (path: string) => Promise<HeldPath>;
  readonly rights: WithRights;
  readonly paths: StatePaths;
  /** When the sandbox was made, ms. */
  readonly created: number;
  readonly signal?: AbortSignal | undefined;
}

/** @throws KilnError E_ARGUMENT, E_CHANGES, E_SANDBOX_GONE, and what opening the folder throws */
export async function openLayer(
  sandbox: LayeredSandbox,
  target: string,
  options: LayerOptions,
): Promise<Layer & AsyncDisposable> {
  await using stack = new AsyncDisposableStack();
  const folder = target === '/' ? undefined : folderAt(sandbox, target);
  const { rights, paths, created, signal } = options;
  const opened = await sandbox.layers.open(folder?.target ?? '/');
  const isCopy = !fstatSync(opened).isDirectory();
  const range = sandbox.idRange;
  const { fd: home, leftOut } = stack.use(await layerFolder(opened, { paths, range, signal }));
  const upper = stack.use(closing(openDirectory(home, 'upper'))).fd;
  const lower =
    folder === undefined ? -1 : stack.use(closing(await openCallers(folder, options))).fd;
  // A machine has a clock of its own.
  const since = isCopy ? BigInt(created) * 1_000_000n : fstatSync(home, { bigint: true }).mtimeNs;
  const layer = { folder, home, upper, lower, since, leftOut };
  const all = stack.move();
  return {
    ...layer,
    rights: folder === undefined ? (act) => act() : rights,
    [Symbol.asyncDispose]: () => all.disposeAsync(),
  };
}

function folderAt({ id, layers: { folders } }: LayeredSandbox, target: string): LayeredFolder {
  const found = folders.find((folder) => resolve(folder.target) === resolve('/', target));
  if (found !== undefined) return found;
  const all = folders.map((folder) => folder.target).join(', ');
  throw new KilnError('E_ARGUMENT', `sandbox ${id} has no folder bound with cow at ${target}`, {
    hint: `${all === '' ? 'bind one: `kiln run --keep --bind .:/src:cow`' : `it has: ${all}`}; \`kiln diff ID / PATH\` is about the root, and \`kiln snapshot ls\` lists what it can be compared with`,
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

/** The most changes that are told of at once. */
const MOST = 100_000;

/** @throws KilnError E_CHANGES, the signal's reason */
export async function changesIn(
  sandbox: LayeredSandbox,
  folder: LayeredFolder,
  { upper, lower, rights }: Layer,
  only: readonly ByteString[],
  signal?: AbortSignal,
): Promise<Changes> {
  const top = `${resolve(folder.target)}/`;
  const below = (path: string) =>
    path.startsWith(top) && path.length > top.length ? [fromText(path.slice(top.length))] : [];
  const request = {
    ...{ upper, lower, rights, only, signal, most: MOST, range: sandbox.idRange },
    mounts: sandbox.facts.mounts.flatMap(({ path }) => below(path)),
    protectedPaths: sandbox.protectedPaths.map(fromText),
  };
  return await notTooMuch(top, () => readChanges(request));
}

export interface StackRequest {
  readonly image: string;
  /** Snapshots, the lowest first. */
  readonly layers: readonly string[];
  /** What is above them: the upper folder of a sandbox. */
  readonly top?: number;
}

/**
 * @param range the ids to whom files belong in it, as this host numbers them: the sandbox's, if there is one
 * @throws KilnError E_NO_SNAPSHOT, E_IMAGE_MISSING
 */
export async function openParts(
  { paths }: Engine,
  { image, layers, top }: StackRequest,
  range: IdRange,
): Promise<{ readonly parts: Stack } & AsyncDisposable> {
  await using stack = new AsyncDisposableStack();
  const leased = stack.use(await leaseStack(paths, image, layers));
  const trees = [...leased.layers.map(({ tree }) => tree).reverse(), leased.tree];
  const below = trees.map((tree) => stack.use(closing(mappedMount(tree, range))).fd);
  const all = stack.move();
  const parts = top === undefined ? below : [top, ...below];
  return { parts, [Symbol.asyncDispose]: () => all.disposeAsync() };
}

/** What has changed, or that there is more. */
const messageSchema = z.union([changeSchema.array(), z.literal('more')]);

const OF_ROOT = { isProtected: false, isCopy: false, isAbove: false };

export interface Comparison {
  readonly sandbox: LayeredSandbox | undefined;
  readonly range: IdRange;
  readonly only: readonly ByteString[];
  readonly signal?: AbortSignal;
}

/** What has changed between two stacks. @throws KilnError E_CHANGES, the signal's reason */
export async function changesBetween(
  now: Stack,
  before: Stack,
  { sandbox, range, only, signal }: Comparison,
): Promise<Changes> {
  const mounts = sandbox?.facts.mounts.map(({ path }) => fromText(path.slice(1))) ?? [];
  const changes: Change[] = [];
  let truncated = false;
  return await notTooMuch('/', async () => {
    const told = readLayers({
      ...{ words: ['compare', now.length, before.length, MOST], only, mounts },
      ...{ fds: [...now, ...before], range, signal },
      validate: (value) => messageSchema.parse(value),
    });
    for await (const some of told) {
      if (some === 'more' || changes.length > MOST) truncated = true;
      else for (const change of some) changes.push({ ...change, ...OF_ROOT });
      noteDone(changes.length);
    }
    return { changes: changes.sort((a, b) => (a.path < b.path ? -1 : 1)), truncated };
  });
}

async function notTooMuch(top: string, look: () => Promise<Changes>): Promise<Changes> {
  beginStage('looking for changes');
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
