/** Further sandboxes from what one has written, and the way back. */
import { setTimeout as sleep } from 'node:timers/promises';
import { counted } from '../counted.ts';
import type { OwnEngine } from '../engine.ts';
import { isKilnCode, KilnError } from '../errors.ts';
import { currentAction } from '../events/action.ts';
import { attempt } from '../host/calls/libc.ts';
import type { StatePaths } from '../host/state/paths.ts';
import {
  findSnapshot,
  listSnapshots,
  removeIdle,
  type Snapshot,
} from '../image/store/snapshots.ts';
import { flag } from '../options/kind.ts';
import { count } from '../options/numbers.ts';
import { row, type ValuesOf } from '../options/row.ts';
import { GROUND, keep, SANDBOX, SANDBOX_LIMITS } from '../options/sandbox.ts';
import { allEnds } from '../promise.ts';
import { commandsOf } from '../sandbox/domain/ending.ts';
import type { ListedSandbox } from '../sandbox/domain/sandbox-record.ts';
import { limitsOf } from '../sandbox/policy/limits.ts';
import { type ForkOptions, forkSnapshot } from '../snapshot/fork.ts';
import { rollBack } from '../snapshot/restore.ts';
import type { TakenSnapshot } from '../snapshot/take.ts';
import { forbiddenError } from '../users/configuration.ts';
import { type Caller, listenForInterruption, type OptionCaller } from './caller/caller.ts';
import { KilnCommand } from './options/command.ts';
import { printJson } from './output/print.ts';
import { withWork } from './output/progress.ts';
import { type EnteredSandbox, sandboxOf } from './shell.ts';
import { inKept, snapshotOf } from './snapshot.ts';

const EITHER = 'a snapshot, by its name or id, or the id of a kept sandbox';

/** Sandboxes of one call. */
const MOST_FORKS = 100;

/** How many are made at a time: libvirt starts four, and others get their files meanwhile. */
const AT_ONCE = 6;

const KEPT_MS = 3_600_000;

export const FORK = {
  number: row(count, 'open', {
    help: `make this many sandboxes, ${MOST_FORKS} at most; 1 by default`,
    short: 'n',
    term: 'count',
  }),
  keep: keep('keep each sandbox for this time, 1h by default'),
  ...SANDBOX_LIMITS,
  ...GROUND,
  onDisk: SANDBOX.onDisk,
  json: row(flag, 'open', { help: 'print one JSON object instead of a line for each id' }),
};

export function forkCommand(caller: Caller): KilnCommand {
  return new KilnCommand('fork')
    .description(
      'Make kept sandboxes that begin with the files of a snapshot, or of a kept sandbox as it is now. What one writes no other sees. Commands in them have the user, environment and folder of the first one; binds and networks do not come along.',
    )
    .argument('<origin>', EITHER)
    .rows(FORK)
    .examples(
      'kiln fork built -n 10 | xargs -P 10 -I {} kiln exec {} -- make check',
      'kiln exec "$(kiln fork 3fa9)" -- make check',
    )
    .action(async (word: string, options: ValuesOf<typeof FORK>) => {
      using interruption = listenForInterruption(caller);
      await using engine = caller.openEngine();
      const { signal } = interruption;
      const { json = false } = options;
      const say = (id: string) => void (json || caller.stdout.say(`${id}\n`));
      const taking: Making['taking'] = (take) => withWork(caller, take);
      const forked = await forksAsked(engine, word, options, caller, { signal, taking }, say);
      if (json) printJson(caller.stdout, forked);
    });
}

/**
 * Makes those that the options ask for, and before them a snapshot, if `word` means a sandbox. Those that are there
 * when it fails stay.
 * @throws KilnError E_ARGUMENT, E_FORBIDDEN, and what {@link withSnapshot} and {@link forkSnapshot} throw
 */
export async function forksAsked(
  engine: OwnEngine,
  word: string,
  options: ValuesOf<typeof FORK>,
  caller: OptionCaller,
  making: Making & { readonly signal: AbortSignal },
  made: (id: string) => void = () => undefined,
): Promise<{ readonly snapshot: string; readonly sandboxes: readonly string[] }> {
  const { number = 1, keep: kept = KEPT_MS, onDisk } = options;
  requireForks(number, caller);
  const limits = limitsOf(options);
  const { signal } = making;
  const how = { ...options, keep: kept, limits, upperOnDisk: onDisk, caller: caller.ids, signal };
  const rooms = await furtherRooms(number, caller);
  try {
    return await withSnapshot(engine, word, making, async (snapshot) => ({
      snapshot: snapshot.id,
      sandboxes: await forks(engine, snapshot, number, how, rooms, made),
    }));
  } finally {
    for (const room of rooms) room[Symbol.dispose]();
  }
}

