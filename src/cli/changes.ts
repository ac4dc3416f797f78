/** What a kept sandbox has changed: shown, taken over, thrown away. */
import type { WithRights } from '../artifacts/destination.ts';
import { type ByteString, fromText, quoteName, reportName, toBytes } from '../artifacts/pattern.ts';
import { defined } from '../defined.ts';
import { isKilnCode, KilnError } from '../errors.ts';
import { actingAs } from '../host/process/user-namespace.ts';
import { findSnapshot, type Snapshot } from '../image/store/snapshots.ts';
import { applyChanges } from '../jobs/changes/apply.ts';
import { discardChanges } from '../jobs/changes/discard.ts';
import { changesOf, type Layer, openLayer, openSnapshotLayer } from '../jobs/changes/layer.ts';
import { Ours } from '../jobs/changes/ours.ts';
import { patchOf } from '../jobs/changes/patch.ts';
import { type Change, type Changes, type EntryKind, isWithin } from '../jobs/changes/walk.ts';
import { flag } from '../options/kind.ts';
import { row, type ValuesOf } from '../options/row.ts';
import type { LayeredFolder } from '../sandbox/domain/sandbox-record.ts';
import { PlannedSandbox } from '../sandbox/door/planned-sandbox.ts';
import { type Caller, listenForInterruption } from './caller/caller.ts';
import { KilnCommand } from './options/command.ts';
import { printJson } from './output/print.ts';
import { keepAgain, sandboxOf } from './shell.ts';

const ID = 'the id or name of a kept sandbox, as `kiln ps` shows it; the first digits are enough';
const TARGET = 'where a folder is bound with cow, as /src in --bind .:/src:cow';
const PATHS = 'only what lies at these paths of the folder, or below';

const DIFF = {
  json: row(flag, 'open', { help: 'print one JSON object instead of lines' }),
  patch: row(flag, 'open', {
    help: 'print what has changed in files of text as a patch, for git apply; binary files are named only',
    short: 'p',
  }),
};

export function diffCommand(caller: Caller): KilnCommand {
  return new KilnCommand('diff')
    .description(
      'Show what a kept sandbox has changed, in a folder that is bound with cow or, without a target, in its root, or what a snapshot has: A was added, M changed, D removed.',
    )
    .argument('<id>', `${ID}; or a snapshot`)
    .argument('[target]', `${TARGET}; / is the root`)
    .argument('[path...]', PATHS)
    .rows(DIFF)
    .examples(
      'kiln run --keep --bind .:/src:cow --workdir /src -- make; kiln diff 3fa9 /src',
      'kiln diff --json 3fa9 | jq -r ".changes[].path"',
    )
    .action(async (id: string, target = '/', words: string[], options: ValuesOf<typeof DIFF>) => {
      if (options.json === true && options.patch === true) {
        throw new KilnError('E_ARGUMENT', '--patch and --json exclude each other', {
          hint: 'call `kiln diff` once with each',
        });
      }
      const snapshot = await snapshotCalled(caller, id);
      if (snapshot === undefined) {
        await inLayer(caller, id, target, words, async (opened) => {
          const about = { sandbox: opened.sandbox.id, target };
          await showChanges(caller, opened, options, about);
        });
        return;
      }
      if (target !== '/') {
        throw new KilnError('E_ARGUMENT', `a snapshot is of a root, and not of ${target}`, {
          hint: 'write / before paths: `kiln diff SNAPSHOT / PATH`',
        });
      }
      await inSnapshot(caller, snapshot, words, async (opened) => {
        await showChanges(caller, opened, options, { snapshot: snapshot.id, target });
      });
    });
}

async function showChanges(
  caller: Caller,
  { layer, find, signal }: Pick<Opened, 'layer' | 'find' | 'signal'>,
  { json, patch }: ValuesOf<typeof DIFF>,
  about: object,
): Promise<void> {
  const { changes: all, truncated } = await find();
  const changes = all.filter(({ isAbove }) => !isAbove);
  if (patch === true) {
    for await (const piece of patchOf(layer, changes, signal)) printPatch(caller, piece);
  } else if (json === true) {
    printJson(caller.stdout, {
      ...{ ...about, ...defined({ folder: layer.folder?.source }) },
      ...{ changes: changes.map(changeJson), truncated },
    });
  } else {
    caller.stdout.say(changes.map((change) => `${changeLine(change)}\n`).join(''));
  }
  if (truncated) caller.stderr.say(`kiln: there is more: name a path to see the rest\n`);
}

async function snapshotCalled(caller: Caller, word: string): Promise<Snapshot | undefined> {
  await using engine = caller.openEngine();
  try {
    return await findSnapshot(engine.paths, engine.owner, word);
  } catch (error) {
    if (!isKilnCode(error, 'E_NO_SNAPSHOT')) throw error;
    return undefined;
  }
}

async function inSnapshot(
  caller: Caller,
  snapshot: Snapshot,
  words: readonly string[],
  act: (opened: Pick<Opened, 'layer' | 'find' | 'signal'>) => Promise<void>,
): Promise<void> {
  using interruption = listenForInterruption(caller);
  await using engine = caller.openEngine();
  await using layer = await openSnapshotLayer(engine, snapshot);
  const only = words.map((path) => pathIn('/', path));
  const { signal } = interruption;
  await act({ layer, signal, find: () => changesOf(undefined, layer, only, signal) });
}

const APPLY = {
  force: row(flag, 'open', {
    help: 'write also what has changed in the folder since the sandbox began',
  }),
};

