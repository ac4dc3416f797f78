/** What a kept sandbox has written, kept for others and for later. */
import type { OwnEngine } from '../engine.ts';
import { KilnError } from '../errors.ts';
import { currentAction } from '../events/action.ts';
import { sizeText } from '../host/calls/system-error.ts';
import { readManifest } from '../image/store/manifest.ts';
import {
  findSnapshot,
  listSnapshots,
  removeSnapshot,
  type Snapshot,
  snapshotBytes,
  sweepSnapshots,
} from '../image/store/snapshots.ts';
import { flag } from '../options/kind.ts';
import { row, type ValuesOf } from '../options/row.ts';
import type { ListedSandbox } from '../sandbox/domain/sandbox-record.ts';
import { allSettled, settled } from '../snapshot/settle.ts';
import { type TakenSnapshot, type TakeOptions, takeSnapshot } from '../snapshot/take.ts';
import { type Caller, listenForInterruption } from './caller/caller.ts';
import { KilnCommand } from './options/command.ts';
import { inTurn } from './output/errors.ts';
import { printEither, printJson } from './output/print.ts';
import { withWork } from './output/progress.ts';
import { type Columns, type ListOptions, listing, printRows } from './output/table.ts';
import { age, ownerText } from './sandboxes.ts';
import { type EnteredSandbox, sandboxOf, whileKept } from './shell.ts';

const ID = 'the id of a kept sandbox, as `kiln ps` shows it; its first digits are enough';
export const SNAPSHOT = 'a snapshot, by its name or id, as `kiln snapshot ls` shows it';

const TAKE = {
  kill: row(flag, 'open', { help: 'end what still runs in the sandbox first' }),
  json: row(flag, 'open', { help: 'print the snapshot as JSON instead of its id' }),
};

export function command(caller: Caller): KilnCommand {
  return new KilnCommand('snapshot')
    .description(
      'Keep what a kept sandbox has written to its root, as it is now, for `kiln run --from`, `kiln fork` and `kiln rollback`. A snapshot without a name goes with its sandbox. Processes are no part of it.',
    )
    .usage('[options] ID [NAME] | ls | show | rm')
    .enablePositionalOptions()
    .argument('<id>', ID)
    .argument('[name]', 'what to call the snapshot; it stays until `kiln snapshot rm` then')
    .rows(TAKE)
    .examples('kiln snapshot 3fa9 built', 'kiln run --from built -- make check', 'kiln snapshot ls')
    .action(async (id: string, name: string | undefined, options: ValuesOf<typeof TAKE>) => {
      using interruption = listenForInterruption(caller);
      await using engine = caller.openEngine();
      const { signal } = interruption;
      const found = await sandboxOf(engine, id);
      const { taken, shown } = await withWork(caller, async () => {
        const taken = await snapshotOf(engine, found, { name, kill: options.kill, signal });
        const shown = options.json === true ? await settled(engine.paths, taken, signal) : taken;
        return { taken, shown };
      });
      tellLeftOut(taken, caller);
      printEither(caller.stdout, options, snapshotJson(shown), () => taken.id);
    })
    .addCommand(listCommand(caller))
    .addCommand(showCommand(caller))
    .addCommand(removeCommand(caller));
}

/** @throws what {@link takeSnapshot} and entering the sandbox throw */
export async function snapshotOf(
  engine: OwnEngine,
  found: ListedSandbox,
  options: TakeOptions,
): Promise<TakenSnapshot> {
  await sweepSnapshots(engine.paths, engine.owner);
  currentAction()?.found({ sandbox: found.id });
  const taken = await inKept(engine, found, (opened) => takeSnapshot(engine, opened, options));
  currentAction()?.found({ snapshot: taken.id });
  return taken;
}

