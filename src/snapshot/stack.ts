import type { ImageViewer } from '../engine.ts';
import { KilnError } from '../errors.ts';
import { currentAction } from '../events/action.ts';
import type { StatePaths } from '../host/state/paths.ts';
import { type LeasedImage, leaseImage } from '../image/store/images.ts';
import { findSnapshot, leaseSnapshot } from '../image/store/snapshots.ts';
import type { SnapshotLayer } from '../sandbox/policy/specification.ts';
import { WIRE } from '../sandbox/wire/table.ts';

/** An image and the snapshots above it. */
export interface LeasedStack extends LeasedImage {
  readonly layers: readonly SnapshotLayer[];
}

/**
 * None of it can be removed until this is disposed of.
 * @param ids of the snapshots, the lowest first
 * @throws KilnError E_IMAGE_MISSING, E_NO_SNAPSHOT
 */
export async function leaseStack(
  paths: StatePaths,
  imageId: string,
  ids: readonly string[],
): Promise<LeasedStack> {
  await using stack = new AsyncDisposableStack();
  const image = await leaseImage(paths, imageId);
  if (image === undefined) {
    throw new KilnError('E_IMAGE_MISSING', 'the image that the snapshot stands on is gone', {
      hint: '`kiln image ls` lists those that are there',
    });
  }
  stack.use(image);
  const layers: SnapshotLayer[] = [];
  for (const id of ids) {
    const { tree } = stack.use(await leaseSnapshot(paths, id));
    layers.push({ id, tree });
  }
  const all = stack.move();
  const { manifest, tree } = image;
  return { manifest, tree, layers, [Symbol.asyncDispose]: () => all.disposeAsync() };
}

/** Where snapshots lie, and who looks for one. */
interface SnapshotPlace {
  readonly paths: StatePaths;
  readonly owner: ImageViewer | undefined;
}

/** What `--from` names. @throws KilnError E_NO_SNAPSHOT, E_IMAGE_MISSING */
export async function leaseFrom(
  { paths, owner }: SnapshotPlace,
  word: string,
): Promise<LeasedStack> {
  const { id, record } = await findSnapshot(paths, owner, word);
  currentAction()?.found({ snapshot: id });
  return await leaseStack(paths, record.image, [...record.layers, id]);
}

/** Before a snapshot is made of a sandbox that stands on so many. @throws KilnError E_SNAPSHOT */
export function requireRoomAbove(layers: readonly string[]): void {
  if (layers.length < WIRE.lowerLayers) return;
  throw new KilnError(
    'E_SNAPSHOT',
    `the sandbox stands on ${layers.length} snapshots, which is the most`,
    { hint: '`kiln image commit ID --name NAME` makes an image of it: begin anew from that' },
  );
}
