/** `kiln cp`: files into a sandbox and out of it, with the rights of its command's user there and of the caller here. */
import { constants, fstatSync, openSync, statSync } from 'node:fs';
import { basename, dirname } from 'node:path';
import { Budget } from '../artifacts/budget.ts';
import { type ByteString, fromText, quoteName } from '../artifacts/byte-string.ts';
import { Destination, type WithRights } from '../artifacts/destination.ts';
import { Inventory, LONGEST_PATH } from '../artifacts/manifest.ts';
import { listEntries } from '../artifacts/source.ts';
import { TreeCopy } from '../artifacts/tree-copy.ts';
import { type Warning, Warnings } from '../artifacts/warning.ts';
import { defined } from '../defined.ts';
import type { OwnEngine } from '../engine.ts';
import { KilnError } from '../errors.ts';
import { closing } from '../host/calls/descriptor.ts';
import { attempt } from '../host/calls/libc.ts';
import { actingAs, type UserIds } from '../host/process/user-namespace.ts';
import { refuseLowDisk } from '../host/state/disk-watch.ts';
import { openPackedFiles, packInto } from '../jobs/run/artifact-tree.ts';
import type { SandboxProcess } from '../sandbox/command/process.ts';
import { copyBy } from '../sandbox/door/make-files.ts';
import { openInside } from '../sandbox/door/open-file.ts';
import { askForRoot, visitPacked, visitReceiver } from '../sandbox/door/visit.ts';
import { type Caller, listenForInterruption } from './caller/caller.ts';
import { KilnCommand } from './options/command.ts';
import { printWarning } from './output/errors.ts';
import { atSandbox } from './shell.ts';
import { fetchPath } from './users/user-guard.ts';

const EXAMPLES = `
PATH of a sandbox is absolute. Into a folder that is there, files go under their own names; a slash and a dot at the end
of a folder (dir/.) mean what is in it. What is there already is replaced, folders are merged.

Examples:
  kiln cp work:/src/build/app.tar.gz .
  kiln cp ./patches work:/tmp/
  kiln cp work:/var/log/. logs`;

export function command(caller: Caller): KilnCommand {
  return new KilnCommand('cp')
    .description(
      'Copy files and folders into a sandbox that runs or was kept, or out of it: in the sandbox with the rights of its command’s user, here with yours.',
    )
    .usage('(ID:PATH PATH | PATH ID:PATH)')
    .argument('<from>', 'what is copied: a path of this host, or ID:PATH')
    .argument('<to>', 'where it goes; one of both is ID:PATH')
    .addHelpText('after', EXAMPLES)
    .action(async (from: string, to: string) => {
      const [source, target] = [placeIn(from), placeIn(to)];
      if ((source === undefined) === (target === undefined)) {
        throw new KilnError('E_ARGUMENT', 'one of both paths is of a sandbox, as ID:PATH', {
          hint: 'kiln cp ID:PATH PATH copies out of it, kiln cp PATH ID:PATH into it; a name with a colon is ./NAME',
        });
      }
      await using engine = caller.openEngine();
      using interruption = listenForInterruption(caller);
      const { signal } = interruption;
      if (source !== undefined) {
        await atSandbox(engine, source.word, {
          kept: async ({ sandbox: { tree } }) => {
            const taking = { caller, engine, signal };
            if (tree.inside !== undefined)
              return await takeOutOfMachine(packInto(tree.inside.pack), source.path, to, taking);
            using root = closing(tree.openRoot());
            await takeOut(root.fd, tree.hostUser, source.path, to, taking);
          },
          held: async (holder, { record }) => {
            const taking = { caller, engine, signal };
            if (record.machine !== undefined) {
              const pack = (patterns: Buffer) => visitPacked(holder, patterns);
              return await takeOutOfMachine(pack, source.path, to, taking);
            }
            const { fd, user } = await askForRoot(holder);
            using root = closing(fd);
            await takeOut(root.fd, user, source.path, to, taking);
          },
        });
      } else if (target !== undefined) {
        const held = await fetchPath('tree', from, caller.paths);
        const item = { source: held, target: target.path };
        const warn = (warning: Warning) => printWarning(warning, caller.stderr);
        const put = (maker: SandboxProcess) => copyBy(maker, item, warn, signal);
        await atSandbox(engine, target.word, {
          kept: async ({ sandbox }) => await put(await sandbox.tree.receiver()),
          held: async (holder) => await put((await visitReceiver(holder)).command),
        });
      }
    });
}

