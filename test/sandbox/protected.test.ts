/** What a command can leave in a bound folder for its caller's own tools. The oracle is the caller's git. */
import {
  existsSync,
  lstatSync,
  mkdirSync,
  readFileSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import anyTest, { type TestFn } from 'ava';
import { execa } from 'execa';
import { type BusyboxState, busyboxState, IMAGE } from '../support/busybox-state.ts';

interface World {
  readonly state: BusyboxState;
  /** A checkout with a commit. */
  readonly checkout: string;
}
const test = anyTest as TestFn<World>;

const git = (folder: string, ...args: readonly string[]) =>
  execa('git', ['-C', folder, '-c', 'user.name=a', '-c', 'user.email=a@b', ...args]);

let made = 0;
let state: BusyboxState;
test.before(async () => {
  state = await busyboxState();
});
test.beforeEach(async (t) => {
  const checkout = join(state.beside, `checkout${made++}`);
  mkdirSync(join(checkout, '.vscode'), { recursive: true });
  writeFileSync(join(checkout, '.vscode/tasks.json'), '{}');
  writeFileSync(join(checkout, '.envrc'), 'export A=1\n');
  await git(checkout, 'init', '-q');
  await git(checkout, 'add', '.');
  await git(checkout, 'commit', '-qm', 'first');
  t.context = { state, checkout };
});
test.after.always(() => state[Symbol.asyncDispose]());

/** The image has no links for these. */
const TOOLS = 'mv() { busybox mv "$@"; }; chmod() { busybox chmod "$@"; };';

async function inside({ checkout }: World, script: string, ...options: readonly string[]) {
  const words = ['run', '-r', IMAGE, '--bind', `${checkout}:/src`, ...options];
  const ran = await state.kiln([...words, '--', 'sh', '-c', `${TOOLS} cd /src; ${script}`]);
  return { code: ran.exitCode, out: String(ran.stdout), said: String(ran.stderr) };
}

/** Whether the caller's git runs a program of the command's: a hook, or what its configuration names. */
async function gitRuns({ checkout }: World): Promise<boolean> {
  const sign = join(state.beside, 'sign');
  await git(checkout, 'status').catch(() => undefined);
  await git(checkout, 'commit', '-q', '--allow-empty', '-m', 'next').catch(() => undefined);
  return existsSync(sign);
}

/** Each is a way to have the caller's git, editor or shell run `touch SIGN`. */
const ATTEMPTS: Readonly<Record<string, string>> = {
  'a hook':
    'printf "#!/bin/sh\\ntouch $SIGN\\n" > .git/hooks/pre-commit; chmod 755 .git/hooks/pre-commit',
  'a changed configuration': 'printf "[core]\\nfsmonitor = touch $SIGN #\\n" >> .git/config',
  'a new configuration in its place': 'echo > new; mv new .git/config',
  'another .git': 'mv .git old; mkdir -p .git/hooks; cp -r old/* .git/',
  'no .git': 'rm -rf .git/hooks .git/config .git',
  'a mount taken away': 'umount .git/hooks .git/config .git; echo "[a]" > .git/config',
  'another .envrc': 'echo "touch $SIGN" > .envrc; mv .envrc x; echo x > .envrc',
  'a task of the editor': 'echo x > .vscode/tasks.json; echo y > .vscode/new; mv .vscode v',
};

for (const [name, script] of Object.entries(ATTEMPTS)) {
  test.serial(`a command cannot leave ${name} to the caller’s tools`, async (t) => {
    const { checkout } = t.context;
    const before = (path: string) => readFileSync(join(checkout, path), 'utf8');
    const kept = ['.git/config', '.envrc', '.vscode/tasks.json'];
    const contents = kept.map(before);
    const env = ['--env', `SIGN=${join(state.beside, 'sign')}`, '--user', '0'];
    const { said } = await inside(t.context, `${script}; echo work > result`, ...env);
    t.deepEqual(kept.map(before), contents, said);
    t.false(existsSync(join(checkout, '.vscode/new')));
    t.false(await gitRuns(t.context));
    t.is(before('result'), 'work\n', said);
  });
}

test.serial('git works in a bound checkout', async (t) => {
  const { checkout } = t.context;
  // What git itself does there when it commits.
  const script =
    'cp .git/HEAD .git/HEAD.lock && mv .git/HEAD.lock .git/HEAD; mkdir .git/objects/zz';
  const { code, said } = await inside(t.context, script);
  t.is(code, 0, said);
  t.is(said, '');
  t.true(existsSync(join(checkout, '.git/objects/zz')));
});

test.serial('--protect adds paths, and --no-protect leaves only these', async (t) => {
  const { checkout } = t.context;
  writeFileSync(join(checkout, 'Makefile'), 'all:\n');
  const script = 'echo x > Makefile; echo y > .envrc';
  await inside(t.context, script, '--protect', 'Makefile', '--no-protect');
  t.is(readFileSync(join(checkout, 'Makefile'), 'utf8'), 'all:\n');
  t.is(readFileSync(join(checkout, '.envrc'), 'utf8'), 'y\n');
  const wrong = await inside(t.context, 'true', '--protect', '../x');
  t.is(wrong.code, 125);
  t.regex(wrong.said, /give a path below the bound folder/);
});

test.serial('a .git file in place of a .git folder is protected', async (t) => {
  const { checkout } = t.context;
  const tree = `${checkout}-tree`;
  await git(checkout, 'worktree', 'add', '-q', tree);
  const { said } = await inside({ state, checkout: tree }, 'echo gitdir: /x > .git; rm .git');
  t.regex(readFileSync(join(tree, '.git'), 'utf8'), /^gitdir: .*\/worktrees\//, said);
});

test.serial('a run names the protected paths that its command created or replaced', async (t) => {
  const { checkout } = t.context;
  symlinkSync('elsewhere', join(checkout, '.mcp.json'));
  const quiet = await inside(t.context, 'true');
  t.is(quiet.said, '');
  const script = 'mkdir x; echo x > .git/commondir; rm .mcp.json; echo {} > .mcp.json';
  const { code, said } = await inside(t.context, script);
  t.is(code, 0);
  for (const name of ['.git/commondir', '.mcp.json']) {
    t.true(said.includes(`"${join(checkout, name)}" is not as it was`), said);
  }
  t.true(lstatSync(join(checkout, '.mcp.json')).isFile());
});
