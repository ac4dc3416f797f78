import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import test from 'ava';
import { PATIENCE } from '../support/busybox-state.ts';
import { until } from '../support/eventually.ts';
import { bashIn, OWNER, sandboxTree } from './sandbox-tree.ts';

/** Every path below a directory with its content, links shown as such. */
const SHOW = `find . -mindepth 1 -type d -printf '%P/\\n' -o -type l -printf '%P -> %l\\n' -o -printf '%P ' -exec cat {} \\; | sort`;

test('files in the result folder stay, unless an artifact has their name', async (t) => {
  const tree = sandboxTree(t);
  tree.bash(`
    mkdir -p src/new/deep src/old; echo new > src/file; echo new > src/link; echo new > src/old/a
    echo new > src/new/deep/x; ln -s file src/ln
    mkdir -p ../out/src/old; cd ../out; echo mine > mine; echo mine > src/mine; echo old > src/file
    echo mine > src/old/mine; echo target > target; ln -s ../target src/link; ln -s nowhere src/ln`);
  await tree.collect(['src/**', 'src']);
  t.is(
    bashIn(join(tree.out, 'src'), SHOW),
    `file new
link new
ln -> file
mine mine
new/
new/deep/
new/deep/x new
old/
old/a new
old/mine mine
`,
  );
  t.is(
    bashIn(tree.out, 'cat mine target file; ls -A'),
    'mine\ntarget\nnew\nfile\nlink\nln\nmine\nnew\nold\nsrc\ntarget\n',
  );
});

test('if a folder would replace a file or link, or be replaced, nothing moves', async (t) => {
  const tree = sandboxTree(t);
  tree.bash(`mkdir -p b/x c z; echo f > a; echo f > z/q; mkdir -p ../elsewhere ../out/a
    cd ../out; echo f > b; ln -s ../elsewhere c; mkdir -p z; mkdir z/q`);
  for (const [pattern, message] of [
    ['a', /"a" .* is a folder, the artifact is a file/],
    ['b', /"b" .* is not a folder, the artifact is a folder/],
    ['c', /"c" .* is not a folder/],
    ['z', /"z\/q" .* is a folder/],
  ] as const) {
    tree.bash('echo 1 > ok');
    await t.throwsAsync(tree.collect([pattern, 'ok']), { code: 'E_RESULTDIR', message });
  }
  t.is(bashIn(tree.out, SHOW), 'a/\nb f\nc -> ../elsewhere\nz/\nz/q/\n');
  t.is(tree.bash('ls -A ../elsewhere'), '');
});

test('a new result folder and its new parents belong to the caller', async (t) => {
  const tree = sandboxTree(t);
  tree.bash('echo x > f');
  await tree.collect(['f'], { destination: `${tree.out}/deep/er` });
  const owners = bashIn(tree.out, `find . -printf '%P %U:%G %m\\n' | sort`);
  const own = `${OWNER.uid}:${OWNER.gid}`;
  t.is(owners, ` ${own} 755\ndeep ${own} 755\ndeep/er ${own} 755\ndeep/er/f ${own} 644\n`);
});

test('an unusable result folder is named', async (t) => {
  const tree = sandboxTree(t);
  tree.bash('echo x > f');
  for (const destination of ['/proc/nowhere', `${tree.root}/f`, `${tree.root}/f/below`]) {
    await t.throwsAsync(tree.collect(['f'], { destination }), { code: 'E_RESULTDIR' }, destination);
  }
});

test(`a full disk leaves the result folder unchanged`, async (t) => {
  const tree = sandboxTree(t);
  tree.bash(
    'echo new > a; head -c 12M /dev/urandom > big; mkdir c; cd c; for n in {1..300}; do head -c 20K /dev/urandom > $n; done; cd ..; mkdir ../out',
  );
  bashIn(tree.out, `mount -t tmpfs -o size=5m none ${tree.out}; echo old > ${tree.out}/a`);
  try {
    const error = await t.throwsAsync(tree.collect(['*']), { code: 'E_ARTIFACT_WRITE' });
    t.regex(error.message, /"big" cannot be written/);
    const small = await t.throwsAsync(tree.collect(['c']), { code: 'E_ARTIFACT_WRITE' });
    t.regex(small.message, /"c\/\d+" cannot be written/);
    t.regex(String((error as { hint?: string }).hint), /make room/);
    t.is(bashIn(tree.out, SHOW), 'a old\n');
  } finally {
    bashIn('/', `umount ${tree.out}`);
  }
});

test('an aborted collection stops and leaves nothing', async (t) => {
  const tree = sandboxTree(t);
  tree.bash('truncate -s 15G huge; head -c 1M /dev/urandom > data');
  const reason = new Error('enough');
  const controller = new AbortController();
  const collecting = tree.collect(['*'], { signal: controller.signal });
  let aborted = Number.POSITIVE_INFINITY;
  setTimeout(() => {
    aborted = performance.now();
    controller.abort(reason);
  }, 100);
  t.is(await t.throwsAsync(collecting), reason);
  // Hashing 15 GB takes several seconds.
  t.true(performance.now() - aborted < 3000 * PATIENCE);
  t.is(bashIn(tree.out, 'ls -A'), '');
});

test('the next collection clears what a killed one left, and no running one’s files', async (t) => {
  const tree = sandboxTree(t);
  tree.bash('truncate -s 15G huge; echo x > f');
  const child = () =>
    spawn(process.execPath, [join(import.meta.dirname, 'collect-child.ts'), tree.root, tree.out], {
      stdio: 'ignore',
    });
  const staged = () =>
    existsSync(tree.out) ? readdirSync(tree.out).filter((name) => name.startsWith('.kiln-')) : [];
  const [first, second] = [child(), child()];
  t.teardown(() => second.kill('SIGKILL'));
  await until(() => staged().length === 2);
  first.kill('SIGKILL');
  await once(first, 'exit');
  t.is(staged().length, 2);
  await tree.collect(['f']);
  t.is(staged().length, 1);
  t.is(second.exitCode, null);
  second.kill('SIGKILL');
  await once(second, 'exit');
  await tree.collect(['f']);
  t.is(bashIn(tree.out, SHOW), 'f x\n');
});

test('ten collections into one folder do not disturb each other', async (t) => {
  const tree = sandboxTree(t);
  tree.bash(
    'for i in {0..9}; do mkdir $i; head -c 300K /dev/urandom > $i/$i; echo s > $i/same; done',
  );
  await Promise.all(Array.from({ length: 10 }, (_, i) => tree.collect([`${i}/*`])));
  t.is(bashIn(tree.out, 'ls -A | tr "\\n" " "'), '0 1 2 3 4 5 6 7 8 9 same ');
  tree.bash('for i in {0..9}; do cmp $i/$i ../out/$i; done');
});
