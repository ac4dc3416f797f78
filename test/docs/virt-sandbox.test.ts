/** What docs/virt-sandbox.md calls kiln's word for an option of 2012 is one. */
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import test from 'ava';

const DOCS = join(import.meta.dirname, '../../docs');

/** The page of docs/reference, which is written from the command line, of the command in `words`. */
function pageOf(words: readonly string[]): string | undefined {
  const pages = readdirSync(join(DOCS, 'reference'));
  const names = [words.slice(0, 3), words.slice(0, 2)].map((some) => `${some.join('-')}.md`);
  const page = names.find((name) => pages.includes(name));
  return page && readFileSync(join(DOCS, 'reference', page), 'utf8');
}

const cells = readFileSync(join(DOCS, 'virt-sandbox.md'), 'utf8')
  .split('\n')
  .filter((line) => line.startsWith('|'))
  .flatMap((line) => [...line.matchAll(/`(kiln [^`]+)`/g)].map(([, words = '']) => words));

test('each command and option that stands for one of virt-sandbox exists', (t) => {
  t.true(cells.length > 40, `${cells.length} commands`);
  for (const cell of cells) {
    const words = cell.replace(/^kiln --host \S+/, 'kiln').split(' ');
    const page = pageOf(words);
    t.truthy(page, cell);
    for (const option of words.filter((word) => word.startsWith('--'))) {
      t.regex(page ?? '', new RegExp(`${option}[ \`\\[]`), cell);
    }
  }
});
