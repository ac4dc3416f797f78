/** Persistent roots as in mock: an image, and an overlay's upper directory that is kept by name. */
import { existsSync } from 'node:fs';
import { mkdir, rename, rm, stat } from 'node:fs/promises';
import { basename, join } from 'node:path';
import type { Engine } from '../../../engine.ts';
import { isKilnCode, KilnError } from '../../../errors.ts';
import { type HeldLock, tryLock } from '../../../host/files/flock.ts';
import { readRecordOrSetAside, withFields, writeRecord } from '../../../host/state/checked-file.ts';
import type { DiskBound } from '../../../host/state/disk-watch.ts';
import type { StatePaths } from '../../../host/state/paths.ts';
import { currentMoment, isDurable, type Moment } from '../../../image/store/durability.ts';
import { type LeasedImage, leaseImage } from '../../../image/store/images.ts';
import { readContents } from '../../../image/store/manifest.ts';
import { rootFolder, rootNames, storageLeft, usageOf } from '../../../image/store/user-storage.ts';
import {
  discard,
  ensureStore,
  lockFile,
  openWorkDirectory,
} from '../../../image/store/work-directory.ts';
import type { LockedPackage } from '../../../packages/repository/lock/lock.ts';
import { sweepSandboxes } from '../../../sandbox/domain/sweep.ts';
import type { SnapshotLayer } from '../../../sandbox/policy/specification.ts';
import { pruneRecipes } from '../chroot.ts';
import { NO_SNAPSHOTS, restore, rollBack, type SnapshotState, snapshotName } from './snapshots.ts';

/** A valid name: it is also a folder, and part of a lock's name. Root names users' roots with their owner. */
const NAME = /^[A-Za-z0-9_][A-Za-z0-9_.+@:~-]{0,199}$/;
const OWNED = /^@\d+-/;

/** Of one user: whoever lists images reads the records of all roots. */
const ROOTS_MAX = 50;

const FORMAT = 1;

interface RootState extends SnapshotState {
  /** When it was last changed: changes that a crash may have lost are not trusted. */
  readonly changed: Moment;
  /** A sandbox may use it: set before the sandbox opens, cleared when it is gone. */
  readonly inUse: boolean;
  /** Set while packages change: a root found with it is incomplete. */
  readonly changing: boolean;
  readonly pristine: boolean;
}

interface RootRecord extends RootState {
  readonly format: typeof FORMAT;
  readonly image: string;
}

const RECORD = 'root.json';
const PACKAGES = 'packages.json';
const SCRATCH = 'scratch';

const takeRecord = withFields<RootRecord>({ format: 'number', image: 'string', changed: 'object' });
const takePackages = withFields<{ packages: LockedPackage[] }>({ packages: 'array' });

function readRecord(directory: string): RootRecord | undefined {
  const record = readRecordOrSetAside(join(directory, RECORD), takeRecord);
  return record?.format === FORMAT ? { ...NO_SNAPSHOTS, ...record } : undefined;
}

function readPackages(directory: string, name = PACKAGES): LockedPackage[] | undefined {
  return readRecordOrSetAside(join(directory, name), takePackages)?.packages;
}

export class MockRoot implements AsyncDisposable {
  readonly name: string;
  readonly engine: Engine;
  readonly #lock: HeldLock;
  #image: LeasedImage | undefined;
  #record: RootRecord | undefined;

  private constructor(engine: Engine, name: string, lock: HeldLock) {
    this.engine = engine;
    this.name = name;
    this.#lock = lock;
  }

  /**
   * Locks a root, whether it exists or not.
   * @throws KilnError E_MOCK_ROOT_LOCKED while another process has it, E_MOCK_ROOT_NAME
   */
  static async lock(engine: Engine, name: string): Promise<MockRoot> {
    if (!NAME.test(engine.owner === undefined ? name.replace(OWNED, '') : name)) {
      const what = `${JSON.stringify(name)} cannot be the name of a root`;
      throw new KilnError('E_MOCK_ROOT_NAME', what, {
        hint: 'letters, digits and _ . + - @ : ~ only',
      });
    }
    ensureStore(engine.paths);
    await mkdir(engine.paths.roots, { recursive: true, mode: 0o700 });
    const lock = await tryLock(lockOf(engine.paths, engine.owner, name));
    if (lock === undefined) {
      throw new KilnError('E_MOCK_ROOT_LOCKED', 'Build root is locked by another process.', {
        hint: `wait until it is done with ${name}, or use another one with --uniqueext`,
      });
    }
    return new MockRoot(engine, name, lock);
  }

