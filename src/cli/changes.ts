/** What a sandbox has changed: shown, taken over, thrown away. */
import { counted } from '../counted.ts';
import { defined } from '../defined.ts';
import { KilnError } from '../errors.ts';
import type { Change, EntryKind } from '../jobs/changes/entry.ts';
import { patchOf } from '../jobs/changes/patch.ts';
import { flag } from '../options/kind.ts';
import { row, type ValuesOf } from '../options/row.ts';
import { type Caller, listenForInterruption } from './caller/caller.ts';
import {
  applyLayer,
  changeJson,
  discardLayer,
  type LayerRequest,
  shown,
  snapshotCalled,
  type Viewed,
  viewChanges,
  viewDifference,
} from './layers.ts';
import { KilnCommand } from './options/command.ts';
import { printJson } from './output/print.ts';
import { withWork } from './output/progress.ts';

const ID =
  'the id or name of a sandbox that is kept or runs, as `kiln ps` shows it; the first digits are enough';
const KEPT = 'the id of a kept sandbox, as `kiln ps` shows it';
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
      'Show what a sandbox has changed, in a folder that is bound with cow or, without a target, in its root, or what a snapshot has: A was added, M changed, D removed. With another snapshot in place of the target, show what is not as it was there.',
    )
    .argument('<id>', `${ID}; or a snapshot`)
    .argument('[target]', `${TARGET}; / is the root; or a snapshot to compare with`)
    .argument('[path...]', PATHS)
    .rows(DIFF)
    .examples(
      'kiln run --keep --bind .:/src:cow --workdir /src -- make; kiln diff 3fa9 /src',
      'kiln diff 3fa9 built',
      'kiln diff --json 3fa9 | jq -r ".changes[].path"',
    )
    .action(async (id: string, target = '/', words: string[], options: ValuesOf<typeof DIFF>) => {
      if (options.json === true && options.patch === true) {
        throw new KilnError('E_ARGUMENT', '--patch and --json exclude each other', {
          hint: 'call `kiln diff` once with each',
        });
      }
      await asking(caller, { word: id, target, words }, async (request) => {
        const show = (viewed: Viewed) => showChanges(caller, viewed, options, request.signal);
        const isOther =
          !target.startsWith('/') && (await snapshotCalled(request.engine, target)) !== undefined;
        await (isOther ? viewDifference(request, target, show) : viewChanges(request, show));
      });
    });
}

/** Until the caller interrupts it. */
async function asking(
  caller: Caller,
  about: Pick<LayerRequest, 'word' | 'target' | 'words'>,
  act: (request: LayerRequest) => Promise<void>,
): Promise<void> {
  using interruption = listenForInterruption(caller);
  await using engine = caller.openEngine();
  await act({ ...about, caller, engine, signal: interruption.signal });
}

async function showChanges(
  caller: Caller,
  { sides, folder, find, about, leftOut = 0 }: Viewed,
  { json, patch }: ValuesOf<typeof DIFF>,
  signal: AbortSignal,
): Promise<void> {
  const { changes: all, truncated } = await withWork(caller, find);
  const changes = all.filter(({ isAbove }) => !isAbove);
  if (patch === true) {
    for await (const piece of patchOf(sides, changes, signal)) printPatch(caller, piece);
  } else if (json === true) {
    printJson(caller.stdout, {
      ...{ ...about, ...defined({ folder }) },
      ...{ changes: changes.map(changeJson), truncated },
    });
  } else {
    caller.stdout.say(changes.map((change) => `${changeLine(change)}\n`).join(''));
  }
  if (truncated) caller.stderr.say(`kiln: there is more: name a path to see the rest\n`);
  if (leftOut > 0) {
    const what = counted(leftOut, 'fifo, socket or device', 'fifos, sockets or devices');
    caller.stderr.say(`kiln: ${what} of the machine cannot be shown\n`);
  }
}

const APPLY = {
  force: row(flag, 'open', {
    help: 'write also what has changed in the folder since the sandbox began',
  }),
};

export function applyCommand(caller: Caller): KilnCommand {
  return new KilnCommand('apply')
    .description(
      'Write what a sandbox has changed in a folder that is bound with cow into that folder. What has changed there meanwhile, and what your own tools may run, is left alone.',
    )
    .argument('<id>', ID)
    .argument('<target>', TARGET)
    .argument('[path...]', PATHS)
    .rows(APPLY)
    .examples('kiln apply 3fa9 /src', 'kiln apply 3fa9 /src lib/parser.c .envrc')
    .action(
      async (id: string, target: string, words: string[], options: ValuesOf<typeof APPLY>) => {
        await asking(caller, { word: id, target, words }, async (request) => {
          await apply(caller, request, options.force === true);
        });
      },
    );
}

export function discardCommand(caller: Caller): KilnCommand {
  return new KilnCommand('discard')
    .description(
      'Throw away what a kept sandbox has changed in a folder that is bound with cow. What still runs in the sandbox is ended.',
    )
    .argument('<id>', KEPT)
    .argument('<target>', TARGET)
    .examples('kiln discard 3fa9 /src')
    .action(async (id: string, target: string) => {
      await asking(caller, { word: id, target, words: [] }, discardLayer);
    });
}

async function apply(caller: Caller, request: LayerRequest, force: boolean): Promise<void> {
  const { source, done, left } = await withWork(caller, () => applyLayer(request, force));
  caller.stderr.say(
    `kiln: ${done.length} of ${counted(done.length + left.length, 'change')} made in ${source}\n`,
  );
  for (const { path, why } of left) caller.stderr.say(`kiln: left alone: ${shown(path)}: ${why}\n`);
  if (left.length === 0) return;
  const isForced = left.some(({ isConflict }) => isConflict);
  throw new KilnError(
    'E_CONFLICT',
    `${counted(left.length, 'change is', 'changes are')} not in ${source}`,
    {
      hint: isForced
        ? '--force writes over what has changed there; `kiln diff` shows what is left'
        : 'name what your own tools may run; take the rest by hand, or have the sandbox change it otherwise',
    },
  );
}

/** A file or a program gets each byte; a terminal, or a service that takes lines for orders, what is harmless. */
function printPatch({ stdout }: Caller, piece: Buffer): void {
  if (stdout.isTTY || stdout.service !== undefined) stdout.say(piece.toString());
  else stdout.write(piece);
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
