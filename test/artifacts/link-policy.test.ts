import { mkdirSync, readdirSync, realpathSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import test from 'ava';
import fc from 'fast-check';
import { sandboxTree } from './sandbox-tree.ts';

/** What every tree has, unless a link has taken the place. */
const SKELETON = ['a/', 'a/b/', 'a/b/f', 'a/f', 'c/', 'c/f', 'f'];
const DIRECTORIES = ['', 'a', 'a/b', 'c'];
const NAMES = ['l', 'm', 'n', 'b', 'c'];

const component = fc.constantFrom(...NAMES, 'a', 'b', 'c', 'f');
const target = fc
  .record({
    root: fc.constantFrom('', '', '', '', '', '', '', '/'),
    ups: fc.array(fc.constant('..'), { maxLength: 3 }),
    down: fc.array(component, { maxLength: 3 }),
    ups2: fc.oneof(
      { weight: 3, arbitrary: fc.constant([]) },
      fc.array(fc.constant('..'), { maxLength: 4 }),
    ),
    last: fc.array(component, { maxLength: 1 }),
  })
  .map(({ root, ups, down, ups2, last }) => root + [...ups, ...down, ...ups2, ...last].join('/'))
  .filter((path) => path !== '');
const link = fc.tuple(fc.constantFrom(...DIRECTORIES), fc.constantFrom(...NAMES), target);
const links = fc.array(link, { minLength: 3, maxLength: 12 });

/** Does nothing where a link, or the lack of a directory, is in the way. */
function attempt(make: () => void): void {
  try {
    make();
  } catch (error) {
    const { code = '' } = error as NodeJS.ErrnoException;
    if (!['EEXIST', 'ENOENT', 'ENOTDIR', 'ELOOP'].includes(code)) throw error;
  }
}

function build(top: string, content: readonly (readonly [string, string, string])[]): void {
  mkdirSync(top);
  const isReal = (path: string) => realpathSync(join(top, path)) === join(realpathSync(top), path);
  for (const directory of DIRECTORIES) {
    attempt(() => mkdirSync(join(top, directory)));
    for (const [parent, name, to] of content) {
      if (parent !== directory) continue;
      attempt(() => isReal(parent) && symlinkSync(to, join(top, parent, name)));
    }
  }
  for (const path of SKELETON) {
    const parent = path
      .split('/')
      .slice(0, path.endsWith('/') ? -2 : -1)
      .join('/');
    attempt(() => {
      if (!isReal(parent)) return;
      if (path.endsWith('/')) mkdirSync(join(top, path));
      else writeFileSync(join(top, path), 'f', { flag: 'wx' });
    });
  }
}

/** Node's own recursive readdir follows links. */
function linksBelow(directory: string): string[] {
  return readdirSync(directory, { withFileTypes: true }).flatMap((entry) => {
    const path = join(directory, entry.name);
    if (entry.isSymbolicLink()) return [path];
    return entry.isDirectory() ? linksBelow(path) : [];
  });
}

test('no link in the results leads out, whatever two hostile sandboxes leave', async (t) => {
  const sandbox = sandboxTree(t);
  let [run, made, kept, both] = [0, 0, 0, 0];
  await fc.assert(
    fc.asyncProperty(links, links, async (first, second) => {
      run += 1;
      const destination = `${sandbox.out}/${run}/results`;
      for (const [index, content] of [first, second].entries()) {
        const top = `${run}.${index}`;
        build(join(sandbox.root, top), content);
        made += linksBelow(join(sandbox.root, top)).length;
        try {
          await sandbox.collect([`${top}/.`], { destination });
          both += index;
        } catch (error) {
          // A link where a directory is may be refused: then the second adds nothing.
          if ((error as { code?: string }).code !== 'E_RESULTDIR') throw error;
        }
      }
      const inside = realpathSync(destination);
      for (const path of linksBelow(destination)) {
        kept += 1;
        let real = inside;
        attempt(() => {
          real = realpathSync(path);
        });
        if (real !== inside && !real.startsWith(`${inside}/`)) throw new Error(`${path}: ${real}`);
      }
    }),
    { numRuns: 150 },
  );
  t.true(kept > 30 && kept < made && both > 50, `${kept} of ${made} links, ${both} twice`);
});
