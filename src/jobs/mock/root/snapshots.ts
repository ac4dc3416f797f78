/**
 * Snapshots of a root, as mock's plugins overlayfs and lvm_root have them: what was written becomes a layer, without a
 * copy, and the root goes on above it. `postinit` is the root's image. Whoever calls has the root's lock.
 */
import { randomBytes } from 'node:crypto';
import { existsSync } from 'node:fs';
import { mkdir, readdir, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { KilnError } from '../../../errors.ts';
import { foundAt } from '../../../host/files/held.ts';
import type { StatePaths } from '../../../host/state/paths.ts';
import { currentMoment, isDurable, type Moment } from '../../../image/store/durability.ts';
import type { LeasedImage } from '../../../image/store/images.ts';
import { readContents } from '../../../image/store/manifest.ts';
import { discard } from '../../../image/store/work-directory.ts';
import type { LockedPackage } from '../../../packages/repository/lock/lock.ts';
import { labelForImages } from '../../../sandbox/labels/relabel.ts';
import { WIRE } from '../../../sandbox/wire/table.ts';

interface RootSnapshot {
  readonly name: string;
  /** Whose `upper` has its files: folders of the root's scratch space, the lowest first. */
  readonly layers: readonly string[];
  /** Names the file with its list of packages. */
  readonly packages: string;
  readonly made: Moment;
}

export interface SnapshotState {
  /** The folder of scratch space that is written to. */
  readonly top: string;
  /** Of snapshots, between the image and `top`, the lowest first. */
  readonly layers: readonly string[];
  readonly snapshots: readonly RootSnapshot[];
  /** The name of the snapshot that cleaning goes back to; the image unless given. */
  readonly current?: string | undefined;
}

export const NO_SNAPSHOTS: SnapshotState = { top: '.', layers: [], snapshots: [] };

/** An open root. */
interface Root {
  readonly name: string;
  readonly engine: { readonly paths: StatePaths };
  readonly image: LeasedImage;
  readonly record: SnapshotState;
  readonly directory: string;
  readonly scratch: string;
  readonly scratchSpace: string;
  packages(of?: string): LockedPackage[];
  setPackages(packages: readonly LockedPackage[], of?: string): void;
  note(change: Partial<SnapshotState & { changing: boolean; pristine: boolean }>): Promise<void>;
}

const POSTINIT = 'postinit';

/** mock's rule for the overlay plugin, with a bound. */
const NAME = /^[A-Za-z0-9_-][A-Za-z0-9_.-]{0,63}$/;

const PACKAGES = /^packages-[0-9a-f]+\.json$/;

const newId = () => randomBytes(5).toString('hex');

/** An empty folder to write to. */
async function newTop({ scratchSpace }: Root): Promise<string> {
  const id = newId();
  await mkdir(join(scratchSpace, id), { recursive: true, mode: 0o700 });
  return id;
}

/** The name of the snapshot that cleaning goes back to. */
export function snapshotName({ record }: Root): string {
  return record.current ?? POSTINIT;
}

/** Makes what was written to a root a snapshot, to which cleaning goes back from now on. @throws KilnError E_SNAPSHOT */
export async function takeSnapshot(root: Root, name: string): Promise<void> {
  const { top, layers, snapshots } = root.record;
  requireName(name);
  if (name === POSTINIT || snapshots.some((snapshot) => snapshot.name === name)) {
    throw new KilnError('E_SNAPSHOT', `Snapshot ${name} already exists`, {
      hint: `take another name, or remove that one: \`kiln-mock --remove-snapshot ${name}\``,
    });
  }
  const upper = join(root.scratch, 'upper');
  const isWritten = existsSync(upper);
  if (isWritten && layers.length >= WIRE.lowerLayers) {
    throw new KilnError(
      'E_SNAPSHOT',
      `${root.name} stands on ${layers.length} snapshots, which is the most`,
      {
        hint: 'go back to an earlier one: `kiln-mock --rollback-to NAME`',
      },
    );
  }
  // Whatever sandbox has written it, all may read it from now on.
  if (isWritten) await labelForImages(upper);
  const packages = `packages-${newId()}.json`;
  root.setPackages(root.packages(), packages);
  const stack = isWritten ? [...layers, top] : layers;
  const snapshot = { name, layers: stack, packages, made: currentMoment() };
  await root.note({
    ...{ snapshots: [...snapshots, snapshot], current: name, pristine: false },
    ...(isWritten && { layers: stack, top: await newTop(root) }),
  });
}

/** Makes a root what it was at a snapshot, to which cleaning goes back from now on. @throws KilnError E_NO_SNAPSHOT */
export async function rollBack(root: Root, name: string | undefined): Promise<void> {
  const snapshot = name === undefined || name === POSTINIT ? undefined : find(root, name);
  const packages =
    snapshot === undefined
      ? (await readContents(root.engine.paths, root.image.manifest.id)).packages
      : root.packages(snapshot.packages);
  await root.note({ changing: true, pristine: false });
  root.setPackages(packages);
  const layers = snapshot?.layers ?? [];
  const top = await newTop(root);
  await root.note({ changing: false, current: snapshot?.name, layers, top });
  await sweep(root);
}

/**
 * Makes a root that cannot be trusted what it was at its current snapshot, if all of that is on the disk. False: it has
 * none, and has to be made again.
 */
export async function restore(root: Root): Promise<boolean> {
  const { current, snapshots } = root.record;
  const { paths } = root.engine;
  const whole = snapshots.filter(({ made }) => isDurable(paths, made));
  if (whole.length === 0) return false;
  await root.note({ snapshots: whole });
  try {
    await rollBack(root, whole.find(({ name }) => name === current)?.name);
    return true;
  } catch {
    // Its list of packages is lost as well.
    return false;
  }
}

/** @throws KilnError E_SNAPSHOT, E_NO_SNAPSHOT */
export async function removeSnapshot(root: Root, name: string): Promise<void> {
  if (name === POSTINIT) {
    throw new KilnError(
      'E_SNAPSHOT',
      "Won't remove postinit snapshot: it is the image of the root",
      {
        hint: '`kiln-mock --scrub overlayfs` removes the root with all its snapshots',
      },
    );
  }
  find(root, name);
  const { current, snapshots } = root.record;
  await root.note({
    snapshots: snapshots.filter((snapshot) => snapshot.name !== name),
    current: current === name ? undefined : current,
  });
  await sweep(root);
}

/** As mock lists them: a star before the current one. */
export function snapshotLines(root: Root): string[] {
  const names = [POSTINIT, ...root.record.snapshots.map(({ name }) => name)];
  return names.map((name) => `${name === snapshotName(root) ? '*' : ' '} ${name}`);
}

function requireName(name: string): void {
  if (NAME.test(name)) return;
  throw new KilnError('E_SNAPSHOT', `Invalid snapshot name: ${JSON.stringify(name)}`, {
    hint: 'a name has up to 64 letters, digits, `_`, `.` and `-`, and does not begin with a point',
  });
}

function find(root: Root, name: string): RootSnapshot {
  const found = root.record.snapshots.find((snapshot) => snapshot.name === name);
  if (found !== undefined) return found;
  throw new KilnError('E_NO_SNAPSHOT', `Snapshot ${name} doesn't exist`, {
    hint: '`kiln-mock --list-snapshots` shows those that are there',
  });
}

/** Removes what no snapshot, nor the root itself, stands on. */
async function sweep({ engine, directory, scratchSpace, record }: Root): Promise<void> {
  const { top, layers, snapshots } = record;
  const used = new Set([top, ...layers, ...snapshots.flatMap((snapshot) => snapshot.layers)]);
  for (const name of await readdir(foundAt(scratchSpace))) {
    // The first top of a root is the scratch space itself.
    const owner = ['upper', 'work', 'lowers'].includes(name) ? '.' : name;
    if (!used.has(owner)) await discard(engine.paths, join(scratchSpace, name));
  }
  const lists = new Set(snapshots.map(({ packages }) => packages));
  for (const name of await readdir(foundAt(directory))) {
    if (PACKAGES.test(name) && !lists.has(name)) await rm(join(directory, name), { force: true });
  }
}