  /** The lock lies elsewhere, so that the folder can be removed. */
  get directory(): string {
    return rootFolder(this.engine.paths, this.engine.owner, this.name);
  }

  get image(): LeasedImage {
    if (this.#image === undefined) throw new TypeError(`the root ${this.name} was not opened`);
    return this.#image;
  }

  get record(): RootRecord {
    if (this.#record === undefined) throw new TypeError(`the root ${this.name} was not opened`);
    return this.#record;
  }

  async open(because: (reason: string) => void): Promise<this | undefined> {
    if (this.#image !== undefined) return this;
    const { paths } = this.engine;
    const record = readRecord(this.directory);
    if (record === undefined) {
      await discard(paths, this.directory);
      return undefined;
    }
    if (record.inUse) await this.#endSandboxes();
    const image = await leaseImage(paths, record.image);
    let reason: string | undefined;
    if (image === undefined) reason = 'its image is gone';
    else if (record.changing) reason = 'it was being changed when kiln was killed';
    else if (!isDurable(paths, record.changed)) {
      reason = 'the machine was restarted before all of it was on the disk';
    } else if (readPackages(this.directory) === undefined) {
      reason = 'which packages it has is lost';
    }
    if (image !== undefined) {
      this.#image = image;
      this.#record = record;
      if (reason === undefined) return this;
      if (await restore(this)) {
        because(`the root ${this.name} is as at its snapshot ${snapshotName(this)}: ${reason}`);
        return this;
      }
    }
    because(`the root ${this.name} is made again: ${reason}`);
    await this.remove();
    return undefined;
  }

  async make(image: LeasedImage): Promise<this> {
    const { paths, owner } = this.engine;
    await this.remove();
    if (owner !== undefined) {
      await storageLeft(paths, owner);
      if ((await rootNames(paths, owner)).length >= ROOTS_MAX) {
        throw new KilnError('E_DISK', `user ${owner.uid} has ${ROOTS_MAX} roots already`, {
          hint: '`kiln-mock --clean` removes one, `kiln-mock --scrub-all-chroots` all of yours',
        });
      }
    }
    const { id } = image.manifest;
    const { packages } = await readContents(paths, id);
    await using work = await openWorkDirectory(paths);
    const made = join(work.path, 'root');
    await mkdir(join(made, SCRATCH), { recursive: true, mode: 0o700 });
    const record: RootRecord = {
      format: FORMAT,
      image: id,
      changed: currentMoment(),
      inUse: false,
      changing: false,
      pristine: true,
      ...NO_SNAPSHOTS,
    };
    writeRecord(join(made, PACKAGES), { packages });
    writeRecord(join(made, RECORD), record);
    await rename(made, this.directory);
    this.#image = image;
    this.#record = record;
    return this;
  }

  /** Goes back to its current snapshot; a root without snapshots is removed, and its files lie at the returned path. */
  async clean(): Promise<string | undefined> {
    const { snapshots = [] } = this.#record ?? readRecord(this.directory) ?? {};
    const opened = snapshots.length === 0 ? undefined : await this.open(() => undefined);
    if (opened === undefined) return await this.remove();
    await rollBack(this, this.record.current);
    return undefined;
  }

  /** With its snapshots. */
  async remove(): Promise<string | undefined> {
    const record = this.#record ?? readRecord(this.directory);
    if (record?.inUse === true) await this.#endSandboxes();
    const trashed = await discard(this.engine.paths, this.directory);
    await this.#image?.[Symbol.asyncDispose]();
    this.#image = undefined;
    this.#record = undefined;
    return trashed;
  }

  async note(change: Partial<RootState>): Promise<void> {
    this.#record = { ...this.record, ...change, changed: currentMoment() };
    writeRecord(join(this.directory, RECORD), this.#record);
  }

  /** What is written to. */
  get scratch(): string {
    return join(this.scratchSpace, this.record.top);
  }

  /** Of snapshots, too. */
  get scratchSpace(): string {
    return join(this.directory, SCRATCH);
  }

  get layers(): readonly SnapshotLayer[] {
    return this.record.layers.map((id) => ({ id, tree: join(this.scratchSpace, id, 'upper') }));
  }

  async rebase(id: string): Promise<void> {
    const { paths } = this.engine;
    const image = await leaseImage(paths, id);
    if (image === undefined) {
      throw new KilnError('E_IMAGE_MISSING', `image ${id} is gone, the root was made on it`, {
        hint: '`kiln-mock --clean` removes the root; the next call makes it again',
      });
    }
    await this.#image?.[Symbol.asyncDispose]();
    this.#image = image;
    this.#record = { ...this.record, image: id };
    this.setPackages((await readContents(paths, id)).packages);
    await this.note({});
  }

  /** Those it has, or those of a file that a snapshot names. */
  packages(of?: string): LockedPackage[] {
    const packages = readPackages(this.directory, of);
    if (packages !== undefined) return packages;
    throw new KilnError('E_DAMAGED', `the root ${this.name} has lost its list of packages`, {
      hint: 'it is made again when it is opened again',
    });
  }

  setPackages(packages: readonly LockedPackage[], of = PACKAGES): void {
    writeRecord(join(this.directory, of), { packages });
  }

  /** What a user may write to it; nothing bounds root's. @throws KilnError E_DISK */
  async bound(): Promise<DiskBound | undefined> {
    const { owner, paths } = this.engine;
    if (owner === undefined) return undefined;
    const left = await storageLeft(paths, owner);
    const room = Math.min(owner.share.disk - usageOf(this.directory).bytes, left);
    return {
      tree: this.scratch,
      // The watch counts what comes from now on.
      bytes: Math.max(room, 0),
      who: `what runs in the root ${this.name}`,
      hint: 'the root is removed; root sets users.limits.disk and users.limits.storage',
    };
  }

  /** Ends sandboxes of a process that died with the root: two overlays must not share it. */
  async #endSandboxes(): Promise<void> {
    await sweepSandboxes(this.engine.paths, this.engine.connect);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#image?.[Symbol.asyncDispose]();
    this.#image = undefined;
    const { paths, owner } = this.engine;
    // Users could leave locks behind without number: a name of theirs costs nothing.
    if (owner !== undefined && !existsSync(this.directory)) {
      await rm(lockOf(paths, owner, this.name), { force: true });
    }
    await this.#lock.release();
  }
}

function lockOf(paths: StatePaths, owner: Engine['owner'], name: string): string {
  return lockFile(paths, `root-${basename(rootFolder(paths, owner, name))}`);
}

/**
 * Removes roots and recipes that were not used for `maxAge` ms, and roots whose records are lost, which nobody can open
 * any more: but none that is in use. Returns the roots' names.
 */
export async function pruneRoots(
  engine: Engine,
  maxAge = Number.POSITIVE_INFINITY,
): Promise<string[]> {
  const { paths, owner } = engine;
  if (owner === undefined) await pruneRecipes(paths, maxAge);
  const removed: string[] = [];
  for (const name of await rootNames(paths, owner)) {
    const folder = rootFolder(paths, owner, name);
    const used = await stat(join(folder, RECORD)).catch(() => undefined);
    const isWhole = readRecord(folder) !== undefined && readPackages(folder) !== undefined;
    if (isWhole && used !== undefined && Date.now() - used.mtimeMs < maxAge) continue;
    try {
      await using root = await MockRoot.lock(engine, name);
      await root.remove();
      removed.push(name);
    } catch (error) {
      if (!isKilnCode(error, 'E_MOCK_ROOT_LOCKED')) throw error;
    }
  }
  return removed;
}
