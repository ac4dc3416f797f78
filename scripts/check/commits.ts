/**
 * Holds new commits to CONTRIBUTING.md: a subject of at most 72 characters in the imperative, and a body that
 * says why. `npm run check` runs it. New is what origin/main has not; where that is nothing, as in CI, the last
 * commits, as far as they came after this script. A tree without git has nothing to check.
 */
import { execFileSync } from 'node:child_process';
import { join } from 'node:path';

const LONGEST_SUBJECT = 72;
const LAST = 20;

/** Words that end like another form of a verb, and are none. */
const IMPERATIVE =
  /^(address|pass|process|discuss|access|compress|focus|express|guess|bypass|miss|press|embed|need|feed|speed|seed|shed|bring|ring|string|spring|ping)$/;

/** How no imperative begins. */
const NO_VERB =
  /^(an?|the|this|that|these|it|its|what|when|where|who|how|why|nothing|nobody|some|more|all|every|each|no|not|members|users)$/;

/** What is wrong with a commit's message; nothing where it is as it should be. */
export function commitProblems(message: string): string[] {
  const [subject = '', second = '', ...body] = message.trimEnd().split('\n');
  // `docs: name the option`: the area comes first.
  const word = /^(?:[\w/-]+: )?(?<word>\w*)/.exec(subject)?.groups?.word?.toLowerCase() ?? '';
  const otherForm = /(ed|ing|[^s]s)$/.test(word) && !IMPERATIVE.test(word);
  return [
    ...(subject.length > LONGEST_SUBJECT ? [`the subject has ${subject.length} characters`] : []),
    ...(otherForm || NO_VERB.test(word) || word === ''
      ? [`the subject begins with “${word}”, not with a verb in the imperative`]
      : []),
    ...(second !== '' ? ['the second line is not empty'] : []),
    ...(body.join('').trim() === '' ? ['there is no body that says why'] : []),
  ];
}

/** The new commits of a checkout with what is wrong with them, as `HASH SUBJECT: PROBLEM`. */
export function newCommitProblems(top: string): string[] {
  const git = (...args: string[]): string =>
    execFileSync('git', args, { cwd: top, encoding: 'utf8', stdio: ['ignore', 'pipe', 'ignore'] });
  const log = (...range: string[]): string[] =>
    git('log', '--no-merges', '--format=%h%n%B%x00', ...range)
      .split('\0')
      .map((entry) => entry.trim())
      .filter((entry) => entry !== '');
  const commits = ((): string[] => {
    try {
      const ahead = log('origin/main..HEAD');
      if (ahead.length > 0) return ahead;
    } catch {
      // No such branch, or no repository: the last commits, or none.
    }
    try {
      const file = 'scripts/check/commits.ts';
      const [added = ''] = git('log', '--diff-filter=A', '--format=%H', '--', file).split('\n');
      return added === '' ? [] : log(`-${LAST}`, `${added}..HEAD`);
    } catch {
      return [];
    }
  })();
  return commits.flatMap((entry) => {
    const end = entry.indexOf('\n');
    const message = entry.slice(end + 1);
    const [subject] = message.split('\n');
    return commitProblems(message).map((it) => `${entry.slice(0, end)} ${subject}: ${it}`);
  });
}

if (import.meta.main) {
  const problems = newCommitProblems(join(import.meta.dirname, '../..'));
  for (const problem of problems) process.stderr.write(`${problem}\n`);
  if (problems.length > 0) {
    process.stderr.write('git commit --amend, or git rebase -i origin/main, changes a message.\n');
    process.exitCode = 1;
  }
}