/** Nobody else enters the sandbox meanwhile. @throws KilnError E_SNAPSHOT, E_SANDBOX_BUSY, E_NO_SANDBOX */
export async function inKept<Result>(
  engine: OwnEngine,
  { id, record }: ListedSandbox,
  act: (opened: EnteredSandbox) => Promise<Result>,
  how: { readonly rollsBack?: boolean } = {},
): Promise<Result> {
  if (record.session === undefined) {
    throw new KilnError('E_SNAPSHOT', `sandbox ${id} is not kept: it ends with its command`, {
      hint: 'keep one: `kiln run --keep -- COMMAND`; for an open sandbox of the API, call Snapshot on kilnd’s socket',
    });
  }
  return await whileKept(engine, id, act, how);
}

export function tellLeftOut({ leftOut, id }: TakenSnapshot, { stderr }: Caller): void {
  if (leftOut === 0) return;
  stderr.say(`kiln: snapshot ${id} is without ${leftOut} fifos, sockets or attributes\n`);
}

const LIST = listing('{{.ID}} {{.Name}}', 'print one JSON array instead of a table');

function listCommand(caller: Caller): KilnCommand {
  return new KilnCommand('ls')
    .description(
      'List snapshots. Those without a name go with the sandbox that they are of. SIZE is what a snapshot takes on the disk.',
    )
    .rows(LIST)
    .examples('kiln snapshot ls', 'kiln snapshot ls --format "{{.ID}} {{.Name}}"')
    .action(async (options: ListOptions) => {
      using interruption = listenForInterruption(caller);
      await using engine = caller.openEngine();
      const { paths, owner } = engine;
      const columns: Columns<Snapshot> = [
        ['ID', ({ id }) => id],
        ['NAME', ({ record }) => record.name ?? ''],
        ['OWNER', ({ record }) => ownerText(record)],
        ['AGE', ({ record }) => age(record.created)],
        ['SANDBOX', ({ record }) => record.sandbox],
        [
          'IMAGE',
          ({ record: { image } }) => readManifest(paths, image)?.name ?? image.slice(0, 12),
        ],
        ['LAYERS', ({ record }) => String(record.layers.length + 1)],
        ['SIZE', ({ record }) => sizeText(snapshotBytes(record))],
      ];
      const { signal } = interruption;
      const all = await withWork(caller, async () =>
        allSettled(paths, await listSnapshots(paths, owner), signal),
      );
      printRows(caller.stdout, columns, all, options, snapshotJson);
    });
}

export function snapshotJson({ record }: Snapshot) {
  const { id, name, owner, sandbox, image, layers, digest, created, command } = record;
  return {
    ...{ id, name, owner, sandbox, image, layers, digest },
    ...{ bytes: snapshotBytes(record), created: new Date(created).toISOString() },
    ...{ user: command.user, workdir: command.workdir },
  };
}

function showCommand(caller: Caller): KilnCommand {
  return new KilnCommand('show')
    .description('Print all that is known of a snapshot, as JSON.')
    .argument('<snapshot>', SNAPSHOT)
    .examples('kiln snapshot show built')
    .action(async (word: string) => {
      using interruption = listenForInterruption(caller);
      await using engine = caller.openEngine();
      const { paths, owner } = engine;
      const found = await findSnapshot(paths, owner, word);
      const { signal } = interruption;
      const shown = await withWork(caller, () => settled(paths, found, signal));
      printJson(caller.stdout, snapshotJson(shown), 2);
    });
}

function removeCommand(caller: Caller): KilnCommand {
  return new KilnCommand('rm')
    .description('Remove snapshots on which no sandbox and no other snapshot stands.')
    .argument('<snapshot...>', SNAPSHOT)
    .examples('kiln snapshot rm built')
    .action(async (words: string[]) => {
      await using engine = caller.openEngine();
      const { paths, owner } = engine;
      // What is over must not hold those that it stands on.
      await sweepSnapshots(paths, owner);
      const remove = async (word: string) => {
        const { id } = await findSnapshot(paths, owner, word);
        await removeSnapshot(paths, id);
        caller.stdout.say(`${id}\n`);
      };
      await inTurn(words, remove, caller);
    });
}
