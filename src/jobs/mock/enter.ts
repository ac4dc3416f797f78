/** What goes into a root and comes out of it: commands and copies. */
import { constants, lstatSync, statSync } from 'node:fs';
import { mkdtemp, readdir, rename } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import { collectArtifacts } from '../../artifacts/collect.ts';
import { defined } from '../../defined.ts';
import { hasErrno } from '../../host/calls/libc.ts';
import { existsInTree } from '../../host/files/at.ts';
import { openedPath, ownPath } from '../../host/files/held.ts';
import { removeTree } from '../../host/files/remove-tree.ts';
import { refuseLowDisk } from '../../host/state/disk-watch.ts';
import type { CommandStdio, HandOver, SandboxProcess } from '../../sandbox/command/process.ts';
import { argumentError, commandStatus } from './outcome.ts';
import { RootSandbox } from './root/root-sandbox.ts';
import { inRoot } from './root/transaction.ts';
import { hostPath, type MockSession, type RootSession, withRoot } from './session.ts';

export async function copyin(session: MockSession): Promise<number> {
  const { line, log, signal } = session;
  const { sources, destination } = operands(line.args, 'copyin');
  for (const source of sources) {
    if (lstatSync(openedPath(source), { throwIfNoEntry: false }) === undefined) {
      throw argumentError(`No such file or directory: ${source}`);
    }
  }
  return await withRoot(session, async ({ root }) => {
    await root.note({ pristine: false });
    await inRoot(root, { command: ['--copyin'] }, async ({ sandbox }) => {
      await sandbox.tree.withRoot(async (rootFd) => {
        const into = existsInTree(rootFd, destination, constants.O_DIRECTORY);
        if (sources.length > 1 && !into) {
          throw argumentError(`multiple source files and ${destination} is not a directory!`);
        }
        for (const source of sources) {
          const target = into ? join(destination, basename(openedPath(source))) : destination;
          const isTree = statSync(openedPath(source)).isDirectory();
          if (isTree && existsInTree(rootFd, target)) {
            throw argumentError(`Destination ${target} already exists!`);
          }
          log.info(`copying ${source} to ${destination}`);
        }
      });
      const items = sources.map((source) => ({ source: openedPath(source), target: destination }));
      await sandbox.tree.copyIn(items, (warning) => log.warning(warning), signal);
    });
    return 0;
  });
}

export async function copyout(session: MockSession): Promise<number> {
  const { line, log, signal } = session;
  const { sources, destination } = operands(line.args, 'copyout');
  const { paths } = session.caller;
  const path = hostPath(destination);
  const folder = await paths.existing(path).catch((error: Error) => {
    if (!hasErrno(error.cause, 'ENOTDIR')) throw error;
  });
  const target = folder ?? (await paths.resultAt(path));
  const isDirectory = folder !== undefined;
  const user = session.engine.owner;
  return await withRoot(session, async ({ root }) => {
    const home = root.image.manifest.user.home;
    await using sandbox = await RootSandbox.open(root, { command: ['--copyout'] });
    // A result that need not be a directory is collected beside its place.
    const staging = isDirectory
      ? target
      : await mkdtemp(join(dirname(target), '.kiln-copyout-')).then(ownPath, (cause: unknown) => {
          throw argumentError(`cannot write to ${dirname(target)}: ${String(cause)}`);
        });
    try {
      const collection = await sandbox.sandbox.tree.withRoot((rootFd) =>
        collectArtifacts({
          rootFd,
          patterns: sources.map((source) => source.replace(/^~(?=\/|$)/, home)),
          workdir: '/',
          destination: staging,
          owner: session.caller.ids,
          ...(user && {
            limits: { bytes: user.share.disk },
            room: (more: number) => refuseLowDisk(staging, more),
          }),
          onWarning: (warning) => log.warning(warning),
          signal,
        }),
      );
      if (collection.missing.length > 0) {
        const isLeftOut = collection.warnings.some(({ code }) => code !== 'no-match');
        throw argumentError(
          `${isLeftOut ? 'left out, or not found' : 'not found'} in the root: ${collection.missing.join(', ')}`,
          isLeftOut
            ? 'the warnings say what was left out, and why'
            : 'sources are absolute paths of the root, or globs, quoted from the shell',
        );
      }
      for (const source of sources) log.info(`copying ${source} to ${destination}`);
      if (!isDirectory) {
        const names = await readdir(staging);
        if (names.length !== 1) {
          throw argumentError(`multiple source files and ${destination} is not a directory!`);
        }
        await rename(join(staging, names[0]!), target);
      }
    } finally {
      if (!isDirectory) await removeTree(staging);
    }
    return 0;
  });
}

function operands(args: readonly string[], mode: string) {
  const destination = args.at(-1);
  if (args.length < 2 || destination === undefined) {
    throw argumentError(`Must have source and destinations for ${mode}`);
  }
  return { sources: args.slice(0, -1), destination };
}

/**
 * Runs a command in a root. A watch of the disk ends it when the disk becomes full.
 * @returns its status, as a shell has it @throws KilnError E_DISK_LOW
 */
export async function runInRoot(
  { line, caller, root, chroot, binds }: RootSession,
  argv: readonly string[],
  terminal: CommandStdio['terminal'] | undefined,
  connect: (command: SandboxProcess, kill: () => void) => Disposable,
  handOver?: HandOver,
): Promise<number> {
  const { TERM } = caller.env;
  await root.note({ pristine: false });
  const options = {
    network: chroot.network || line.has('enable-network'),
    hostname: chroot.hostname,
    environment: chroot.environment,
    // What the caller names on the command line is the caller's own word, as with `kiln run --bind`.
    binds: binds.map((bind) => ({ ...bind, readonly: !chroot.bindsAreCallers })),
    caller: caller.ids,
    command: argv.slice(-3),
  };
  return await inRoot(root, options, async (sandbox) => {
    const user = line.has('unpriv') ? chroot.user : undefined;
    const PS1 = '<mock-chroot> \\s-\\v\\$ ';
    const env = { PS1, ...(terminal !== undefined && TERM ? { TERM } : {}) };
    const wanted = { user, workdir: line.value('cwd'), env };
    const command = await sandbox.start(argv, wanted, { ...defined({ terminal }), handOver });
    const kill = () => void command.kill().catch(() => undefined);
    using _ = connect(command.process, kill);
    return commandStatus(await command.ended());
  });
}