/** What can be told before anything is made. @throws KilnError E_ARGUMENT, E_FORBIDDEN */
export function requireForks(number: number, { user, takeRoom }: OptionCaller): void {
  if (number > MOST_FORKS || number < 1) {
    throw new KilnError('E_ARGUMENT', `${number} forks: there are 1 to ${MOST_FORKS} in one call`, {
      hint: 'call it again for more',
    });
  }
  if (user === undefined || number === 1 || takeRoom !== undefined) return;
  throw forbiddenError(
    `a call for ${counted(number, 'fork')}`,
    'a call on the socket makes one for a user',
    { hint: 'make the call through `kiln varlink`, or once for each' },
  );
}

async function forks(
  engine: OwnEngine,
  snapshot: Snapshot,
  number: number,
  options: ForkOptions,
  rooms: Disposable[],
  made: (id: string) => void,
): Promise<string[]> {
  const ids: string[] = [];
  let left = number;
  const makeSome = async () => {
    try {
      while (left-- > 0) {
        const id = await forkSnapshot(engine, snapshot, options);
        // A kept sandbox counts by itself.
        rooms.pop()?.[Symbol.dispose]();
        ids.push(id);
        made(id);
      }
    } catch (error) {
      left = 0;
      throw error;
    }
  };
  try {
    await allEnds(Array.from({ length: Math.min(number, AT_ONCE) }, makeSome));
    return ids;
  } finally {
    currentAction()?.found({ sandboxes: ids });
  }
}

/** Room for all but one, which the caller has: the whole, or nothing is made. @throws KilnError E_FORBIDDEN */
async function furtherRooms(
  number: number,
  { user, takeRoom }: Pick<OptionCaller, 'user' | 'takeRoom'>,
): Promise<Disposable[]> {
  const rooms: Disposable[] = [];
  while (user !== undefined && rooms.length < number - 1) {
    const room = await takeRoom?.();
    if (room !== undefined) {
      rooms.push(room);
      continue;
    }
    for (const taken of rooms) taken[Symbol.dispose]();
    throw forbiddenError(
      `a call for ${counted(number, 'fork')}`,
      `you have room for ${rooms.length + 1}`,
      {
        hint: '`kiln ps` lists what counts, `kiln kill ID` ends one; root sets users.limits.sandboxes',
      },
    );
  }
  return rooms;
}

interface Making {
  readonly signal?: AbortSignal | undefined;
  /** Around what takes a snapshot of a sandbox, which may copy its files. */
  readonly taking?: ((take: () => Promise<TakenSnapshot>) => Promise<TakenSnapshot>) | undefined;
  /** Throws before a snapshot is made. @param image what it would stand on */
  readonly check?: (image: string | undefined) => void;
}

/**
 * Acts on the snapshot that is meant. Of a sandbox, one is made, which stays only as long as something stands on it.
 * @throws KilnError E_NO_SNAPSHOT, and what `act`, the check and {@link snapshotOf} throw
 */
export async function withSnapshot<Result>(
  engine: OwnEngine,
  word: string,
  { signal, check, taking = (take) => take() }: Making,
  act: (snapshot: Snapshot) => Promise<Result>,
): Promise<Result> {
  const { paths, owner } = engine;
  const there = await findSnapshot(paths, owner, word).catch((error) => {
    if (!isKilnCode(error, 'E_NO_SNAPSHOT')) throw error;
  });
  if (there !== undefined) return await act(there);
  const sandbox = await sandboxOf(engine, word).catch((cause) => {
    throw isKilnCode(cause, 'E_NO_SANDBOX') ? noneError(word) : cause;
  });
  check?.(sandbox.record.image);
  const made = await taking(() => snapshotOf(engine, sandbox, { signal }));
  return await onMade(paths, made.id, () => act(made));
}

/** Acts on a snapshot that was made for that, and goes then, unless something stands on it. */
export async function onMade<Result>(
  paths: StatePaths,
  id: string,
  act: () => Promise<Result>,
): Promise<Result> {
  try {
    return await act();
  } finally {
    // If that fails, it goes with its sandbox.
    await removeIdle(paths, id).catch(() => undefined);
  }
}

function noneError(word: string): KilnError {
  return new KilnError('E_NO_SNAPSHOT', `there is no snapshot and no sandbox ${word || '""'}`, {
    hint: '`kiln snapshot ls` lists snapshots, `kiln ps` sandboxes',
  });
}

