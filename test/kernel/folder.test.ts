import { closeSync, writeSync } from 'node:fs';
import { lstat, mkdir, mkdtemp, readdir, readFile, rm, symlink, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test, { type ExecutionContext } from 'ava';
import { execa } from 'execa';
import { tryLock } from '../../src/host/files/flock.ts';
import { Folder, makeDirectory } from '../../src/host/files/folder.ts';
import { ownPath } from '../../src/host/files/held.ts';
import { writeUserFile } from '../../src/host/files/user-file.ts';

/** A folder in which somebody put links to a file and a folder beside it, and a fifo. */
async function planted(t: ExecutionContext) {
  const top = await mkdtemp(join(tmpdir(), 'kiln-folder-'));
  t.teardown(() => rm(top, { recursive: true }));
  const [path, victim, other] = [join(top, 'folder'), join(top, 'victim'), join(top, 'other')];
  await mkdir(path);
  await mkdir(other);
  await writeFile(victim, 'untouched');
  await symlink(victim, join(path, 'link'));
  await symlink(join(top, 'new'), join(path, 'dangling'));
  await symlink(other, join(path, 'inner'));
  await execa('mkfifo', [join(path, 'fifo')]);
  const untouched = async () => {
    t.is(await readFile(victim, 'utf8'), 'untouched');
    t.deepEqual((await readdir(top)).sort(), ['folder', 'other', 'victim']);
    t.deepEqual(await readdir(other), []);
  };
  return { path, untouched };
}

test('planted links and fifos are replaced, not followed', async (t) => {
  const { path, untouched } = await planted(t);
  using folder = Folder.open(path);
  for (const name of ['link', 'dangling', 'fifo']) {
    t.throws(() => folder.create(name), { message: /EEXIST/ }, name);
    t.is(folder.read(name, 100), undefined, name);
    t.false(folder.has(name), name);
    folder.replace(name, 'mine');
    t.is(folder.read(name, 100), 'mine');
    t.true((await lstat(join(path, name))).isFile());
    folder.remove(name);
    const fd = folder.create(name);
    writeSync(fd, 'again');
    closeSync(fd);
  }
  t.throws(() => folder.inner('inner'), { message: /ENOTDIR|ELOOP/ });
  t.is(folder.existing('inner'), undefined);
  await untouched();
});

test('links and fifos are errors, as a lock and as a file that a person names', async (t) => {
  const { path, untouched } = await planted(t);
  for (const name of ['link', 'dangling', 'fifo']) {
    const file = join(path, name);
    await t.throwsAsync(() => tryLock(file), { message: /ELOOP|not a file/ }, name);
    t.throws(
      () => writeUserFile(ownPath(file), 'x'),
      { message: /ELOOP|ENXIO|not a regular/ },
      name,
    );
  }
  t.throws(() => writeUserFile(ownPath('/dev/null'), 'x'), { message: /not a regular/ });
  await untouched();
});

test('missing folders are made with owner and mode, never through a link', async (t) => {
  const { path, untouched } = await planted(t);
  await execa('chmod', ['2775', path]);
  const owner = { uid: 1234, gid: 1235 };
  makeDirectory(join(path, 'a/b'), owner);
  makeDirectory(join(path, 'a/b'), { uid: 0, gid: 0 });
  for (const made of ['a', 'a/b']) {
    const { stdout } = await execa('stat', ['-c', '%u:%g %a', join(path, made)]);
    t.is(stdout, '1234:1235 2755', made);
  }
  t.throws(() => makeDirectory(join(path, 'dangling/x'), owner), { message: /ENOTDIR|ELOOP/ });
  await untouched();
  // A folder that a person names may be a link.
  makeDirectory(join(path, 'inner'), owner);
  await untouched();
});