export function applyCommand(caller: Caller): KilnCommand {
  return new KilnCommand('apply')
    .description(
      'Write what a kept sandbox has changed in a folder that is bound with cow into that folder. What has changed there meanwhile, and what your own tools may run, is left alone.',
    )
    .argument('<id>', ID)
    .argument('<target>', TARGET)
    .argument('[path...]', PATHS)
    .rows(APPLY)
    .examples('kiln apply 3fa9 /src', 'kiln apply 3fa9 /src lib/parser.c .envrc')
    .action(
      async (id: string, target: string, words: string[], options: ValuesOf<typeof APPLY>) => {
        await inLayer(caller, id, target, words, async (opened) => {
          await apply(caller, opened, target, options.force === true);
        });
      },
    );
}

export function discardCommand(caller: Caller): KilnCommand {
  return new KilnCommand('discard')
    .description(
      'Throw away what a kept sandbox has changed in a folder that is bound with cow. What still runs in the sandbox is ended.',
    )
    .argument('<id>', ID)
    .argument('<target>', TARGET)
    .examples('kiln discard 3fa9 /src')
    .action(async (id: string, target: string) => {
      await inLayer(caller, id, target, [], async ({ sandbox, layer, ours }) => {
        const { target: mounted } = folderOf(layer, 'discarded');
        await discardChanges(sandbox, mounted, layer);
        ours.forget();
      });
    });
}

async function apply(
  caller: Caller,
  { sandbox, layer, only, find, rights, ours }: Opened,
  target: string,
  force: boolean,
): Promise<void> {
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
    ...{ ...layer, rights, changes, force, ours },
    owner: caller.user === undefined ? caller.ids : undefined,
    isNamed,
  });
  caller.stderr.say(
    `kiln: ${done.length} of ${done.length + left.length} changes are in ${source}\n`,
  );
  for (const { path, why } of left) caller.stderr.say(`kiln: left alone: ${shown(path)}: ${why}\n`);
  if (left.length === 0) return;
  const isForced = left.some(({ isConflict }) => isConflict);
  throw new KilnError('E_CONFLICT', `${left.length} changes are not in ${source}`, {
    hint: isForced
      ? '--force writes over what has changed there; `kiln diff` shows what is left'
      : 'take them by hand, or have the sandbox change them otherwise',
  });
}

function folderOf({ folder }: Layer, done: string): LayeredFolder {
  if (folder !== undefined) return folder;
  throw new KilnError('E_ARGUMENT', `the root of a sandbox cannot be ${done}`, {
    hint: 'name the TARGET of a folder that is bound with cow',
  });
}

interface Opened {
  readonly sandbox: PlannedSandbox;
  readonly layer: Layer;
  readonly only: readonly ByteString[];
  readonly find: () => Promise<Changes>;
  readonly signal: AbortSignal;
  readonly rights: WithRights;
  readonly ours: Ours;
}

/** Nobody else enters the sandbox meanwhile. */
async function inLayer(
  caller: Caller,
  word: string,
  target: string,
  words: readonly string[],
  act: (opened: Opened) => Promise<void>,
): Promise<void> {
  using interruption = listenForInterruption(caller);
  await using engine = caller.openEngine();
  const { id, record, folder } = await sandboxOf(engine, word);
  const { sandbox, kept, keepUntil } = await PlannedSandbox.reopen(engine, id);
  // Before anything is done: what it has changed must not go with a process that is killed.
  sandbox.control.keep(keepUntil - Date.now());
  try {
    const { user, paths } = caller;
    const rights: WithRights = user === undefined ? (run) => run() : (run) => actingAs(user, run);
    const place = (path: string) => paths.place(path);
    const { image, layers } = record;
    const options = { image, layers, place, rights };
    await using layer = await openLayer(engine, sandbox, target, options);
    const only = words.map((path) => pathIn(target, path));
    const { signal } = interruption;
    const find = () => changesOf(sandbox, layer, only, signal);
    using ours = new Ours(folder, layer.folder?.target ?? '/');
    await act({ sandbox, layer, only, find, signal, rights, ours });
  } finally {
    await keepAgain(sandbox, kept, keepUntil);
  }
}

/** A file or a program gets each byte; a terminal, or a service that takes lines for orders, what is harmless. */
function printPatch({ stdout }: Caller, piece: Buffer): void {
  if (stdout.isTTY || stdout.service !== undefined) stdout.say(piece.toString());
  else stdout.write(piece);
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

const LETTERS = { added: 'A', changed: 'M', removed: 'D' } as const;

const ENDS: Partial<Record<EntryKind, string>> = {
  ...{ folder: '/', fifo: ' (fifo)', device: ' (device)', socket: ' (socket)' },
};

function changeLine({ path, change, kind, was, target, isProtected }: Change): string {
  const to = target === undefined || change === 'removed' ? '' : ` -> ${shown(target)}`;
  const before = was === undefined ? '' : ` (was a ${was})`;
  const mark = isProtected ? ' (your own tools may run it)' : '';
  return `${LETTERS[change]} ${shown(path)}${ENDS[kind] ?? ''}${to}${before}${mark}`;
}

/** A name that is not plain stands in quotes: each change is one line. */
function shown(path: ByteString): string {
  const { text, bytes } = reportName(path);
  return bytes === undefined && /^[^\s"\\\p{C}][^"\\\p{C}]*$/u.test(text) ? text : quoteName(path);
}

function changeJson({ path, change, kind, was, size, mode, target, isProtected }: Change) {
  const { text, bytes } = reportName(path);
  return {
    ...{ path: text, ...defined({ pathBytes: bytes }), change, kind, ...defined({ was }) },
    ...{ size, mode: (mode & 0o7777).toString(8).padStart(4, '0') },
    ...(target === undefined ? {} : { linkTo: toBytes(target).toString('utf8') }),
    ...(isProtected ? { protected: true } : {}),
  };
}
