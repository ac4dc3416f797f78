import { KilnError } from '../errors.ts';
import type { StatePaths } from '../state/paths.ts';
import { type ListedBox, listBoxes } from './list.ts';

/**
 * The box that an id, or the beginning of one, means.
 * @throws KilnError E_NO_BOX when there is none, or several begin so; `kiln ps` shows what there is
 */
export async function findBox(paths: StatePaths, id: string): Promise<ListedBox> {
  const boxes = await listBoxes(paths);
  // An empty beginning would mean whatever sandbox there is.
  const found = id === '' ? [] : boxes.filter((box) => box.id.startsWith(id));
  const [only] = found;
  if (only !== undefined && found.length === 1) return only;
  const why = found.length === 0 ? 'there is none' : `${found.length} begin so`;
  throw new KilnError('E_NO_BOX', `no sandbox ${id === '' ? '""' : id}: ${why}`, {
    hint: '`kiln ps` lists them',
  });
}
