import { KilnError } from '../../errors.ts';
import type { Engine } from '../open.ts';
import { type ListedSandbox, listSandboxes } from './list.ts';

/**
 * The sandbox of the engine's owner that an id, or the beginning of one, names.
 * @throws KilnError E_NO_SANDBOX when there is none, or several begin so; `kiln ps` shows what there is
 */
export async function findSandbox(
  { paths, owner }: Pick<Engine, 'paths' | 'owner'>,
  id: string,
): Promise<ListedSandbox> {
  const sandboxes = await listSandboxes(paths, { owner });
  // An empty beginning would match any sandbox.
  const found = id === '' ? [] : sandboxes.filter((sandbox) => sandbox.id.startsWith(id));
  const [only] = found;
  if (only !== undefined && found.length === 1) return only;
  const why = found.length === 0 ? 'there is none' : `${found.length} begin so`;
  throw new KilnError('E_NO_SANDBOX', `no sandbox ${id === '' ? '""' : id}: ${why}`, {
    hint: '`kiln ps` lists them',
  });
}
