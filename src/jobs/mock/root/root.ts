/**
 * Persistent roots as in mock: an image, and an overlay's upper directory that is kept by name. Files in it are
 * owned by ids of the sandbox; each sandbox maps them anew.
 */
import { mkdir, rename } from 'node:fs/promises';
import { join } from 'node:path';
import { KilnError } from '../../../errors.ts';
import { type HeldLock, tryLock } from '../../../host/files/flock.ts';
import { currentMoment, isDurable } from '../../../image/store/durability.ts';
import { type LeasedImage, leaseImage } from '../../../image/store/images.ts';
import { readContents } from '../../../image/store/manifest.ts';
import {
  discard,
  ensureStore,
  lockFile,
  openWorkDirectory,
} from '../../../image/store/work-directory.ts';
import type { LockedPackage } from '../../../packages/repository/lock/lock.ts';
import { sweepSandboxes } from '../../../sandbox/domain/sweep.ts';
import type { Engine } from '../../../sandbox/open.ts';
import {
  ROOT_FORMAT,
  type RootRecord,
  readRootPackages,
  readRootRecord,
  rootDirectory,
  rootFiles,
  writeRootPackages,
  writeRootRecord,
} from './record.ts';

/** A valid name: it is also a folder, and part of a lock's name. */
const NAME = /^[A-Za-z0-9_][A-Za-z0-9_.+@:~-]{0,254}$/;

/** A locked root: nobody else can use it until this is disposed of. */
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
   * @throws KilnError E_MOCK_ROOT_LOCKED while another process has it, E_MOCK_ROOT_NAME.
   */
  static async lock(engine: Engine, name: string): Promise<MockRoot> {
    if (!NAME.test(name)) {
      throw new KilnError(
        'E_MOCK_ROOT_NAME',
        `${JSON.stringify(name)} cannot be the name of a root`,
        {
          hint: 'letters, digits and _ . + - @ : ~ only',
        },
      );
    }
    ensureStore(engine.paths);
    await mkdir(engine.paths.roots, { recursive: true, mode: 0o700 });
    const lock = await tryLock(lockFile(engine.paths, `root-${name}`));
    if (lock === undefined) {
      throw new KilnError('E_MOCK_ROOT_LOCKED', 'Build root is locked by another process.', {
        hint: `wait until it is done with ${name}, or use another one with --uniqueext`,
      });
    }
    return new MockRoot(engine, name, lock);
  }

  get directory(): string {
    return rootDirectory(this.engine.paths, this.name);
  }

  /** The image of the root; only while the root exists. */
  get image(): LeasedImage {
    if (this.#image === undefined) throw new TypeError(`the root ${this.name} was not opened`);
    return this.#image;
  }

  get record(): RootRecord {
    if (this.#record === undefined) throw new TypeError(`the root ${this.name} was not opened`);
    return this.#record;
  }

  /**
   * Opens an existing root. Undefined if there is none, or if it cannot be used; then it is removed, and
   * `because` gets the reason.
   */
  async open(because: (reason: string) => void): Promise<this | undefined> {
    if (this.#image !== undefined) return this;
    const { paths } = this.engine;
    const record = await readRootRecord(this.directory);
    if (record === undefined) {
      await discard(paths, this.directory);
      return undefined;
    }
    if (record.inUse) await this.#endSandboxes();
    const image = await leaseImage(paths, record.image);
    const reason =
      image === undefined
        ? 'its image is gone'
        : record.changing
          ? 'it was being changed when kiln was killed'
          : isDurable(paths, record.changed)
            ? this.#hasPackages()
              ? undefined
              : 'which packages it has is lost'
            : 'the machine was started anew before all of it was on the disk';
    if (image === undefined || reason !== undefined) {
      await image?.[Symbol.asyncDispose]();
      because(`the root ${this.name} is made anew: ${reason}`);
      await discard(paths, this.directory);
      return undefined;
    }
    this.#image = image;
    this.#record = record;
    return this;
  }

  /** Makes the root anew on an image, and takes over the image's lease. */
  async make(image: LeasedImage): Promise<this> {
    const { paths } = this.engine;
    await this.remove();
    const { id } = image.manifest;
    const { packages } = await readContents(paths, id);
    await using work = await openWorkDirectory(paths);
    const made = join(work.path, 'root');
    await mkdir(rootFiles.scratch(made), { recursive: true, mode: 0o700 });
    const record: RootRecord = {
      format: ROOT_FORMAT,
      image: id,
      changed: currentMoment(),
      inUse: false,
      changing: false,
      pristine: true,
    };
    await writeRootPackages(made, packages);
    await writeRootRecord(made, record);
    await rename(made, this.directory);
    this.#image = image;
    this.#record = record;
    return this;
  }

  /** Removes the root, if it exists, and returns where it waits to be deleted. It stays locked. */
  async remove(): Promise<string | undefined> {
    const record = this.#record ?? (await readRootRecord(this.directory));
    if (record?.inUse === true) await this.#endSandboxes();
    const trashed = await discard(this.engine.paths, this.directory);
    await this.#image?.[Symbol.asyncDispose]();
    this.#image = undefined;
    this.#record = undefined;
    return trashed;
  }

  /** Changes root.json. */
  async note(change: Partial<Omit<RootRecord, 'format' | 'image'>>): Promise<void> {
    this.#record = { ...this.record, ...change, changed: currentMoment() };
    await writeRootRecord(this.directory, this.#record);
  }

  /** The overlay's upper and work directories, for sandboxes. */
  get scratch(): string {
    return rootFiles.scratch(this.directory);
  }

  /** Moves the root to another image, on which its content was written. */
  async rebase(id: string): Promise<void> {
    const { paths } = this.engine;
    const image = await leaseImage(paths, id);
    if (image === undefined) {
      throw new KilnError('E_IMAGE_MISSING', `image ${id} is gone, the root was made on it`, {
        hint: '`kiln-mock --clean` removes the root; the next call makes it anew',
      });
    }
    await this.#image?.[Symbol.asyncDispose]();
    this.#image = image;
    this.#record = { ...this.record, image: id };
    await this.setPackages((await readContents(paths, id)).packages);
    await this.note({});
  }

  async packages(): Promise<LockedPackage[]> {
    const packages = readRootPackages(this.directory);
    if (packages !== undefined) return packages;
    throw new KilnError('E_DAMAGED', `the root ${this.name} has lost its list of packages`, {
      hint: 'it is made anew when it is opened again',
    });
  }

  #hasPackages(): boolean {
    return readRootPackages(this.directory) !== undefined;
  }

  async setPackages(packages: readonly LockedPackage[]): Promise<void> {
    await writeRootPackages(this.directory, packages);
  }

  /** Ends sandboxes of a process that died with the root: two overlays must not share it. */
  async #endSandboxes(): Promise<void> {
    await sweepSandboxes(this.engine.paths, this.engine.connect);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#image?.[Symbol.asyncDispose]();
    this.#image = undefined;
    await this.#lock.release();
  }
}
