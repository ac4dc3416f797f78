import { readdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import test from 'ava';

const source = join(import.meta.dirname, '../../src');

/** Folders whose modules write where others may write: results, local repositories, what a person names. */
const OUTSIDE =
  /^(?:artifacts|cli|serve|host\/trace|image\/archive|jobs|packages\/repository\/publish|result)/;

/** Calls that write to a path, and follow a link that somebody put there. */
const WRITES =
  /(?<!#)\b(?:writeFile|appendFile|copyFile|createWriteStream|truncate)(?:Sync)?\(|\bopen(?:Sync)?\([^)]*(?:'[wa]x?\+?'|'r\+'|O_WRONLY|O_RDWR)/;

/**
 * Modules that call them all the same, and why that is safe. Everything else uses host/files/folder.ts,
 * host/files/user-file.ts or artifacts/staging.ts.
 */
const SAFE: Readonly<Record<string, string>> = {
  'artifacts/staging.ts': 'to a descriptor of a new file',
  'jobs/recipe/sources.ts': 'below KILN_STATE',
  'jobs/mock/sources.ts': 'below KILN_STATE, and a new file (wx) in a new folder',
  'jobs/mock/export-key.ts': 'new files (wx) in a new folder in memory',
  'image/archive/packed.ts': 'a new file (wx) below KILN_STATE',
  'image/archive/export.ts': 'new files (wx) in a folder that was empty; a new part (O_EXCL)',
  'jobs/changes/ours.ts': 'in the folder of a sandbox on /run, which only root reaches',
  'jobs/run/disk-images.ts': 'a new file (wx) below KILN_STATE',
  'packages/repository/publish/pool.ts': 'a new file (COPYFILE_EXCL) in an open folder',
  'packages/repository/publish/repodata.ts': 'new files (wx) in an open folder',
  'packages/repository/publish/snapshot.ts': 'a new file (wx) in an open folder',
  'cli/images/image-transfer.ts': 'a new file (wx) below KILN_STATE',
  'host/trace/trace.ts': 'O_NOFOLLOW',
  'cli/mcp/calls.ts': 'into a sandbox, by the API',
  'cli/mcp/command.ts': 'into a sandbox, by the API',
};

test('modules that write where others may write follow no link', async (t) => {
  const names = await readdir(source, { recursive: true });
  const found: string[] = [];
  for (const name of names) {
    if (!name.endsWith('.ts') || !OUTSIDE.test(name)) continue;
    const text = await readFile(join(source, name), 'utf8');
    if (WRITES.test(text)) found.push(name);
  }
  t.deepEqual(found.sort(), Object.keys(SAFE).sort());
});
