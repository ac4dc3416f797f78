import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test from 'ava';
import { execa } from 'execa';
import { commitProblems, newCommitProblems } from '../../scripts/check/commits.ts';

const BODY = '\n\nA claim never sweeps.';

test('a message with an imperative subject and a body that says why passes', (t) => {
  for (const subject of ['Sweep on claim', 'docs: name the option', 'Pass it on', 'Need no lock']) {
    t.deepEqual(commitProblems(`${subject}${BODY}`), [], subject);
  }
});

test('a faulty commit message is refused with the reason', (t) => {
  t.regex(commitProblems(`Sweep ${'x'.repeat(70)}${BODY}`).join(), /^the subject has 76 char/);
  for (const subject of ['Sweeps', 'Sweeping', 'Changed', 'docs: how to sweep', 'A sweep']) {
    t.regex(commitProblems(`${subject} sandboxes${BODY}`).join(), /not with a verb/, subject);
  }
  t.deepEqual(commitProblems('Sweep'), ['there is no body that says why']);
  t.deepEqual(commitProblems('Sweep\nmore\n\nbody'), ['the second line is not empty']);
});

test('a repository’s new commits are those that origin/main lacks', async (t) => {
  const top = mkdtempSync(join(tmpdir(), 'kiln-commits-'));
  t.teardown(() => rmSync(top, { recursive: true }));
  t.deepEqual(newCommitProblems(top), [], 'no repository');
  const identity = ['-c', 'user.name=a', '-c', 'user.email=a@example.org'];
  const git = (...args: string[]) => execa('git', [...identity, ...args], { cwd: top });
  const commit = (message: string) => git('commit', '--allow-empty', '-m', message);
  await git('init', '-b', 'main');
  await commit('Old ones are left alone');
  t.deepEqual(newCommitProblems(top), [], 'before the script');
  mkdirSync(join(top, 'scripts/check'), { recursive: true });
  writeFileSync(join(top, 'scripts/check/commits.ts'), '');
  await git('add', '.');
  await commit('Added the script');
  await commit('Changed it');
  // In CI there is nothing ahead of origin/main, or no such branch.
  t.regex(newCommitProblems(top).join('\n'), /^\w+ Changed it: the subject begins/);
  t.is(newCommitProblems(top).length, 2);
  await git('update-ref', 'refs/remotes/origin/main', 'HEAD');
  await commit(`Sweep${BODY}`);
  t.deepEqual(newCommitProblems(top), []);
  await commit('Sweep more');
  t.regex(newCommitProblems(top).join(), /^\w+ Sweep more: there is no body that says why$/);
});
