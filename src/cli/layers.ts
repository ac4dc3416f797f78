/** Opens the layers of kept sandboxes and of snapshots, for commands and for calls of the API. */

import {
  type ByteString,
  fromText,
  quoteName,
  reportName,
  toBytes,
} from '../artifacts/byte-string.ts';
import type { WithRights } from '../artifacts/destination.ts';
import { defined } from '../defined.ts';
import type { Engine, OwnEngine } from '../engine.ts';
import { isKilnCode, KilnError } from '../errors.ts';
import { currentAction } from '../events/action.ts';
import { closeDescriptor } from '../host/calls/descriptor.ts';
import { CONFINED_IDS } from '../host/confine/launch.ts';
import { isWithin } from '../host/files/user-file.ts';
import { actingAs } from '../host/process/user-namespace.ts';
import { findSnapshot, type Snapshot } from '../image/store/snapshots.ts';
import type { Stack } from '../image/tree/merged.ts';
import { type Applied, applyChanges } from '../jobs/changes/apply.ts';
import { discardChanges } from '../jobs/changes/discard.ts';
import type { Change, Changes } from '../jobs/changes/entry.ts';
import {
  type Comparison,
  changesBetween,
  changesIn,
  type Layer,
  openLayer,
  openParts,
  type StackRequest,
} from '../jobs/changes/layer.ts';
import { Ours } from '../jobs/changes/ours.ts';
import type { Sides } from '../jobs/changes/patch.ts';
import type {
  LayeredFolder,
  ListedSandbox,
  SandboxRecord,
} from '../sandbox/domain/sandbox-record.ts';
import { connectHolder } from '../sandbox/door/holder.ts';
import { type LayeredSandbox, visitLayers } from '../sandbox/door/visit.ts';
import type { OptionCaller } from './caller/caller.ts';
import { type EnteredSandbox, sandboxOf, whileKept } from './shell.ts';

/** Who asks, and what about. */
export interface StackQuestion {
  readonly engine: OwnEngine;
  readonly caller: OptionCaller;
  /** A sandbox. */
  readonly word: string;
  /** Paths at the target; all if there are none. */
  readonly words: readonly string[];
  readonly signal: AbortSignal;
}

export interface LayerRequest extends StackQuestion {
  readonly target: string;
}

/** A layer that can be looked at. */
interface View {
  /** The caller's folder, where it is about one. */
  readonly folder: string | undefined;
  readonly sides: Sides;
  readonly find: () => Promise<Changes>;
}

export interface Viewed extends View {
  /** Fifos, sockets and devices of a machine, which are not found. */
  readonly leftOut?: number;
  /** What it is about, for JSON. */
  readonly about: object;
}

interface Opened extends Viewed {
  readonly layer: Layer;
  readonly record: SandboxRecord;
  readonly sandbox: LayeredSandbox;
  readonly only: readonly ByteString[];
  readonly rights: WithRights;
  readonly ours: Ours;
}

/** In a sandbox that somebody holds, commands may run meanwhile; nobody enters one that is only kept. */
async function inLayer<Result>(
  request: LayerRequest,
  act: (opened: Opened) => Promise<Result>,
  find = sandboxOf,
): Promise<Result> {
  const { engine, word } = request;
  const found = await find(engine, word);
  const { id, folder, state } = found;
  const connect = () => connectHolder(folder);
  const holder = state === 'running' ? connect() : undefined;
  if (holder !== undefined) {
    closeDescriptor(holder);
    return await withLayer(request, found, await visitLayers(id, connect), act);
  }
  const look = ({ sandbox }: EnteredSandbox) => withLayer(request, found, sandbox, act);
  return await whileKept(engine, id, look);
}

/** Of a word that no snapshot has. @throws KilnError E_NO_SANDBOX, which names both */
async function sandboxOrNeither(engine: Engine, word: string): Promise<ListedSandbox> {
  try {
    return await sandboxOf(engine, word);
  } catch (cause) {
    if (!isKilnCode(cause, 'E_NO_SANDBOX')) throw cause;
    throw new KilnError('E_NO_SANDBOX', `there is no sandbox and no snapshot ${word || '""'}`, {
      hint: '`kiln ps` lists sandboxes, `kiln snapshot ls` snapshots',
      cause,
    });
  }
}

