import { execFileSync } from 'node:child_process';
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test, { type ExecutionContext } from 'ava';
import { KilnError } from '../../src/errors.ts';
import { removeTree, removeTreeNow } from '../../src/host/files/remove-tree.ts';
import { makeDeepTree, perl } from '../support/deep-tree.ts';

/** A folder of the test's own; the host's `rm` removes what is left of it. */
function scratch(t: ExecutionContext): string {
  const directory = mkdtempSync(join(tmpdir(), 'kiln-remove-'));
  t.teardown(() => {
    execFileSync('rm', ['-rf', '--', directory]);
  });
  return directory;
}

test.serial('a tree with paths longer than PATH_MAX is removed', async (t) => {
  const directory = scratch(t);
  for (const levels of [20, 3000]) {
    makeDeepTree(join(directory, 'deep'), levels);
    await removeTree(join(directory, 'deep'));
    t.deepEqual(readdirSync(directory), []);
  }
  makeDeepTree(join(directory, 'deep'), 100);
  removeTreeNow(Buffer.from(join(directory, 'deep')));
  t.deepEqual(readdirSync(directory), []);
});

test.serial('removal takes few descriptors, however deep and wide the tree is', async (t) => {
  const directory = scratch(t);
  makeDeepTree(join(directory, 'deep'), 500);
  perl(join(directory, 'deep'), 'for (1..3000) { mkdir "w$_"; open F, ">", "w$_/f" }');
  let most = 0;
  const timer = setInterval(() => {
    most = Math.max(most, readdirSync('/proc/self/fd').length);
  }, 1);
  t.teardown(() => clearInterval(timer));
  const before = readdirSync('/proc/self/fd').length;
  await removeTree(join(directory, 'deep'));
  t.true(most > 0);
  t.true(most - before < 60, `${most - before} descriptors`);
  t.deepEqual(readdirSync(directory), []);
});

test.serial(
  'links are removed, not followed; names are bytes; a missing tree is fine',
  async (t) => {
    const directory = scratch(t);
    const kept = join(directory, 'kept');
    mkdirSync(kept);
    writeFileSync(join(kept, 'file'), '');
    const tree = join(directory, 'tree');
    mkdirSync(join(tree, 'inner'), { recursive: true });
    symlinkSync(kept, join(tree, 'inner', 'link'));
    symlinkSync(kept, join(directory, 'top'));
    perl(tree, String.raw`mkdir "\xff\n"; open F, ">", "\xff\n/\xfe"; system("mkfifo", "pipe")`);
    await removeTree(tree);
    await removeTree(join(directory, 'top'));
    await removeTree(join(directory, 'nothing'));
    await removeTree(join(directory, 'nothing', 'below'));
    t.deepEqual(readdirSync(directory), ['kept']);
    t.true(existsSync(join(kept, 'file')));
  },
);

test.serial('removal does not enter a mount, and names what is left', async (t) => {
  const directory = scratch(t);
  const tree = join(directory, 'tree');
  mkdirSync(join(tree, 'a', 'mounted'), { recursive: true });
  execFileSync('mount', ['-t', 'tmpfs', 'tmpfs', join(tree, 'a', 'mounted')]);
  t.teardown(() => {
    execFileSync('umount', [join(tree, 'a', 'mounted')]);
  });
  writeFileSync(join(tree, 'a', 'mounted', 'theirs'), '');
  writeFileSync(join(tree, 'a', 'file'), '');
  mkdirSync(join(tree, 'b'));
  const error = await t.throwsAsync(removeTree(tree), { instanceOf: KilnError });
  t.is((error as KilnError).code, 'E_REMOVE');
  t.regex(error.message, /tree\/a\/mounted \(EXDEV\)$/);
  t.true(existsSync(join(tree, 'a', 'mounted', 'theirs')));
  t.deepEqual(readdirSync(join(tree, 'a')), ['mounted']);
  t.deepEqual(readdirSync(tree), ['a']);
});

test.serial('several processes may remove one tree at once', async (t) => {
  const directory = scratch(t);
  makeDeepTree(join(directory, 'deep'), 400);
  perl(join(directory, 'deep'), 'for (1..2000) { mkdir "w$_"; open F, ">", "w$_/f" }');
  await Promise.all([1, 2, 3].map(() => removeTree(join(directory, 'deep'))));
  t.deepEqual(readdirSync(directory), []);
});
