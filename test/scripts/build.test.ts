import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import test from 'ava';
import { execa } from 'execa';

const top = join(import.meta.dirname, '../..');
const dist = join(top, 'dist');

/** The chunks that a file of the bundle loads, now or later, with those that they load. */
async function chunksOf(file: string, found = new Set<string>()): Promise<Set<string>> {
  const text = await readFile(join(dist, file), 'utf8');
  for (const [, name = ''] of text.matchAll(/require\("\.\/([\w.-]+\.cjs)"\)/g)) {
    if (found.has(name)) continue;
    found.add(name);
    await chunksOf(name, found);
  }
  return found;
}

test('every chunk of the bundle can be loaded, even those that are rarely needed', async (t) => {
  await execa(process.execPath, [join(top, 'scripts/build.ts')]);
  const entries = ['kiln.cjs', 'kilnd.cjs', 'kilnd-worker.cjs', 'confined.cjs', 'index.cjs'];
  const chunks = new Set<string>();
  for (const entry of entries) for (const chunk of await chunksOf(entry)) chunks.add(chunk);
  const texts = await Promise.all([...chunks].map((name) => readFile(join(dist, name), 'utf8')));
  t.true(chunks.size > 20, String(chunks.size));
  // Under the LGPL: loaded from node_modules, where anybody can put a version of their own.
  t.true(texts.some((text) => /(require|import)\("openpgp"\)/.test(text)));
  t.false(
    texts.some((text) => text.includes('PGP MESSAGE, PART')),
    'openpgp is inside',
  );
  const files = [...chunks]
    .filter((name) => !entries.includes(name))
    .map((name) => join(dist, name));
  const load = 'for (const file of process.argv.slice(1)) require(file)';
  const { exitCode, stderr } = await execa(process.execPath, ['-e', load, ...files], {
    reject: false,
  });
  t.is(exitCode, 0, stderr);
});