async function withLayer<Result>(
  { engine, caller, target, words, signal }: LayerRequest,
  { id, record, folder }: ListedSandbox,
  sandbox: LayeredSandbox,
  act: (opened: Opened) => Promise<Result>,
): Promise<Result> {
  currentAction()?.found({ sandbox: id });
  const only = words.map((path) => pathIn(target, path));
  const { user, paths } = caller;
  const rights: WithRights = user === undefined ? (run) => run() : (run) => actingAs(user, run);
  const place = (path: string) => paths.place(path);
  const { created } = record;
  const how = { place, rights, paths: engine.paths, created, signal };
  await using layer = await openLayer(sandbox, target, how);
  const about = { sandbox: id, target };
  using ours = new Ours(folder, layer.folder?.target ?? '/');
  const { leftOut } = layer;
  const opened = { sandbox, record, layer, only, rights, ours, leftOut };
  const { folder: bound } = layer;
  const range = sandbox.idRange;
  if (bound !== undefined) {
    const find = () => changesIn(sandbox, bound, layer, only, signal);
    const before = { folder: layer.lower, rights: layer.rights };
    const sides = { before, after: [layer.upper], range };
    return await act({ folder: bound.source, sides, find, about, ...opened });
  }
  await using now = await openParts(engine, withTop(record, layer), range);
  const between = { sandbox, range, only, signal };
  return await act({ ...compared(now.parts, now.parts.slice(1), between), about, ...opened });
}

/**
 * What a kept sandbox has changed at the target, or what a snapshot has.
 * @throws KilnError E_NO_SANDBOX, E_ARGUMENT, E_CHANGES, and what opening the layer throws
 */
export async function viewChanges<Result>(
  request: LayerRequest,
  act: (viewed: Viewed) => Promise<Result>,
): Promise<Result> {
  const { engine, word, target, words, signal } = request;
  const snapshot = await snapshotCalled(engine, word);
  if (snapshot === undefined) return await inLayer(request, act, sandboxOrNeither);
  if (target !== '/') {
    throw new KilnError('E_ARGUMENT', `a snapshot is of a root, and not of ${target}`, {
      hint: 'write / before paths: `kiln diff SNAPSHOT / PATH`',
    });
  }
  const only = words.map((path) => pathIn('/', path));
  await using now = await openParts(engine, stackOf(snapshot), CONFINED_IDS);
  const about = { snapshot: snapshot.id, target };
  const how = { sandbox: undefined, range: CONFINED_IDS, only, signal };
  return await act({ ...compared(now.parts, now.parts.slice(1), how), about });
}

/** What a stack shows that the other one does not. */
function compared(now: Stack, before: Stack, how: Comparison): View {
  return {
    folder: undefined,
    find: () => changesBetween(now, before, how),
    sides: { before, after: now, range: how.range },
  };
}

function withTop({ image = '', layers = [] }: SandboxRecord, { upper }: Layer): StackRequest {
  return { image, layers, top: upper };
}

/**
 * What the root of a kept sandbox, or a snapshot, has other than the snapshot `other`.
 * @throws KilnError E_NO_SNAPSHOT, E_NO_SANDBOX, E_ARGUMENT, E_CHANGES
 */
export async function viewDifference<Result>(
  request: StackQuestion,
  other: string,
  act: (viewed: Viewed) => Promise<Result>,
): Promise<Result> {
  const { engine, word, words, signal } = request;
  const against = await findSnapshot(engine.paths, engine.owner, other);
  const only = words.map((path) => pathIn('/', path));
  const compare = async (
    now: StackRequest,
    about: object,
    { sandbox, leftOut = 0 }: Partial<Opened> = {},
  ): Promise<Result> => {
    if (now.image !== against.record.image) {
      throw new KilnError('E_ARGUMENT', `${word} and ${other} do not stand on the same image`, {
        hint: 'compare what stands on one image; `kiln snapshot ls` shows which that is',
      });
    }
    const range = sandbox?.idRange ?? CONFINED_IDS;
    await using mine = await openParts(engine, now, range);
    await using theirs = await openParts(engine, stackOf(against), range);
    const how = { sandbox, range, only, signal };
    const view = compared(mine.parts, theirs.parts, how);
    return await act({ ...view, about: { ...about, against: against.id }, leftOut });
  };
  const snapshot = await snapshotCalled(engine, word);
  if (snapshot !== undefined) return await compare(stackOf(snapshot), { snapshot: snapshot.id });
  const inRoot = { ...request, target: '/' };
  const look = async (opened: Opened) =>
    await compare(withTop(opened.record, opened.layer), opened.about, opened);
  return await inLayer(inRoot, look, sandboxOrNeither);
}

function stackOf({ id, record }: Snapshot): StackRequest {
  return { image: record.image, layers: [...record.layers, id] };
}

