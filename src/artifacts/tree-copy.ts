import { type BigIntStats, closeSync, fstatSync } from 'node:fs';
import { KilnError } from '../errors.ts';
import { closing } from '../host/calls/descriptor.ts';
import { attempt, hasErrno, SyscallError } from '../host/calls/libc.ts';
import { openPath, readlinkat } from '../host/files/at.ts';
import type { Budget } from './budget.ts';
import { type ByteString, fromBytes, joinBytes, quoteName, toBytes } from './byte-string.ts';
import { type CopiedContent, copyContent, ReadFailed } from './content.ts';
import {
  type Destination,
  type DestinationStep,
  keptMode,
  type WithRights,
} from './destination.ts';
import { whyLeftOut } from './link-policy.ts';
import type { CopiedEntry, Inventory } from './manifest.ts';
import {
  type DirectoryEntry,
  FileSystems,
  listEntries,
  reopenFile,
  specialKind,
} from './source.ts';
import type { Warnings } from './warning.ts';

interface TreeCopyOptions {
  readonly destination: Destination;
  readonly inventory: Inventory;
  readonly budget: Budget;
  readonly warnings: Warnings;
  readonly links: 'now' | 'later';
  /** Does what opens, lists or reads an entry of the source, as somebody else than this process. */
  readonly reading?: WithRights;
}

interface MadeEntry extends DestinationStep {
  readonly source: ByteString;
}

interface DirectoryPair extends MadeEntry {
  readonly from: number;
  readonly depth: number;
}

interface CopyStep extends DirectoryPair {
  readonly name: Buffer;
}

/**
 * Copies entries of one tree into another: content with its digest, holes, permission bits, times,
 * hard links among the copies; owners become one owner. The source may be hostile and may change:
 * nothing is followed, and nothing opened before its type is known.
 * What cannot be copied is a warning; what cannot be written, or is too much, is an error.
 */
export class TreeCopy {
  readonly #options: TreeCopyOptions;
  readonly #reading: WithRights;
  readonly #fileSystems = new FileSystems();
  readonly #inodes = new Map<string, CopiedEntry>();
  readonly #links: { readonly entry: CopiedEntry; readonly stats: BigIntStats }[] = [];

  constructor(options: TreeCopyOptions) {
    this.#options = options;
    this.#reading = options.reading ?? ((act) => act());
  }

  async copyEntries(directory: DirectoryPair, entries: readonly DirectoryEntry[]): Promise<void> {
    for (const { name } of entries) {
      const source = `${directory.source}/${name}`;
      const path = joinBytes(directory.path, name);
      await this.copy({ ...directory, name: toBytes(name), source, path });
    }
  }

  async copy(step: CopyStep): Promise<void> {
    const { budget } = this.#options;
    if (budget.due) await budget.breathe();
    using opened = this.#read(step.source, () => closing(openPath(step.from, step.name)));
    if (opened !== undefined) await this.copyOpened(step, opened.fd);
  }

  /** The same of what is open already, with O_PATH. */
  async copyOpened(step: DirectoryPair, fd: number): Promise<void> {
    const { warnings, inventory } = this.#options;
    const stats = fstatSync(fd, { bigint: true });
    if (this.isPseudo(fd, stats)) {
      warnings.add('pseudo-filesystem', step.source, 'is in a pseudo file system: skipped');
    } else if (stats.isDirectory()) {
      await this.#copyDirectory(step, fd, stats);
    } else if (stats.isFile()) {
      if (inventory.isNew({ ...step, type: 'file' })) await this.#copyFile(step, fd, stats);
    } else if (stats.isSymbolicLink()) {
      if (inventory.isNew({ ...step, type: 'symlink' })) this.#copyLink(step, fd, stats);
    } else {
      warnings.add('special-file', step.source, `is ${specialKind(stats)}: skipped`);
    }
  }

  isPseudo(fd: number, stats: BigIntStats): boolean {
    return this.#fileSystems.isPseudo(fd, stats);
  }

  makeDirectory(made: MadeEntry, stats: BigIntStats): number {
    const { inventory, destination } = this.#options;
    if (inventory.isNew({ ...made, type: 'directory' })) {
      destination.makeDirectory(made, stats);
      this.#options.warnings.addDroppedBits(made.source, stats);
      this.#record(made, stats, { type: 'directory', size: 0 });
    }
    return destination.openDirectory(made);
  }

  /** Makes the links kept for later that stay inside; the others leave the inventory, with a warning. */
  makeLinks(): void {
    const { inventory, destination, warnings } = this.#options;
    const links = this.#links.map((link) => ({ ...link, why: whyLeftOut(link.entry, inventory) }));
    for (const { entry, why } of links) {
      if (why === undefined) continue;
      const { path, source, target = '' } = entry;
      const what = `is a symbolic link to ${quoteName(target)}, ${why}: skipped (docs/artifacts.md)`;
      warnings.add('link-outside', source, what);
      inventory.remove(path);
    }
    for (const { entry, stats } of links.filter(({ why }) => why === undefined)) {
      destination.inDirectoryOf(entry.path, (to) => {
        destination.makeSymlink({ to, path: entry.path }, entry.target ?? '', stats);
      });
    }
  }

