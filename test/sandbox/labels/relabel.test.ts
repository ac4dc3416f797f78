import { openSync } from 'node:fs';
import { link, mkdir, mkdtemp, readFile, rm, symlink, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test from 'ava';
import { execa } from 'execa';
import { closing } from '../../../src/host/calls/descriptor.ts';
import {
  hasContext,
  labelFile,
  refuseSystemDirectory,
  relabelTree,
} from '../../../src/sandbox/labels/relabel.ts';

const CONTEXT = 'system_u:object_r:container_file_t:s0:c3,c5';

/** What getfattr(1) says of a name itself; links are not followed. */
async function context(path: string): Promise<string> {
  const { stdout } = await execa(
    'getfattr',
    [...['--no-dereference', '--absolute-names', '--only-values', '-n', 'security.selinux', path]],
    { reject: false },
  );
  return stdout.replace(/\0$/, '');
}

async function folder(): Promise<{ path: string } & AsyncDisposable> {
  const path = await mkdtemp(join(tmpdir(), 'kiln-relabel-'));
  return { path, [Symbol.asyncDispose]: () => rm(path, { recursive: true }) };
}

test('a tree gets a context, and so do its links, but not their targets', async (t) => {
  await using made = await folder();
  const [tree, outside] = [join(made.path, 'tree'), join(made.path, 'outside')] as const;
  await mkdir(join(tree, 'a/b/c'), { recursive: true });
  await mkdir(outside);
  await writeFile(join(outside, 'secret'), '');
  await writeFile(join(tree, 'a/b/file'), '');
  await symlink('../../outside/secret', join(tree, 'a/link'));
  await symlink('../outside', join(tree, 'folder'));
  await execa('mkfifo', [join(tree, 'a/fifo')]);
  const strange = Buffer.concat([Buffer.from(`${tree}/a/`), Buffer.from([0xff, 0x0a])]);
  await writeFile(strange, '');
  await relabelTree(tree, CONTEXT);
  for (const name of ['.', 'a', 'a/b', 'a/b/c', 'a/b/file', 'a/link', 'folder', 'a/fifo']) {
    t.is(await context(join(tree, name)), CONTEXT, name);
  }
  t.not(await context(outside), CONTEXT);
  t.not(await context(join(outside, 'secret')), CONTEXT);
  const { stdout } = await execa('getfattr', ['-R', '-h', '-n', 'security.selinux', '.'], {
    cwd: join(tree, 'a'),
    encoding: 'latin1',
    reject: false,
  });
  t.regex(stdout, /\xff\\012\nsecurity\.selinux="system_u:object_r:container_file_t/);
});

test('files of a file system mounted in a tree keep their label', async (t) => {
  const module = join(import.meta.dirname, '../../../src/sandbox/labels/relabel.ts');
  const script = `set -e
mount -t tmpfs tmpfs "$1"; mkdir "$1/in" "$1/plain"; mount -t tmpfs tmpfs "$1/in"; touch "$1/in/file"
"$2" --input-type=module -e "import { relabelTree } from '${module}'; await relabelTree('$1', '${CONTEXT}')"
getfattr --absolute-names -n security.selinux "$1/plain" "$1/in/file" 2>&1`;
  await using made = await folder();
  const { all } = await execa(
    'unshare',
    ['-m', 'sh', '-c', script, 'sh', made.path, process.execPath],
    {
      all: true,
      reject: false,
    },
  );
  t.regex(all, /plain\nsecurity\.selinux="system_u:object_r:container_file_t:s0:c3,c5"/);
  t.regex(all, /in\/file: security\.selinux: No such attribute/);
});

test('a link or a folder of the system is refused, or labelled itself', async (t) => {
  await using made = await folder();
  const [file, other] = [join(made.path, 'file'), join(made.path, 'other')] as const;
  await writeFile(file, 'content');
  await symlink(file, other);
  labelFile(other, CONTEXT);
  t.false(hasContext(file, CONTEXT));
  t.true(hasContext(other, CONTEXT));
  await link(file, join(made.path, 'hard'));
  await relabelTree(file, CONTEXT);
  t.true(hasContext(file, CONTEXT));
  t.is(await readFile(file, 'utf8'), 'content');
  await symlink('/etc', join(made.path, 'etc'));
  for (const path of ['/', '/usr', '/etc/', '/home', join(made.path, 'etc')]) {
    using opened = closing(openSync(path, 'r'));
    t.throws(() => refuseSystemDirectory(path, opened.fd), { code: 'E_RELABEL' }, path);
  }
  using opened = closing(openSync(made.path, 'r'));
  t.notThrows(() => refuseSystemDirectory(made.path, opened.fd));
  await t.throwsAsync(relabelTree('/proc/self', CONTEXT), { code: 'E_RELABEL' });
});