export async function snapshotCalled(
  { paths, owner }: OwnEngine,
  word: string,
): Promise<Snapshot | undefined> {
  try {
    return await findSnapshot(paths, owner, word);
  } catch (error) {
    if (!isKilnCode(error, 'E_NO_SNAPSHOT')) throw error;
    return undefined;
  }
}

export interface AppliedTo extends Applied {
  /** The folder that they are in. */
  readonly source: string;
}

/**
 * Writes changes into the folder that is bound at the target.
 * @param force writes also what has changed there since the sandbox began
 * @throws KilnError E_NO_SANDBOX, E_ARGUMENT, E_CHANGES, and what opening the layer throws
 */
export async function applyLayer(request: LayerRequest, force: boolean): Promise<AppliedTo> {
  const { target, caller, signal } = request;
  return await inLayer(request, async ({ sandbox, layer, only, find, rights, ours }) => {
    const { source } = folderOf(layer, 'written back');
    const { changes, truncated } = await find();
    if (truncated) {
      throw new KilnError('E_CHANGES', `more than ${changes.length} changes at ${target}`, {
        hint: 'name some of them: `kiln apply ID TARGET PATH`',
      });
    }
    for (const each of only) {
      if (changes.some(({ path, isAbove }) => !isAbove && isWithin(path, each))) continue;
      throw new KilnError('E_ARGUMENT', `nothing has changed at ${shown(each)} of ${target}`, {
        hint: '`kiln diff ID TARGET` shows what has',
      });
    }
    const isNamed = (path: ByteString) =>
      only.some((each) => {
        const isPart = sandbox.protectedPaths.some((one) => isWithin(each, fromText(one)));
        return each === path || (isPart && isWithin(path, each));
      });
    const { done, left } = await applyChanges({
      ...{ ...layer, rights, changes, force, ours, isNamed, signal },
      owner: caller.user === undefined ? caller.ids : undefined,
    });
    return { source, done, left };
  });
}

/** Empties the layer at the target, and ends what runs in the sandbox. @throws as {@link applyLayer} */
export async function discardLayer(request: LayerRequest): Promise<void> {
  const { engine, word } = request;
  const found = await sandboxOf(engine, word);
  if (found.record.machine !== undefined) {
    throw new KilnError('E_MACHINE', `${found.id} is a machine, whose own kernel has its layers`, {
      hint: 'have a command in it undo its changes, or run it again',
    });
  }
  const discard = async ({ sandbox }: EnteredSandbox) =>
    await withLayer(request, found, sandbox, async ({ layer, ours }) => {
      const { target } = folderOf(layer, 'discarded');
      await discardChanges(sandbox, target, layer);
      ours.forget();
    });
  await whileKept(engine, found.id, discard);
}

function folderOf({ folder }: Layer, done: string): LayeredFolder {
  if (folder !== undefined) return folder;
  throw new KilnError('E_ARGUMENT', `the root of a sandbox cannot be ${done}`, {
    hint: 'name the TARGET of a folder that is bound with cow',
  });
}

/** As it lies below the target, whose own path may stand before it. @throws KilnError E_ARGUMENT */
function pathIn(target: string, word: string): ByteString {
  const top = `${target.replace(/\/+$/, '')}/`;
  const below = word.startsWith(top) ? word.slice(top.length) : word;
  const parts = below.split('/').filter((part) => part !== '' && part !== '.');
  if (below.startsWith('/') || parts.length === 0 || parts.includes('..')) {
    throw new KilnError('E_ARGUMENT', `${word} is no path below ${target}`, {
      hint: 'write it as `kiln diff` shows it',
    });
  }
  return fromText(parts.join('/'));
}

/** A name that is not plain stands in quotes: each change is one line. */
export function shown(path: ByteString): string {
  const { text, bytes } = reportName(path);
  return bytes === undefined && /^[^\s"\\\p{C}][^"\\\p{C}]*$/u.test(text) ? text : quoteName(path);
}

export function pathJson(path: ByteString) {
  const { text, bytes } = reportName(path);
  return { path: text, ...defined({ pathBytes: bytes }) };
}

export function changeJson({ path, change, kind, was, size, mode, target, isProtected }: Change) {
  return {
    ...{ ...pathJson(path), change, kind, ...defined({ was }) },
    ...{ size, mode: (mode & 0o7777).toString(8).padStart(4, '0') },
    ...(target === undefined ? {} : { linkTo: toBytes(target).toString('utf8') }),
    ...(isProtected ? { protected: true } : {}),
  };
}
