/** What a caller names is held under its name: nobody looks the name up again. */
import {
  mkdirSync,
  mkdtempSync,
  readFileSync,
  renameSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test from 'ava';
import { foundAt } from '../../src/host/files/held.ts';
import { ownOpener } from '../../src/host/files/opener.ts';
import { readUserFile } from '../../src/host/files/user-file.ts';
import { HeldPaths } from '../../src/users/held-paths.ts';

function folder(): Disposable & { readonly path: string } {
  const path = mkdtempSync(join(tmpdir(), 'kiln-names-'));
  return { path, [Symbol.dispose]: () => rmSync(path, { recursive: true }) };
}

function caller(): HeldPaths {
  const owner = { uid: 0, gid: 0 };
  const options = { opener: ownOpener(owner), cwd: () => '/', owner, warn: () => undefined };
  return new HeldPaths({ ...options, makeFolder: undefined });
}

const read = (path: string, below?: string) =>
  readUserFile(path, 100, 'file', below).toString('utf8');

/** A folder of a repository that is put in another one's place. */
function replace(path: string, by: string): void {
  renameSync(path, `${path}.old`);
  symlinkSync(by, path);
}

function tree(top: string): { readonly mine: string; readonly roots: string } {
  const [mine, roots] = [join(top, 'mine'), join(top, 'roots')];
  for (const each of [mine, roots]) {
    mkdirSync(join(each, 'repo'), { recursive: true });
    writeFileSync(join(each, 'repo/file'), each === mine ? 'mine' : 'roots');
  }
  return { mine, roots };
}

test('a name means what was there when its caller gave it, whatever is put in its place', async (t) => {
  using top = folder();
  const { mine, roots } = tree(top.path);
  await using paths = caller();
  await paths.holdName(mine);
  replace(mine, roots);
  t.is(read(join(mine, 'repo/file')), 'mine');
  t.is(read(join(mine, 'repo/file'), mine), 'mine');
  t.is(readFileSync(foundAt(join(mine, 'repo/file')), 'utf8'), 'mine');
  t.is(paths.renamed(foundAt(join(mine, 'repo/file'))), join(mine, 'repo/file'));
  // Without links in its name, it is the same folder.
  using other = folder();
  symlinkSync(join(top.path, 'roots'), join(other.path, 'link'));
  await paths.holdName(join(other.path, 'link'));
  replace(roots, `${mine}.old`);
  t.is(read(join(other.path, 'link/repo/file')), 'roots');
  t.is(read(join(roots, 'repo/file'), roots), 'roots');
});

test('no link of a held folder leads out of it, where none may', async (t) => {
  using top = folder();
  const { mine, roots } = tree(top.path);
  await using paths = caller();
  await paths.holdName(mine);
  symlinkSync(join(roots, 'repo/file'), join(mine, 'out'));
  symlinkSync('repo/file', join(mine, 'in'));
  t.throws(() => read(join(mine, 'out'), mine), { message: /EXDEV/ });
  t.is(read(join(mine, 'in'), mine), 'mine');
  t.is(read(join(mine, 'out')), 'roots');
});

test('a name whose file was missing stays missing, even if the file is made later', async (t) => {
  using top = folder();
  await using paths = caller();
  const later = join(top.path, 'later');
  await paths.holdName(later);
  mkdirSync(later);
  writeFileSync(join(later, 'file'), 'later');
  t.throws(() => read(join(later, 'file')), { code: 'ENOENT' });
});

test('a name is its caller’s until the caller’s job is over', async (t) => {
  using top = folder();
  const { mine, roots } = tree(top.path);
  const file = join(mine, 'repo/file');
  {
    await using paths = caller();
    await paths.holdName(mine);
    await paths.holdName(join(mine, 'repo'));
    {
      await using second = caller();
      await second.holdName(mine);
      t.is(read(file), 'mine');
    }
    replace(mine, roots);
    t.is(read(file), 'mine');
  }
  t.is(foundAt(file), file);
  t.is(read(file), 'roots');
});
