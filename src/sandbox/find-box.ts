import { KilnError } from '../errors.ts';
import { type ListedBox, listBoxes } from './list.ts';
import type { Engine } from './open.ts';

/**
 * The box that an id, or the beginning of one, means, among those of the engine's owner.
 * @throws KilnError E_NO_BOX when there is none, or several begin so; `kiln ps` shows what there is
 */
export async function findBox(
  { paths, owner }: Pick<Engine, 'paths' | 'owner'>,
  id: string,
): Promise<ListedBox> {
  const boxes = await listBoxes(paths, { owner });
  // An empty beginning would mean whatever sandbox there is.
  const found = id === '' ? [] : boxes.filter((box) => box.id.startsWith(id));
  const [only] = found;
  if (only !== undefined && found.length === 1) return only;
  const why = found.length === 0 ? 'there is none' : `${found.length} begin so`;
  throw new KilnError('E_NO_BOX', `no sandbox ${id === '' ? '""' : id}: ${why}`, {
    hint: '`kiln ps` lists them',
  });
}