  /** Undefined, after a warning, for what cannot be read. @throws KilnError E_ARTIFACT_LIMIT */
  #read<Result>(source: ByteString, act: () => Result): Result | undefined {
    try {
      return this.#reading(act);
    } catch (error) {
      if (error instanceof KilnError && !(error instanceof SyscallError)) throw error;
      if (hasErrno(error, 'ENOENT')) {
        this.#options.warnings.add('vanished', source, 'was gone before it could be read');
      } else {
        this.#unreadable(source, error);
      }
      return undefined;
    }
  }

  #unreadable(source: ByteString, error: unknown): void {
    const why = error instanceof SyscallError ? error.errnoName : (error as Error).message;
    this.#options.warnings.add('unreadable', source, `cannot be read (${why}): skipped`);
  }

  async #copyDirectory(step: DirectoryPair, fd: number, stats: BigIntStats): Promise<void> {
    this.#options.budget.checkDepth(step.depth);
    const entries = this.#read(step.source, () => listEntries(fd, this.#options.budget));
    if (entries === undefined) return;
    using to = closing(this.makeDirectory(step, stats));
    const { source, path, depth } = step;
    await this.copyEntries({ from: fd, to: to.fd, source, path, depth: depth + 1 }, entries);
  }

  async #copyFile(step: DirectoryPair, pathFd: number, stats: BigIntStats): Promise<void> {
    const inode = stats.nlink > 1n ? `${stats.dev}:${stats.ino}` : undefined;
    const twin = inode === undefined ? undefined : this.#inodes.get(inode);
    if (twin !== undefined && this.#options.destination.linkFile(step, twin.path)) {
      const { path, source } = step;
      this.#options.inventory.add({ ...twin, path, source, hardLinkTo: twin.path });
      return;
    }
    using from = this.#read(step.source, () => closing(reopenFile(pathFd)));
    if (from === undefined) return;
    const content = await this.#copyContent(step, from.fd, stats);
    if (content === undefined) return;
    const changed = this.#warnIfChanged(step, from.fd, stats, content);
    this.#options.warnings.addDroppedBits(step.source, stats);
    const rest = { type: 'file', ...content, ...(changed && { changed }) } as const;
    const entry = this.#record(step, stats, rest);
    if (inode !== undefined) this.#inodes.set(inode, entry);
  }

  async #copyContent(
    step: DirectoryPair,
    from: number,
    stats: BigIntStats,
  ): Promise<CopiedContent | undefined> {
    const { destination, budget } = this.#options;
    const to = destination.createFile(step);
    let isOpen = true;
    try {
      const [size, blocks] = [Number(stats.size), Number(stats.blocks)];
      const copying = copyContent(from, to, size, blocks, budget, destination.writing);
      const copied = copying instanceof Promise ? await copying : copying;
      destination.dress(to, stats);
      // A file system over a network may say only now that it could not keep something.
      isOpen = false;
      closeSync(to);
      return copied;
    } catch (error) {
      if (!(error instanceof ReadFailed)) {
        // A part of it would look like the whole.
        attempt(() => destination.removeFile(step));
        throw destination.failure(step.path, error);
      }
      this.#unreadable(step.source, error.cause);
      destination.removeFile(step);
      return undefined;
    } finally {
      if (isOpen) closeSync(to);
    }
  }

  #warnIfChanged(
    step: DirectoryPair,
    from: number,
    before: BigIntStats,
    content: CopiedContent,
  ): boolean {
    const after = fstatSync(from, { bigint: true });
    const whole = content.size === Number(before.size) && after.size === before.size;
    if (whole && after.mtimeNs === before.mtimeNs) return false;
    this.#options.warnings.add(
      'changed',
      step.source,
      `changed while being read: it had ${before.size} bytes, ${content.size} were copied, ` +
        `afterwards it had ${after.size}`,
    );
    return true;
  }

  #copyLink(step: DirectoryPair, fd: number, stats: BigIntStats): void {
    const target = this.#read(step.source, () => fromBytes(readlinkat(fd, '')));
    if (target === undefined) return;
    const entry = this.#record(step, stats, { type: 'symlink', size: target.length, target });
    if (this.#options.links === 'later') this.#links.push({ entry, stats });
    else this.#options.destination.makeSymlink(step, target, stats);
  }

  /** @param rest what the file system's own record of it does not say */
  #record(
    { path, source }: MadeEntry,
    stats: BigIntStats,
    rest: Omit<CopiedEntry, 'path' | 'source' | 'mode' | 'mtimeMs'>,
  ): CopiedEntry {
    const mode = rest.type === 'symlink' ? 0o777 : keptMode(stats);
    const entry = { ...rest, path, source, mode, mtimeMs: wholeMs(stats.mtimeNs) };
    this.#options.inventory.add(entry);
    return entry;
  }
}

/** Rounded down, before 1970 too. */
function wholeMs(nanoseconds: bigint): number {
  const million = 1_000_000n;
  const part = ((nanoseconds % million) + million) % million;
  return Number((nanoseconds - part) / million);
}
