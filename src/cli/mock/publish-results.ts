import { readdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { Folder } from '../../host/files/folder.ts';
import { openWorkDirectory } from '../../image/store/work-directory.ts';
import { publishRepository } from '../../packages/repository/publish/snapshot.ts';
import type { MockSession } from './session.ts';

/**
 * createrepo_on_rpms: makes a repository of the packages in a result directory. createrepo_c does not run: kiln
 * reads the packages in a confined child and writes the metadata itself.
 * @throws KilnError E_RPM_FORMAT, E_RPM_DIGEST, E_REPOSITORY_COLLISION
 */
export async function publishResults(
  { caller, engine, signal }: MockSession,
  directory: string,
): Promise<void> {
  await using work = await openWorkDirectory(engine.paths);
  using results = Folder.open(directory);
  const packages = results.names().filter((name) => name.endsWith('.rpm'));
  const files = packages.map((name) => ({ path: join(directory, name) }));
  await using snapshot = await publishRepository(join(work.path, 'repository'), files, { signal });
  const made = join(snapshot.path, 'repodata');
  // repomd.xml comes last, because it names the others.
  const names = (await readdir(made)).sort();
  using repodata = results.inner('repodata', caller.ids);
  for (const name of names) repodata.replace(name, await readFile(join(made, name)), caller.ids);
  for (const name of repodata.names()) if (!names.includes(name)) repodata.remove(name);
}
