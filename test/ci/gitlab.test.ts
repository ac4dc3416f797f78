/**
 * The custom executor, driven as GitLab's documentation says a runner does it: stages as programs of their own, scripts
 * as files, variables of the job with CUSTOM_ENV_ before their names, the runner's own exit codes in the environment.
 */

import { chownSync, mkdtempSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import anyTest, { type ExecutionContext, type TestFn } from 'ava';
import { eventually } from '../support/eventually.ts';
import { USER, type UserState, userState } from '../support/second-user.ts';

const test = anyTest as TestFn<UserState>;
const BUILD_FAILURE = 71;
const SYSTEM_FAILURE = 72;

test.before(async (t) => {
  t.context = await userState();
});
test.after.always(async ({ context }) => {
  await context[Symbol.asyncDispose]();
});

interface Runner {
  readonly folder: string;
  stage(...args: readonly string[]): Promise<{ status: unknown; out: string; err: string }>;
  script(text: string, stage: string): ReturnType<Runner['stage']>;
  /** What the configuration gave, as the runner uses it. */
  readonly config: { readonly builds_dir: string; readonly cache_dir: string };
}

/** A job of a runner of root's, or of a user's, up to and with its configuration. */
async function job(
  t: ExecutionContext<UserState>,
  { user = false, variables = {} }: { user?: boolean; variables?: Record<string, string> } = {},
): Promise<Runner> {
  const { as, kiln, home, beside, env: usual } = t.context;
  const folder = mkdtempSync(join(user ? home : beside, 'custom-executor-'));
  if (user) chownSync(folder, USER.uid, USER.gid);
  const env: Record<string, string> = {
    BUILD_FAILURE_EXIT_CODE: String(BUILD_FAILURE),
    SYSTEM_FAILURE_EXIT_CODE: String(SYSTEM_FAILURE),
    BUILD_EXIT_CODE_FILE: join(folder, 'status'),
    CUSTOM_ENV_CI_JOB_ID: '1234',
    ...Object.fromEntries(
      Object.entries(variables).map(([name, value]) => [`CUSTOM_ENV_${name}`, value]),
    ),
  };
  const stage: Runner['stage'] = async (...args) => {
    const argv = ['ci', 'gitlab', ...args];
    const { exitCode, stdout, stderr } = user
      ? await as(USER, argv, {
          cwd: folder,
          env: { PATH: process.env.PATH, KILN_STATE: t.context.paths.root, ...env },
        })
      : await kiln(argv, { cwd: folder, env: { ...usual, ...env } });
    return { status: exitCode, out: String(stdout), err: String(stderr) };
  };
  let scripts = 0;
  const script: Runner['script'] = async (text, name) => {
    const file = join(folder, `script${scripts++}`);
    writeFileSync(file, text, { mode: 0o700 });
    if (user) chownSync(file, USER.uid, USER.gid);
    return await stage('run', file, name);
  };
  const { status, out, err } = await stage('config');
  t.is(status, 0, err);
  const config = JSON.parse(out);
  Object.assign(env, config.job_env);
  return { folder, stage, script, config };
}

/** Waits until there are so many: the daemon removes some after it has told the caller. */
async function sandboxesAre(t: ExecutionContext<UserState>, count: number): Promise<void> {
  const listed = async () => JSON.parse(String((await t.context.kiln(['ps', '--json'])).stdout));
  t.true(await eventually(async () => (await listed()).length === count));
}

for (const user of [false, true]) {
  test.serial(
    `a job of ${user ? 'a user’s' : 'root’s'} runner passes from config to cleanup`,
    async (t) => {
      const { stage, script, config, folder } = await job(t, { user });
      const prepared = await stage('prepare', '--', '-r', 'busybox', '-e', 'FROM_RUNNER=set');
      t.is(prepared.status, 0, prepared.err);
      await sandboxesAre(t, 1);
      // A runner that could not tell how it ended prepares again.
      const again = await stage('prepare', '--', '-r', 'busybox', '-e', 'FROM_RUNNER=set');
      t.is(again.status, 0, again.err);
      await sandboxesAre(t, 1);
      const sources = await script(
        `mkdir -p ${config.builds_dir}/group/project ${config.cache_dir}/x; cd ${config.builds_dir}/group/project; echo code > file`,
        'get_sources',
      );
      t.is(sources.status, 0, sources.err);
      // The sandbox is the same, its user unprivileged, and the script no argument of anything.
      const build = await script(
        `cd ${config.builds_dir}/group/project; cat file; id -u; echo $FROM_RUNNER; echo oops >&2; ps`,
        'build_script',
      );
      t.is(build.status, 0, build.err);
      t.regex(build.out, /^code\n1000\nset\n/);
      t.notRegex(build.out, /group\/project/);
      t.regex(build.err, /^oops$/m);
      const failed = await script('exit 3', 'build_script');
      t.is(failed.status, BUILD_FAILURE, failed.err);
      if (!user) t.is(readFileSync(join(folder, 'status'), 'utf8'), '3\n');
      t.is((await script('cat /builds/group/project/file', 'after_script')).out, 'code');
      t.is((await stage('run', join(folder, 'nowhere'), 'after_script')).status, SYSTEM_FAILURE);
      t.is((await stage('cleanup')).status, 0);
      await sandboxesAre(t, 0);
      // A runner cleans up after each job, also after one that was never prepared.
      t.is((await stage('cleanup')).status, 0);
      t.is((await script('true', 'after_script')).status, SYSTEM_FAILURE);
    },
  );
}

test.serial('a script for bash is run by bash', async (t) => {
  const { stage, script } = await job(t);
  const binds = ['/usr', '/lib', '/lib64'].flatMap((path) => ['--bind', `${path}:${path}:ro`]);
  const prepared = await stage(
    'prepare',
    '--',
    '-r',
    'busybox',
    '-e',
    'PATH=/bin:/usr/bin',
    ...binds,
  );
  t.is(prepared.status, 0, prepared.err);
  const said = await script(
    'set -o pipefail; set -- one; [[ $1 == o* ]] && echo two',
    'build_script',
  );
  t.is(said.out, 'two', said.err);
  await stage('cleanup');
});

test.serial('jobs cannot affect each other, whatever variables they set', async (t) => {
  const [mine, other] = [await job(t), await job(t)];
  for (const { stage } of [mine, other])
    t.is((await stage('prepare', '--', '-r', 'busybox')).status, 0);
  await mine.script('echo secret > /tmp/mine', 'build_script');
  t.is((await other.script('cat /tmp/mine 2>/dev/null || echo none', 'build_script')).out, 'none');
  await other.stage('cleanup');
  t.is((await mine.script('cat /tmp/mine', 'build_script')).out, 'secret');
  await mine.stage('cleanup');
  // The token comes from config, not from what a job can set.
  const { stage } = await job(t, { variables: { KILN_CI_JOB: 'x'.repeat(36) } });
  t.is((await stage('cleanup')).status, 0);
});

test.serial('a job can name an image that the runner lists, and no other', async (t) => {
  const listed = await job(t, { variables: { CI_JOB_IMAGE: 'busybox' } });
  const prepared = await listed.stage('prepare', '--allow-image', 'busybox', '--', '-r', 'nowhere');
  t.is(prepared.status, 0, prepared.err);
  await listed.stage('cleanup');
  const recipe = await job(t, { variables: { CI_JOB_IMAGE: '/tmp/evil.ts' } });
  const refused = await recipe.stage('prepare', '--allow-image', 'busybox', '--', '-r', 'busybox');
  t.is(refused.status, SYSTEM_FAILURE);
  t.regex(refused.err, /the job names the image \/tmp\/evil\.ts, which this runner does not list/);
  await sandboxesAre(t, 0);
});

test.serial('an option that kiln cannot meet is a system failure', async (t) => {
  const { stage } = await job(t);
  for (const options of [
    ['-r', 'no-such-image'],
    ['--no-such-option'],
    ['-r', 'busybox', '-u', 'nobody-here'],
  ]) {
    const { status, err } = await stage('prepare', '--', ...options);
    t.is(status, SYSTEM_FAILURE, err);
    t.notRegex(err, /internal error/);
  }
  await sandboxesAre(t, 0);
  // Without the configuration's token, nothing is touched.
  const { exitCode, stderr } = await t.context.kiln(['ci', 'gitlab', 'cleanup']);
  t.is(exitCode, 125);
  t.regex(
    String(stderr),
    /KILN_CI_JOB does not say which job it is \[E_\w+\]\n {2}hint: in config\.toml/,
  );
});
