import { globSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import test from 'ava';

const top = join(import.meta.dirname, '../..');

/** Text without code: names of files, fields and codes stay as they are. */
function prose(text: string): string {
  return text.replace(/^```[\s\S]*?^```/gm, '').replace(/`[^`\n]*`/g, '');
}

test('docs and recipes say sandbox, never box', (t) => {
  const pages = globSync(['*.md', 'docs/**/*.md', 'recipes/**/*.{yaml,ts,md}'], { cwd: top });
  t.true(pages.length > 40);
  const wrong = pages.filter((page) =>
    /(?<![-\w./])box(es)?(?![-\w/]|\.\w)/i.test(prose(readFileSync(join(top, page), 'utf8'))),
  );
  t.deepEqual(wrong, []);
});

test('code and scripts say sandbox, never box', (t) => {
  const files = globSync('{src,scripts}/**/*.{ts,c,h}', { cwd: top });
  t.true(files.length > 500);
  const wrong = files.filter((file) =>
    /(?<!sand|busy|virtual|mail|key|border-|view)box(?!-sizing)/i.test(
      readFileSync(join(top, file), 'utf8'),
    ),
  );
  t.deepEqual(wrong, []);
});
