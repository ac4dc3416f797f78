/** What holds for every page of the documentation. */
import { existsSync, readFileSync } from 'node:fs';
import { dirname, join, relative } from 'node:path';
import test from 'ava';
import { blocks, pages, TOP } from './blocks.ts';

const LONGEST = 250;
const WIDEST = 120;

// What is generated is looked up, not read.
const written = () =>
  pages().filter((page) => !/^docs\/(reference\/|errors\.md$|doors\.md$)/.test(page));

const read = (page: string): string => readFileSync(join(TOP, page), 'utf8');

/** A page's text without its code. */
const prose = (page: string): string =>
  read(page)
    .replaceAll(/^( *)```.*?^\1```$/gms, '')
    .replaceAll(/`[^`\n]*`/g, '``');

test(`no page is longer than ${LONGEST} lines`, (t) => {
  const long = pages().filter((page) => read(page).trimEnd().split('\n').length > LONGEST);
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

test('every link between pages leads to an existing file and heading', (t) => {
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

test('lines fit a terminal, except in tables and code', (t) => {
  const wide = written().flatMap((page) =>
    read(page)
      .replaceAll(/^( *)```.*?^\1```$/gms, (block) => block.replaceAll(/[^\n]/g, ''))
      .split('\n')
      .flatMap((line, index) =>
        line.length <= WIDEST || /^\s*[|#<[]/.test(line) ? [] : [`${page}:${index + 1}`],
      ),
  );
  t.deepEqual(wide, []);
});

/** What a build makes. */
const GENERATED = ['src/api/io-kiln.ts'];

test('every path of the repository that a page names exists', (t) => {
  const missing = written().flatMap((page) =>
    [
      ...read(page).matchAll(
        /`((?:src|test|scripts|docs|recipes|fixtures|units|policy)\/[\w./-]+)`/g,
      ),
    ]
      .map(([, path = '']) => path)
      .filter((path) => !existsSync(join(TOP, path)) && !GENERATED.includes(path))
      .map((path) => `${page}: ${path}`),
  );
  t.deepEqual(missing, []);
});
