import { mkdir, mkdtemp, readdir, readFile, rm, stat, symlink, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test, { type ExecutionContext } from 'ava';
import { execa } from 'execa';
import { ownPath } from '../../src/host/files/held.ts';
import { ResultFiles, resultsIn } from '../../src/jobs/rpmbuild/outcome/result-files.ts';

async function folder(t: ExecutionContext): Promise<string> {
  const path = await mkdtemp(join(tmpdir(), 'kiln-results-'));
  t.teardown(() => rm(path, { recursive: true }));
  return path;
}

const owner = { uid: process.getuid?.() ?? 0, gid: process.getgid?.() ?? 0 };

test('a log that is too long continues compressed, and gzip reads the rest', async (t) => {
  const directory = await folder(t);
  const line = `${'x'.repeat(99)}\n`;
  {
    using files = await ResultFiles.open(ownPath(directory), owner, { plain: 1000, rest: 1e6 });
    for (let count = 0; count < 50; count++) files.append('build.log', Buffer.from(line));
    files.append('root.log', Buffer.from(line));
  }
  const plain = await readFile(join(directory, 'build.log'), 'utf8');
  t.is(plain, `${line.repeat(11)}\n[kiln: build.log goes on in build.log.rest.gz]\n`);
  const { stdout } = await execa('gzip', ['-dc', join(directory, 'build.log.rest.gz')]);
  t.is(`${stdout}\n`, line.repeat(39));
  t.false((await readdir(directory)).includes('root.log.rest.gz'));
  // The next build's log has no rest of this one's.
  (await ResultFiles.open(ownPath(directory), owner))[Symbol.dispose]();
  t.false((await readdir(directory)).includes('build.log.rest.gz'));
});

test('the rest of a log is bounded, and its last line says so', async (t) => {
  const directory = await folder(t);
  {
    using files = await ResultFiles.open(ownPath(directory), owner, { plain: 10, rest: 1000 });
    for (let count = 0; count < 40; count++) {
      files.append('build.log', Buffer.alloc(100_000, `line ${count} `));
    }
  }
  const { stdout } = await execa('gzip', ['-dc', join(directory, 'build.log.rest.gz')]);
  t.true(stdout.endsWith('\n[kiln: the log ends here: its rest is 1000 bytes long]'));
  t.true(stdout.length < 40 * 100_000);
});

test('results among sources: the result folder, and files of builds, are known', async (t) => {
  const sources = await folder(t);
  const out = join(sources, 'a/out');
  await mkdir(out, { recursive: true });
  await symlink(out, join(sources, 'link'));
  const inner = resultsIn(ownPath(join(sources, 'link')), sources);
  t.true(inner('a/out', await stat(out, { bigint: true })));
  t.false(inner('a', await stat(join(sources, 'a'), { bigint: true })));
  await writeFile(join(sources, 'old-1-1.noarch.rpm'), '');
  const same = resultsIn(ownPath(sources), join(sources, '.'));
  const stats = await stat(out, { bigint: true });
  for (const name of ['build.log', 'result.json', 'hw_info.log', 'old-1-1.noarch.rpm']) {
    t.true(same(name, stats), name);
  }
  for (const name of ['hello.c', 'a/build.log', 'a/old.rpm']) t.false(same(name, stats), name);
});