interface PlaceIn {
  readonly word: string;
  readonly path: string;
}

/** Undefined for a path of the host: those with a colon in them are written with a slash before it. */
function placeIn(word: string): PlaceIn | undefined {
  const [, sandbox, path = ''] = /^([\w.-]+):(.*)$/s.exec(word) ?? [];
  if (sandbox === undefined) return undefined;
  if (path.startsWith('/')) return { word: sandbox, path };
  throw new KilnError('E_ARGUMENT', `${word} names no absolute path of a sandbox`, {
    hint: `write it as ${sandbox}:/PATH; a file of this host with a colon is ./${word}`,
  });
}

interface Taking {
  readonly caller: Caller;
  readonly engine: OwnEngine;
  readonly signal: AbortSignal;
}

/** The end of a path that means what is in a folder. */
const CONTENT = /\/\.?\/*$/;

/** What kiln has unpacked is its own. */
const OF_KILN: UserIds = { uid: 0, gid: 0, groups: [] };

/** Warnings of what should have been copied, and was not. */
const MISSED: readonly string[] = ['unreadable', 'vanished'];

/** Its own kernel packs them, and follows no link at the end of the path. */
async function takeOutOfMachine(
  begin: Parameters<typeof openPackedFiles>[0],
  path: string,
  to: string,
  taking: Taking,
): Promise<void> {
  const { caller, engine, signal } = taking;
  await using packed = await openPackedFiles(begin, path, {
    ...{ paths: engine.paths, bytes: engine.owner?.share.disk, signal },
    warn: (warning) => printWarning(warning, caller.stderr),
  });
  await takeOut(packed.rootFd, OF_KILN, path, to, taking, packed.path);
}

/**
 * Nothing of the tree is followed once it has been looked up, with the rights of a user's.
 * @param inside where it is in the tree, if that is a copy
 */
async function takeOut(
  root: number,
  user: UserIds,
  path: string,
  to: string,
  { caller, engine, signal }: Taking,
  inside = path,
): Promise<void> {
  const reading: WithRights = (act) => actingAs(user, act);
  using source = closing(openInside(root, inside, user, path));
  const isFolder = fstatSync(source.fd).isDirectory();
  const isThere = await isFolderThere(to, caller);
  if (!isThere && !isFolder && to.endsWith('/')) {
    throw new KilnError('E_ARGUMENT', `there is no folder ${to}`, { hint: 'make it first' });
  }
  const place = isThere ? await caller.paths.results(to) : await caller.paths.resultAt(to);
  const folder = isThere ? place : dirname(place);
  using above = closing(openSync(folder, constants.O_RDONLY | constants.O_DIRECTORY));
  const bytes = engine.owner?.share.disk;
  const room = bytes === undefined ? undefined : (size: number) => refuseLowDisk(folder, size);
  const budget = new Budget(defined({ bytes }), signal, room);
  const failure = (name: ByteString, cause: unknown) =>
    new KilnError('E_RESULTDIR', `${quoteName(name)} cannot be written to ${to}`, {
      hint: 'name a place that you may write to, with room for it',
      cause,
    });
  const destination = new Destination({
    root: above.fd,
    owner: caller.ids,
    replace: true,
    failure,
  });
  const warnings = new Warnings((warning) => {
    if (MISSED.includes(warning.code)) caller.exitStatus = 1;
    printWarning(warning, caller.stderr);
  });
  const copy = new TreeCopy({
    ...{ destination, budget, warnings, reading, links: 'later' },
    inventory: new Inventory(budget, LONGEST_PATH),
  });
  const pair = { from: source.fd, to: above.fd, source: fromText(path), path: '', depth: 1 };
  if (isThere && isFolder && CONTENT.test(path)) {
    await copy.copyEntries(
      pair,
      reading(() => listEntries(source.fd, budget)),
    );
  } else {
    const name = isThere ? basename(path) : basename(place);
    await copy.copyOpened({ ...pair, path: fromText(name) }, source.fd);
  }
  copy.makeLinks();
  destination.finish();
  warnings.finish();
}

/** Looked at by the caller's own process; what is wrong with it is told when it is to be written. */
async function isFolderThere(path: string, { paths }: Caller): Promise<boolean> {
  const held = await paths.place(path).catch(() => undefined);
  return held !== undefined && attempt(() => statSync(held).isDirectory()) === true;
}
