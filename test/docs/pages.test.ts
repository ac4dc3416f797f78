/** What holds for every page of the documentation. */
import { existsSync, readFileSync } from 'node:fs';
import { dirname, join, relative } from 'node:path';
import test from 'ava';
import { blocks, pages, TOP } from './blocks.ts';

const LONGEST = 250;

const read = (page: string): string => readFileSync(join(TOP, page), 'utf8');

/** A page's text without its code. */
const prose = (page: string): string =>
  read(page)
    .replaceAll(/^( *)```.*?^\1```$/gms, '')
    .replaceAll(/`[^`\n]*`/g, '``');

// What is generated into docs/reference is looked up, not read.
test(`no page is longer than ${LONGEST} lines`, (t) => {
  const written = pages().filter((page) => !page.startsWith('docs/reference/'));
  const long = written.filter((page) => read(page).trimEnd().split('\n').length > LONGEST);
  t.deepEqual(long, []);
});

test('every block of code names its language, and none is only indented', (t) => {
  const unnamed = pages().flatMap((page) =>
    blocks(page)
      .filter(({ language }) => language === '')
      .map(({ line }) => `${page}:${line}`),
  );
  t.deepEqual(unnamed, [], 'text, if it is no language: ```text');
  const indented = pages().filter((page) => /(?:^|\n)\n {4}\S/.test(prose(page)));
  t.deepEqual(indented, []);
});

/** The address that GitHub gives a heading. */
function anchor(heading: string): string {
  const plain = heading.replaceAll(/\[([^\]]*)\]\([^)]*\)/g, '$1').toLowerCase();
  return plain
    .replaceAll(/[^\p{L}\p{N}\s_-]/gu, '')
    .trim()
    .replaceAll(' ', '-');
}

test('every link between pages leads to a file and a heading', (t) => {
  const broken = pages().flatMap((page) =>
    [...prose(page).matchAll(/\]\((?!https?:)([^)#\s]*)(?:#([^)\s]+))?\)/g)]
      .filter(([, file = '', heading]) => {
        const target = file === '' ? page : relative(TOP, join(TOP, dirname(page), file));
        if (!existsSync(join(TOP, target))) return true;
        if (heading === undefined || !target.endsWith('.md')) return false;
        const headings = read(target).matchAll(/^#+ (.*)$/gm);
        return ![...headings].some(([, text = '']) => anchor(text) === heading);
      })
      .map(([link]) => `${page}: ${link}`),
  );
  t.deepEqual(broken, []);
});

test('the index names every page', (t) => {
  const index = read('docs/README.md');
  const missing = pages()
    .filter((page) => /^docs\/[^/]*\.md$/.test(page) && page !== 'docs/README.md')
    .filter((page) => !index.includes(`(${page.slice('docs/'.length)})`));
  t.deepEqual(missing, []);
});
