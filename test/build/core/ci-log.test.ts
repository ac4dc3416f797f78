/** A log comes from strangers, and a CI service reads orders from it: none of a package's is obeyed. */
import test, { type ExecutionContext } from 'ava';
import { PATIENCE } from '../../support/busybox-state.ts';
import { GithubRunner, gitlabSections } from '../../support/ci-runner.ts';
import { type BuildState, buildState, sourcePackage } from './build-state.ts';

let state: BuildState;

test.before(async (t) => {
  t.timeout(300_000 * PATIENCE);
  state = await buildState('noarch');
});
test.after.always(() => state[Symbol.asyncDispose]());

/** Orders to GitHub and GitLab, as a shell's words that print them. */
const ORDERS = [
  '::stop-commands::mine',
  '  ::add-mask::kiln',
  'text ##[add-mask]kiln',
  '::error file=forged.c,line=1::forged',
  '::endgroup::',
];
const shown = (order: string) => `printf '%s\\n' '${order}'`;
const MARKERS =
  "printf '\\033[0Ksection_end:1:kiln_compile\\r\\033[0K\\033[0Ksection_start:1:forged\\r\\033[0K\\n'";

/** A package that gives orders before its first section, in each, in a line that does not end, and in what fails. */
async function evil(name: string, isFailing: boolean): Promise<string> {
  const all = [...ORDERS.map(shown), MARKERS].join('\n');
  // The macros are expanded whenever the spec is read; nothing of a section runs then.
  const macros = ORDERS.map((order) => `%{echo:${order}}`).join('\n');
  return await sourcePackage(state.directory, {
    name,
    preamble: `BuildArch: noarch\n${macros}`,
    prep: all,
    build: `${all}\nprintf 'no end of a line ::add-mask::kiln'`,
    check: `${all}\nprintf '::add-mask::kiln'${isFailing ? '; false' : ''}`,
  });
}

async function build(path: string, env: NodeJS.ProcessEnv, ...options: string[]) {
  const out = await state.fresh();
  const words = ['build', '-r', state.recipe, '--resultdir', out, ...options, path];
  const { stdout, stderr } = await state.images.kiln(words, {
    env: { ...state.images.env, ...env },
    stripFinalNewline: false,
  });
  return { out: String(stdout), err: String(stderr) };
}

/** Whatever the order of the two outputs: of stderr nothing is obeyed, of stdout what kiln itself says. */
function obeys(t: ExecutionContext, { out, err }: { out: string; err: string }): GithubRunner {
  const orders = new GithubRunner().read(err);
  t.deepEqual(orders.executed, [], err);
  t.false(orders.isStopped);
  const runner = new GithubRunner().read(out);
  t.false(runner.isStopped, 'what comes after kiln is obeyed again');
  for (const line of runner.open) t.is(line, '', 'nothing of the log is outside');
  for (const line of runner.executed) t.notRegex(line, /mask|forged/);
  return runner;
}

for (const [title, env, options] of [
  ['by its own variable', { GITHUB_ACTIONS: 'true' }, []],
  ['by --ci', {}, ['--ci', 'github']],
] as const) {
  test.serial(
    `GitHub, ${title}: each phase is a group, and the error comes after them`,
    async (t) => {
      t.timeout(120_000 * PATIENCE);
      const seen = await build(await evil('evil', true), env, ...options);
      const { executed } = obeys(t, seen);
      const groups = executed.filter((line) => /^::(end)?group::/.test(line));
      t.deepEqual(
        groups,
        ['prep', 'compile', 'install', 'check'].flatMap((part) => [
          `::group::${part}`,
          '::endgroup::',
        ]),
      );
      t.regex(executed[groups.length] ?? '', /^::error title=evil-1-1%3A check::%25check failed/);
      // What is in a group is of that part.
      const [, compile = ''] = /::group::compile\n([\s\S]*?)::endgroup::/.exec(seen.out) ?? [];
      t.regex(compile, /^::stop-commands::\S+\nExecuting\(%build\): /);
      const [, ...tokens] = seen.out.split('::stop-commands::').map((it) => it.slice(0, 36));
      t.is(new Set(tokens.filter((token) => /^[0-9a-f-]{36}$/.test(token))).size, 5);
    },
  );
}

test.serial('GitHub, --ci none: a log gives GitHub no commands either', async (t) => {
  t.timeout(120_000 * PATIENCE);
  const path = await evil('plain', true);
  const seen = await build(path, { GITHUB_ACTIONS: 'true' }, '--ci', 'none');
  t.deepEqual(obeys(t, seen).executed, []);
  t.regex(seen.out, /::stop-commands::mine/, 'the log is as it is');
  const quiet = await build(path, { GITHUB_ACTIONS: 'true' }, '--quiet');
  for (const line of obeys(t, quiet).executed) t.regex(line, /^::error title=/);
});

test.serial('GitLab: a package cannot open or close sections', async (t) => {
  t.timeout(120_000 * PATIENCE);
  const { out, err } = await build(await evil('evil', true), { GITLAB_CI: 'true' });
  t.deepEqual(gitlabSections(err), []);
  t.deepEqual(
    gitlabSections(out),
    ['prep', 'compile', 'install', 'check'].flatMap((part) => [
      `start kiln_${part}`,
      `end kiln_${part}`,
    ]),
  );
  t.regex(out, /section_start\\x3a1:forged/);
});
