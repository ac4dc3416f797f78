import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import test from 'ava';
import { execa } from 'execa';
import { changedTests } from '../../scripts/testing/changed.ts';

test('the tests of what changed since origin/main are found by imports and folders', async (t) => {
  const top = mkdtempSync(join(tmpdir(), 'kiln-changed-'));
  t.teardown(() => rmSync(top, { recursive: true }));
  const write = (file: string, text: string) => {
    mkdirSync(join(top, dirname(file)), { recursive: true });
    writeFileSync(join(top, file), text);
  };
  write('src/rpm/low.ts', '');
  write('src/rpm/high.ts', "import './other.ts'; import { a } from './low.ts';");
  write('src/image/tar.ts', '');
  write('test/support/help.ts', "import { b } from '../../src/rpm/high.ts';");
  write('test/cli/far.test.ts', "import { help } from '../support/help.ts';");
  write('test/image/tar.test.ts', "const { c } = await import('../../src/image/tar.ts');");
  write('test/rpm/program.test.ts', '');
  write('test/docs/pages.test.ts', '');
  const git = (...args: string[]) =>
    execa('git', ['-c', 'user.name=a', '-c', 'user.email=a@example.org', ...args], { cwd: top });
  await git('init', '-b', 'main');
  await git('add', '.');
  await git('commit', '-m', 'Begin');
  await git('update-ref', 'refs/remotes/origin/main', 'HEAD');
  t.deepEqual(changedTests(top), ['test/architecture/**']);
  write('src/rpm/low.ts', 'export const a = 1;');
  const rpm = ['test/architecture/**', 'test/cli/far.test.ts', 'test/rpm/program.test.ts'];
  t.deepEqual(changedTests(top), rpm);
  await git('commit', '-am', 'Change');
  t.deepEqual(changedTests(top), rpm, 'a commit is a change as well');
  write('docs/new.md', '');
  t.true(changedTests(top).includes('test/docs/pages.test.ts'), 'a file that git does not know');
});
