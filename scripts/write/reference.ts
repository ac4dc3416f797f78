/** Writes docs/reference, and the list of man pages in package.json, from the options; a test compares. */
import { mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describedByDefault } from './describe.ts';
import { pageName, withPages } from './man.ts';
import { guidePages } from './man-guides.ts';
import { referencePages } from './markdown.ts';

export const REFERENCE = join(import.meta.dirname, '../../docs/reference');

/** Those that scripts/write/api-reference.ts writes. */
export const API_PAGES = /^api(?:-\w+)?\.md$/;

if (import.meta.main) {
  mkdirSync(REFERENCE, { recursive: true });
  const pages = referencePages(await describedByDefault());
  for (const name of readdirSync(REFERENCE)) {
    if (!API_PAGES.test(name) && !pages.has(name)) rmSync(join(REFERENCE, name));
  }
  for (const [name, text] of pages) writeFileSync(join(REFERENCE, name), text);
  const file = join(REFERENCE, '../../package.json');
  const text = readFileSync(file, 'utf8');
  const names = ['kiln', ...withPages(await describedByDefault()).map(pageName)].sort();
  const guides = [...guidePages({ date: '', version: '' }).keys()].sort();
  const files = [...names.map((name) => `${name}.1`), ...guides];
  const man = files.map((name) => `\n    "dist/man/man${name.at(-1)}/${name}"`).join(',');
  writeFileSync(file, text.replace(/"man": \[[^\]]*\]/, `"man": [${man}\n  ]`));
}
