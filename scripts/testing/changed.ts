/** The tests that a change concerns, for `scripts/test --changed`. */
import { execFileSync } from 'node:child_process';
import { existsSync, globSync, readFileSync } from 'node:fs';
import { dirname, join, relative } from 'node:path';

/** Checks of the tree as a whole: each takes moments, and any change can break one. */
const ALWAYS = 'test/architecture/**';

/** Files of the checkout that differ from where this branch left origin/main, new ones included. */
function changedFiles(top: string): string[] {
  const git = (...args: string[]): string[] =>
    execFileSync('git', args, { cwd: top, encoding: 'utf8' }).split('\n').filter(Boolean);
  const [base = 'HEAD'] = git('merge-base', 'origin/main', 'HEAD');
  return [
    ...git('diff', '--name-only', base),
    ...git('ls-files', '--others', '--exclude-standard'),
  ];
}

/** The modules that a module imports, relative to the checkout. */
function importsOf(top: string, file: string): string[] {
  if (!existsSync(join(top, file))) return [];
  const text = readFileSync(join(top, file), 'utf8');
  return [...text.matchAll(/(?:from|import\()\s*'(\.[^']+\.ts)'/g)].map(([, path = '']) =>
    relative(top, join(top, dirname(file), path)),
  );
}

/**
 * Test files that changed, or import a changed file directly or through others; the folder of test/ for each
 * changed folder of src, since many tests start kiln as a program; and the tests of pages for a changed page.
 *
 * @throws where git or origin/main is missing
 */
export function changedTests(
  top: string,
  changed: readonly string[] = changedFiles(top),
): string[] {
  const touched = new Set(changed);
  const known = new Map<string, boolean>();
  const concerns = (file: string): boolean => {
    const before = known.get(file);
    if (before !== undefined) return before;
    // Modules that import each other end here.
    known.set(file, touched.has(file));
    const result = touched.has(file) || importsOf(top, file).some(concerns);
    known.set(file, result);
    return result;
  };
  const folders = new Set(
    changed.filter((file) => file.startsWith('src/')).flatMap((file) => dirname(file).split('/')),
  );
  if (changed.some((file) => file.endsWith('.md'))) folders.add('docs');
  const tests = globSync('test/**/*.test.ts', { cwd: top }).filter(
    (file) => concerns(file) || folders.has(file.split('/')[1] ?? ''),
  );
  return [ALWAYS, ...tests.sort()];
}