const ROLLBACK = {
  kill: row(flag, 'open', { help: 'end commands that run in the sandbox' }),
};

export function rollbackCommand(caller: Caller): KilnCommand {
  return new KilnCommand('rollback')
    .description(
      'Make the root of a kept sandbox what it was at a snapshot of it, by default the newest. The sandbox keeps its id, binds and limits. What was written since then is gone; /tmp, /run and binds stay as they are.',
    )
    .argument('<id>', 'the id of a kept sandbox, as `kiln ps` shows it')
    .argument('[snapshot]', 'a snapshot of the sandbox, by its name or id')
    .rows(ROLLBACK)
    .examples('kiln rollback 3fa9', 'kiln rollback 3fa9 built --kill')
    .action(async (id: string, word: string | undefined, options: ValuesOf<typeof ROLLBACK>) => {
      using interruption = listenForInterruption(caller);
      await using engine = caller.openEngine();
      const found = await sandboxOf(engine, id);
      const { signal } = interruption;
      const snapshot = await backTo(engine, found, word, options.kill === true, signal);
      caller.stderr.say(
        `kiln: ${found.id} is as it was at ${snapshot.record.name ?? snapshot.id}\n`,
      );
    });
}

/** How long commands may take to end that were killed, and whoever is with them to leave, ms. */
const LEAVING = 15_000;
const PAUSE = 50;

/**
 * @param signal nothing is changed after it, and what has begun is done
 * @throws KilnError E_ROLLBACK, E_NO_SNAPSHOT, E_SANDBOX_BUSY, the signal's reason, and what {@link rollBack} throws
 */
export async function backTo(
  engine: OwnEngine,
  found: ListedSandbox,
  word: string | undefined,
  kill: boolean,
  signal: AbortSignal,
): Promise<Snapshot> {
  const { paths } = engine;
  const { record } = found;
  currentAction()?.found({ sandbox: record.id });
  const snapshot = await snapshotFor(engine, record.id, word);
  const back = async ({ sandbox }: EnteredSandbox) => {
    signal.throwIfAborted();
    if (!kill) requireQuiet(found);
    await rollBack(paths, sandbox, record, snapshot);
    return snapshot;
  };
  const enter = () => inKept(engine, found, back, { rollsBack: true });
  return await (kill ? endingCommands(record, signal, enter) : enter());
}

/** Ends commands in a sandbox until it can be entered alone. @throws what `enter` throws, and the signal's reason */
export async function endingCommands<Result>(
  record: ListedSandbox['record'],
  signal: AbortSignal,
  enter: () => Promise<Result>,
): Promise<Result> {
  const end = performance.now() + LEAVING;
  for (;;) {
    signal.throwIfAborted();
    endCommands(record);
    try {
      return await enter();
    } catch (error) {
      if (!isKilnCode(error, 'E_SANDBOX_BUSY') || performance.now() > end) throw error;
    }
    await sleep(PAUSE);
  }
}

/** What a sandbox goes back to: its newest one unless `word` names another. @throws KilnError E_NO_SNAPSHOT */
export async function snapshotFor(
  engine: OwnEngine,
  id: string,
  word: string | undefined,
): Promise<Snapshot> {
  const { paths, owner } = engine;
  const found = await (word === undefined
    ? newestOf(engine, id)
    : findSnapshot(paths, owner, word));
  currentAction()?.found({ snapshot: found.id });
  return found;
}

async function newestOf({ paths, owner }: OwnEngine, id: string): Promise<Snapshot> {
  const all = await listSnapshots(paths, owner);
  const newest = all.findLast(({ record }) => record.sandbox === id);
  if (newest !== undefined) return newest;
  throw new KilnError('E_NO_SNAPSHOT', `there is no snapshot of sandbox ${id}`, {
    hint: `\`kiln snapshot ${id}\` makes one to go back to`,
  });
}

function endCommands({ init }: ListedSandbox['record']): void {
  for (const pid of commandsOf(init)) attempt(() => process.kill(pid, 'SIGKILL'));
}

/** @throws KilnError E_ROLLBACK */
export function requireQuiet({ id, record }: ListedSandbox): void {
  const { length } = commandsOf(record.init);
  if (length === 0) return;
  throw new KilnError(
    'E_ROLLBACK',
    `${counted(length, 'process runs', 'processes run')} in sandbox ${id}`,
    {
      hint: 'end them first, or give --kill',
    },
  );
}
