/** A name means one image of its owner's: whoever gives it to another one takes it from the first. */
import { unlessErrno } from '../../host/calls/libc.ts';
import { withLock } from '../../host/files/flock.ts';
import { writeRecord } from '../../host/state/checked-file.ts';
import type { StatePaths } from '../../host/state/paths.ts';
import {
  type ImageOwner,
  imageDirectory,
  imageIds,
  namesOf,
  ownerFile,
  ownersOf,
  readManifest,
} from './manifest.ts';
import { callersLock } from './work-directory.ts';

/** Names of an image for one owner: kilnd's own thread reads them all. */
const NAMES_MAX = 20;

/**
 * Makes somebody an owner of an image, and has `owner.name` mean it unless `owner.names` is without that.
 * @returns the image that the name meant before, if that came from elsewhere
 */
export async function ownImage(
  paths: StatePaths,
  id: string,
  uid: number,
  owner: ImageOwner,
): Promise<string | undefined> {
  if (readManifest(paths, id) === undefined) return undefined;
  const isMeant = namesOf(owner).includes(owner.name);
  const known = ownersOf(paths, { id }).get(uid);
  const isNewest = !isMeant || namesOf(known)[0] === owner.name;
  if (known?.name === owner.name && isNewest && known.private === owner.private) return undefined;
  return await withLock(callersLock(paths, 'names', uid), async () => {
    const holders = isMeant ? holdersOf(paths, uid, owner.name).filter((one) => one.id !== id) : [];
    const others = namesOf(ownersOf(paths, { id }).get(uid)).filter((name) => name !== owner.name);
    const names = [...(isMeant ? [owner.name] : []), ...others].slice(0, NAMES_MAX);
    write(paths, id, uid, { ...owner, names });
    for (const { id: other, its } of holders) {
      const left = namesOf(its).filter((name) => name !== owner.name);
      write(paths, other, uid, { ...its, names: left });
    }
    return holders.find(({ its }) => its.from !== owner.from)?.id;
  });
}

/** The image may be removed meanwhile. */
function write(paths: StatePaths, id: string, uid: number, owner: ImageOwner): void {
  unlessErrno(['ENOENT'], () => writeRecord(ownerFile(imageDirectory(paths, id), uid), owner));
}

function holdersOf(paths: StatePaths, uid: number, name: string) {
  return imageIds(paths).flatMap((id) => {
    const its = ownersOf(paths, { id }).get(uid);
    return its !== undefined && namesOf(its).includes(name) ? [{ id, its }] : [];
  });
}
