/** What somebody reads to understand a run: docs/processes.md names the files, which are to stay few. */
import { readFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import test from 'ava';

const top = join(import.meta.dirname, '../..');
const MOST = 60;

/** The files of the section, with the folder that is named before them. */
async function listed(): Promise<string[]> {
  const text = await readFile(join(top, 'docs/processes.md'), 'utf8');
  const [, section = ''] = text.split('## What to read\n');
  const rows = section.split('\n## ')[0]?.matchAll(/^\| `(src\/[^`]*\/)` \| (.*?) \|$/gm) ?? [];
  return [...rows].flatMap(([, folder = '', files = '']) =>
    [...files.matchAll(/`([\w/-]+\.[tch]s?)`/g)].map(([, file = '']) => join(folder, file)),
  );
}

test('a run is understood by reading at most sixty files, which are there', async (t) => {
  const files = await listed();
  t.true(files.length > MOST / 2 && files.length <= MOST, `${files.length} files`);
  t.is(new Set(files).size, files.length);
  for (const file of files) await t.notThrowsAsync(readFile(join(top, file)), file);
});

test('each file of a run is imported by one that is read before or after it', async (t) => {
  const files = (await listed()).filter((file) => file.endsWith('.ts'));
  const imported = new Set<string>();
  for (const file of files) {
    const text = await readFile(join(top, file), 'utf8');
    for (const [, path = ''] of text.matchAll(/from '(\.[^']*)'/g))
      imported.add(join(dirname(file), path));
  }
  const alone = files.filter((file) => !imported.has(file));
  t.deepEqual(alone, ['src/programs/kilnd.ts']);
});
